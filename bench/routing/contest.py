"""Which policies are compared, and in which settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.routing.figures import Figures, compute_figures
from bench.routing.gateways import Gateways
from bench.routing.ours import Ours
from bench.routing.peers.chwbl import Chwbl
from bench.routing.peers.lmetric import LMetric
from bench.routing.peers.sglang import CacheAware, CacheAwareConfig
from bench.routing.peers.simple import LeastLoad, RoundRobin
from bench.routing.replay import Setting, Strategy, replay
from bench.routing.trace import BLOCK_TOKENS, Request

__all__ = ["OURS", "PEERS", "Result", "build_settings", "run"]

_SGLANG_2025: Final = CacheAwareConfig(0.5, 32, 1.0001, "smallest-tree", max_tree_size=2**24, eviction_interval_s=60)
_REPORT_S: Final = 1.0

Builder = Callable[[Setting, int], Strategy]


def _build_ours(setting: Setting, policy: str, gateways: int) -> Ours:
    # The gateway reads from the pool's status what the KV cache holds by plan.
    return Ours(setting.replicas, policy, kv_tokens=setting.cache_blocks * BLOCK_TOKENS, gateways=gateways)


PEERS: Final[Mapping[str, Builder]] = {
    "round-robin": lambda setting, _gateways: RoundRobin(),
    "least-load": lambda setting, _gateways: LeastLoad(),
    "CHWBL, very first block": lambda setting, _gateways: Chwbl(setting.replicas, key_block=0),
    "CHWBL, first block of the user": lambda setting, _gateways: Chwbl(setting.replicas, key_block=1),
    "sglang 2025 (0.5, 32, 1.0001)": lambda setting, _gateways: CacheAware(setting.replicas, _SGLANG_2025),
    "sglang 0.3.2 (0.3, 64, 1.5)": lambda setting, _gateways: CacheAware(setting.replicas, CacheAwareConfig()),
    "LMetric": lambda setting, _gateways: LMetric(setting.replicas, setting.cache_blocks, with_queue=False),
    "LMetric, queue counted": lambda setting, _gateways: LMetric(
        setting.replicas, setting.cache_blocks, with_queue=True
    ),
}

OURS: Final[Mapping[str, Builder]] = {
    "auto": lambda setting, gateways: _build_ours(setting, "auto", gateways),
    "auto, KV size unknown": lambda setting, gateways: Ours(setting.replicas, "auto", gateways=gateways),
    "prefix": lambda setting, gateways: _build_ours(setting, "prefix", gateways),
}

# What a gateway knows of the others' requests in flight: ours tell each other, LMetric is given the same, KubeAI's and
# sglang's know their own only.
_REPORTS: Final = {"LMetric", "LMetric, queue counted", "least-load", *OURS}


@dataclass(frozen=True, slots=True)
class Result:
    """One policy in one setting."""

    policy: str
    replicas: int
    cache_blocks: int
    utilization: float
    gateways: int
    figures: Figures

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def build_settings(
    replicas: Iterable[int], cache_blocks: Iterable[int], utilizations: Iterable[float]
) -> list[Setting]:
    """Return every combination."""
    return [Setting(*values) for values in itertools.product(replicas, cache_blocks, utilizations)]


def run(
    requests: Sequence[Request], settings: Sequence[Setting], gateways: Sequence[int], *, processes: int
) -> list[Result]:
    """Replay the trace in every setting under every policy."""
    policies = (*PEERS, *OURS)
    tasks = [(policy, setting, count) for setting in settings for count in gateways for policy in policies]
    if processes == 1:
        return [_run_one(requests, *task) for task in tasks]
    with ProcessPoolExecutor(processes, initializer=_share, initargs=(requests,)) as pool:
        return list(pool.map(_run_shared, tasks, chunksize=4))


_SHARED: list[Sequence[Request]] = []


def _share(requests: Sequence[Request]) -> None:
    _SHARED[:] = [requests]


def _run_shared(task: tuple[str, Setting, int]) -> Result:
    return _run_one(_SHARED[0], *task)


def _run_one(requests: Sequence[Request], policy: str, setting: Setting, gateways: int) -> Result:
    build = {**PEERS, **OURS}[policy]
    strategy: Strategy = build(setting, gateways)
    if gateways > 1:
        strategy = Gateways(
            gateways,
            setting.replicas,
            lambda: build(setting, gateways),
            report_s=_REPORT_S if policy in _REPORTS else None,
        )
    jobs = replay(setting.scale(requests), setting, strategy)
    return Result(
        policy=policy,
        replicas=setting.replicas,
        cache_blocks=setting.cache_blocks,
        utilization=setting.utilization,
        gateways=gateways,
        figures=compute_figures(jobs, setting),
    )
