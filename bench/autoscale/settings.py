"""Every policy with the settings it is tried with. The first setting of each is its default.

Peers get what makes them good: metrics of this very second, and every target that could suit. A setting is a plain
value, so that a run can be described by names and made anew in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

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

IN_FLIGHT = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0)
"""Targets for requests in flight for each replica."""
WITHOUT_DEFAULT = (16.0, *(target for target in IN_FLIGHT if target != 16.0))
"""The same for policies without a default; the first is shown as one."""
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


def _fix(build: Callable[..., Policy], *values: Any, **options: Any) -> Callable[[Context], Policy]:
    """Return a builder that needs nothing of the run."""

    def build_fixed(_: Context) -> Policy:
        return build(*values, **options)

    return build_fixed


def _knative() -> list[Setting]:
    return [Setting(f"target {target:g}", _fix(Knative, target)) for target in (DEFAULT_TARGET, *IN_FLIGHT)]


def _hpa() -> list[Setting]:
    # A behaviour remembers, so each run needs its own.
    def build(target: float, down_s: float) -> Policy:
        return Hpa(target, count_in_flight, Behaviour(stabilisation_s=down_s))

    return [
        Setting(f"in flight {target:g}, down {down_s:g} s", _fix(build, target, down_s))
        for down_s in (300.0, 60.0)
        for target in WITHOUT_DEFAULT
    ]


def _keda() -> list[Setting]:
    waiting = [Setting(f"waiting {target:g}", _fix(Keda, target, count_waiting)) for target in (5.0, 1.0, 2.0, 10.0)]
    return waiting + [Setting(f"in flight {target:g}", _fix(Keda, target, count_in_flight)) for target in IN_FLIGHT]


def _aibrix_apa() -> list[Setting]:
    metrics = (("KV", mean_kv_usage, KV_SHARES), ("in flight", mean_in_flight, IN_FLIGHT))
    return [
        Setting(f"{name} {target:g}{suffix}", _fix(Apa, target, metric, is_reversed=is_reversed))
        for name, metric, targets in metrics
        for is_reversed, suffix in ((True, ""), (False, ", stabilisation corrected"))
        for target in targets
    ]


def _aibrix_kpa(is_corrected: bool) -> list[Setting]:
    metrics = (("KV", mean_kv_usage, KV_SHARES), ("in flight", mean_in_flight, IN_FLIGHT))
    return [
        Setting(f"{name} {target:g}", _fix(Kpa, target, metric, is_corrected=is_corrected))
        for name, metric, targets in metrics
        for target in targets
    ]


def _kubeai() -> list[Setting]:
    shipped = [Setting(f"target {target:g}", _fix(KubeAi, target)) for target in (100.0, *IN_FLIGHT)]
    return shipped + [
        Setting(
            f"target {target:g}, window {window_s:g} s, interval {interval_s:g} s, down {down_s:g} s",
            _fix(KubeAi, target, interval_s=interval_s, window_s=window_s, scale_down_delay_s=down_s),
        )
        for window_s, interval_s, down_s in ((60.0, 10.0, 30.0), (10.0, 1.0, 30.0), (30.0, 1.0, 300.0))
        for target in IN_FLIGHT
    ]


def _wva() -> list[Setting]:
    return [
        Setting(f"KV {kv:g}, queue {queue:g}, loop {loop_s:g} s", _fix(Wva, kv=kv, queue=queue, loop_s=loop_s))
        for loop_s in (60.0, 30.0)
        for kv, queue in ((0.80, 5.0), (0.6, 5.0), (0.4, 5.0), (0.3, 3.0), (0.2, 2.0))
    ]


def _kthena() -> list[Setting]:
    return [
        Setting(
            f"in flight {target:g}, up {up_s:g} s, down {down_s:g} s",
            _fix(Kthena, target, up_window_s=up_s, down_window_s=down_s),
        )
        for up_s, down_s in ((60.0, 300.0), (0.0, 60.0))
        for target in WITHOUT_DEFAULT
    ]


def _production_stack() -> list[Setting]:
    scales = (1.0, 3.0, 6.0, 10.0, 20.0, 40.0, 60.0, 80.0, 120.0, 200.0)
    return [Setting(f"thresholds x {scale:g}", _fix(ProductionStack, scale)) for scale in scales]


def _ray_serve() -> list[Setting]:
    return [
        Setting(
            f"target {target:g}, up {up_s:g} s, down {down_s:g} s",
            _fix(RayServe, target, upscale_delay_s=up_s, downscale_delay_s=down_s),
        )
        for up_s, down_s in ((30.0, 600.0), (5.0, 60.0))
        for target in (2.0, *(target for target in IN_FLIGHT if target != 2.0))
    ]


def _llmos() -> list[Setting]:
    return [
        Setting("nothing set", _build_llmos),
        *(
            Setting(f"utilization {share:g}", partial(_build_llmos, utilization=share))
            for share in (0.4, 0.5, 0.6, 0.7, 0.9, 1.0)
        ),
        *(
            Setting(f"slo x {share:g}", partial(_build_llmos, objective=share))
            for share in (1.0, 4.0, 2.0, 1.4, 0.7, 0.5, 0.35)
        ),
    ]


def _build_llmos(context: Context, *, utilization: float | None = None, objective: float | None = None) -> Llmos:
    """Build ours: `objective` is the SLO that it is told, as a multiple of the one that is scored."""
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
    return [Setting(f"{n}", _fix(Static, n)) for n in (*range(1, 17), 20, 24, 28, 32, 40)]


def _clairvoyant() -> list[Setting]:
    def build(context: Context, utilization: float) -> Policy:
        return Clairvoyant(context.profile, context.arrivals, context.cold_start_s, utilization)

    shares = (0.75, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
    return [Setting(f"utilization {share:g}", partial(build, utilization=share)) for share in shares]


OURS = "llmos"
REFERENCES = ("static", "clairvoyant")
POLICIES: dict[str, Callable[[], list[Setting]]] = {
    OURS: _llmos,
    "knative": _knative,
    "hpa": _hpa,
    "keda": _keda,
    "aibrix-apa": _aibrix_apa,
    "aibrix-kpa": partial(_aibrix_kpa, is_corrected=False),
    "aibrix-kpa-corrected": partial(_aibrix_kpa, is_corrected=True),
    "kubeai": _kubeai,
    "wva": _wva,
    "kthena": _kthena,
    "production-stack": _production_stack,
    "ray-serve": _ray_serve,
    "static": _static,
    "clairvoyant": _clairvoyant,
}
