"""Every policy with the settings it is tried with. The first setting of each is its default.

Peers get what makes them good: metrics of this very second, and every target that could suit. A setting is a plain
value, so that a run can be described by names and made anew in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.autoscale.policies.aibrix import Apa, Kpa, mean_in_flight, mean_kv_usage
from bench.autoscale.policies.hpa import Behaviour, Hpa, Keda, ProductionStack, count_in_flight, count_waiting
from bench.autoscale.policies.knative import DEFAULT_TARGET, Knative
from bench.autoscale.policies.kthena import Kthena
from bench.autoscale.policies.kubeai import KubeAi
from bench.autoscale.policies.llmos import Llmos
from bench.autoscale.policies.ray_serve import RayServe
from bench.autoscale.policies.references import Clairvoyant, Static
from bench.autoscale.policies.wva import Wva
from bench.autoscale.profiles import Profile
from bench.autoscale.simulation import Policy
from bench.autoscale.traces import Arrival
from llmos_operator.planning.scaling import ScalingPolicy

IN_FLIGHT = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)
"""Targets for requests in flight for each replica."""
KV_SHARES = (0.5, 0.1, 0.15, 0.2, 0.3, 0.4, 0.7)
HIGHEST = 64
"""maxReplicas of every policy."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a policy may know of its run. Only the clairvoyant uses the arrivals."""

    profile: Profile
    arrivals: Sequence[Arrival]
    cold_start_s: float
    initial: int
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to set a policy."""

    label: str
    build: Callable[..., Policy]
    """Called with the Context."""


def _knative() -> list[Setting]:
    return [Setting(f"target {target:g}", lambda _, t=target: Knative(t)) for target in (DEFAULT_TARGET, *IN_FLIGHT)]


def _hpa() -> list[Setting]:
    return [
        Setting(
            f"in flight {target:g}, down {down_s:g} s",
            lambda _, t=target, d=down_s: Hpa(t, count_in_flight, Behaviour(stabilisation_s=d)),
        )
        for down_s in (300.0, 60.0)
        for target in IN_FLIGHT
    ]


def _keda() -> list[Setting]:
    waiting = [Setting(f"waiting {t:g}", lambda _, t=t: Keda(t, count_waiting)) for t in (5.0, 1.0, 2.0, 10.0)]
    return waiting + [Setting(f"in flight {t:g}", lambda _, t=t: Keda(t, count_in_flight)) for t in IN_FLIGHT]


def _aibrix_apa() -> list[Setting]:
    by_kv = [
        Setting(f"KV {t:g}{name}", lambda _, t=t, r=is_reversed: Apa(t, mean_kv_usage, is_reversed=r))
        for is_reversed, name in ((True, ""), (False, ", stabilisation corrected"))
        for t in KV_SHARES
    ]
    return by_kv + [
        Setting(f"in flight {t:g}{name}", lambda _, t=t, r=is_reversed: Apa(t, mean_in_flight, is_reversed=r))
        for is_reversed, name in ((True, ""), (False, ", stabilisation corrected"))
        for t in IN_FLIGHT
    ]


def _aibrix_kpa(is_corrected: bool) -> list[Setting]:
    by_kv = [Setting(f"KV {t:g}", lambda _, t=t: Kpa(t, mean_kv_usage, is_corrected=is_corrected)) for t in KV_SHARES]
    return by_kv + [
        Setting(f"in flight {t:g}", lambda _, t=t: Kpa(t, mean_in_flight, is_corrected=is_corrected)) for t in IN_FLIGHT
    ]


def _kubeai() -> list[Setting]:
    shipped = [Setting(f"target {t:g}", lambda _, t=t: KubeAi(t)) for t in (100.0, *IN_FLIGHT)]
    return shipped + [
        Setting(
            f"target {t:g}, window {window_s:g} s, interval {interval_s:g} s, down {down_s:g} s",
            lambda _, t=t, w=window_s, i=interval_s, d=down_s: KubeAi(
                t, interval_s=i, window_s=w, scale_down_delay_s=d
            ),
        )
        for window_s, interval_s, down_s in ((60.0, 10.0, 30.0), (10.0, 1.0, 30.0), (30.0, 1.0, 300.0))
        for t in IN_FLIGHT
    ]


def _wva() -> list[Setting]:
    return [
        Setting(
            f"KV {kv:g}, queue {queue:g}, loop {loop_s:g} s",
            lambda _, k=kv, q=queue, s=loop_s: Wva(kv=k, queue=q, loop_s=s),
        )
        for loop_s in (60.0, 30.0)
        for kv, queue in ((0.80, 5.0), (0.6, 5.0), (0.4, 5.0), (0.3, 3.0), (0.2, 2.0))
    ]


def _kthena() -> list[Setting]:
    return [
        Setting(
            f"in flight {t:g}, up {up_s:g} s, down {down_s:g} s",
            lambda _, t=t, u=up_s, d=down_s: Kthena(t, up_window_s=u, down_window_s=d),
        )
        for up_s, down_s in ((60.0, 300.0), (0.0, 60.0))
        for t in IN_FLIGHT
    ]


def _production_stack() -> list[Setting]:
    return [
        Setting(f"thresholds x {scale:g}", lambda _, s=scale: ProductionStack(s))
        for scale in (1.0, 3.0, 6.0, 10.0, 20.0, 40.0, 60.0, 80.0, 120.0, 200.0)
    ]


def _ray_serve() -> list[Setting]:
    return [
        Setting(
            f"target {t:g}, up {up_s:g} s, down {down_s:g} s",
            lambda _, t=t, u=up_s, d=down_s: RayServe(t, upscale_delay_s=u, downscale_delay_s=d),
        )
        for up_s, down_s in ((30.0, 600.0), (5.0, 60.0))
        for t in IN_FLIGHT
    ]


def _llmos() -> list[Setting]:
    return [
        Setting("nothing set", lambda c: _build_llmos(c, utilization=None, objective=None)),
        *(
            Setting(f"utilization {share:g}", lambda c, u=share: _build_llmos(c, utilization=u, objective=None))
            for share in (0.4, 0.5, 0.6, 0.7, 0.9, 1.0)
        ),
        *(
            Setting(f"slo x {share:g}", lambda c, s=share: _build_llmos(c, utilization=None, objective=s))
            for share in (1.0, 2.0, 1.4, 0.7, 0.5, 0.35)
        ),
    ]


def _build_llmos(context: Context, *, utilization: float | None, objective: float | None) -> Llmos:
    policy = ScalingPolicy(
        min_replicas=1,
        max_replicas=HIGHEST,
        queue_depth=None,
        utilization=utilization,
        ttft_s=None if objective is None else context.ttft_s * objective,
        tpot_s=None if objective is None else context.tpot_s * objective,
        scale_down_delay_s=60.0,
        scale_to_zero_after_s=600.0,
    )
    return Llmos(policy, context.initial)


def _static() -> list[Setting]:
    return [Setting(f"{n}", lambda _, n=n: Static(n)) for n in (*range(1, 17), 20, 24, 28, 32, 40)]


def _clairvoyant() -> list[Setting]:
    return [
        Setting(f"utilization {share:g}", lambda c, u=share: Clairvoyant(c.profile, c.arrivals, c.cold_start_s, u))
        for share in (0.75, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    ]


OURS = "llmos"
REFERENCES = ("static", "clairvoyant")
POLICIES: dict[str, Callable[[], list[Setting]]] = {
    OURS: _llmos,
    "knative": _knative,
    "hpa": _hpa,
    "keda": _keda,
    "aibrix-apa": _aibrix_apa,
    "aibrix-kpa": lambda: _aibrix_kpa(is_corrected=False),
    "aibrix-kpa-corrected": lambda: _aibrix_kpa(is_corrected=True),
    "kubeai": _kubeai,
    "wva": _wva,
    "kthena": _kthena,
    "production-stack": _production_stack,
    "ray-serve": _ray_serve,
    "static": _static,
    "clairvoyant": _clairvoyant,
}
