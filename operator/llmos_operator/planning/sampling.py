"""One sample of a pool from what gateways and replicas told: differences of totals, each within one life. Pure.

A source tells totals since its start, and its `boot` says which start that was. So figures of two readings are
subtracted only if both come from the same life and from samples that follow each other. A source that is seen for the
first time, in a new life or after a silence gives what it holds now (requests queued and running) and no rates; it is
named in `stale` for this one sample, like one that does not answer. Nothing is read as zero because it is missing. Only
a replica that has just become ready may be taken from zero: nobody could send it requests before.

Sources are added up, never averaged: two gateways with 10 requests each are 20 requests.

An engine's figures have an age, so that two readings a second apart are not figures a second apart. Its counts are
stretched to the sample's interval: count * interval / time between both figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from llmos.api.load import EngineLoad, Latencies, PoolLoad
from llmos.api.scaling import ReplicaCapacity, Scaling, ScalingStatus
from llmos_operator.planning.replicas import Replica, ReplicaState
from llmos_operator.planning.scaling_inputs import (
    NO_LATENCIES,
    GatewaySample,
    PoolSample,
    ReplicaSample,
    StartingReplica,
)

NOTHING_MEASURED: Final = ReplicaCapacity()
UNKNOWN_GATEWAYS: Final = "all gateways, for they could not be listed yet"


@dataclass(frozen=True, slots=True)
class ScaledPool:
    """What the autoscaler knows of a pool from its last reconcile."""

    scaling: Scaling
    revision: str = ""
    """Newest revision; empty while there is no plan for replicas."""
    desired: int = 0
    """What status says was decided last."""
    decided: ScalingStatus | None = None
    """What status says of that decision."""
    replicas: tuple[Replica, ...] = ()
    has_quota: bool = False
    """Whether its replicas wait until the quota admits them."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Control ports (host:port) of replicas that have an address, by name."""

    @property
    def capacity(self) -> ReplicaCapacity:
        """What status says was learned."""
        return self.decided.capacity if self.decided else NOTHING_MEASURED

    @property
    def telling(self) -> tuple[Replica, ...]:
        """Replicas that answer requests, or did and are only unready for a moment: they should tell of their load."""
        return tuple(
            replica
            for replica in self.replicas
            if replica.state is ReplicaState.READY or (replica.state is ReplicaState.STARTING and replica.was_ready)
        )

    @property
    def starting(self) -> tuple[Replica, ...]:
        """Replicas that never answered, failed ones of the newest revision included: these wait for a next attempt."""
        return tuple(
            replica
            for replica in self.replicas
            if (replica.state is ReplicaState.STARTING and not replica.was_ready)
            or (replica.state is ReplicaState.FAILED and replica.revision == self.revision)
        )


@dataclass(frozen=True, slots=True)
class GatewayReading:
    """What one gateway said of one pool."""

    boot: str
    load: PoolLoad


@dataclass(frozen=True, slots=True)
class EngineReading:
    """What one replica said."""

    figures_s: float
    """When the engine had these figures, on the reader's clock."""
    load: EngineLoad


@dataclass(frozen=True, slots=True)
class Sources:
    """Everybody who should tell of a pool, with what they told; None for those that did not."""

    gateways: Mapping[str, GatewayReading | None] = field(default_factory=dict)
    replicas: Mapping[str, EngineReading | None] = field(default_factory=dict)
    are_gateways_known: bool = True
    """False until it is known which gateways there are."""


@dataclass(frozen=True, slots=True)
class SamplerMemory:
    """The readings that the next differences are taken from."""

    now_s: float | None = None
    gateways: Mapping[str, GatewayReading] = field(default_factory=dict)
    replicas: Mapping[str, EngineReading] = field(default_factory=dict)
    starting: frozenset[str] = frozenset()
    """Replicas that did not answer requests yet."""


def build_sample(
    memory: SamplerMemory, pool: ScaledPool, sources: Sources, *, now_s: float, now: datetime
) -> tuple[PoolSample, SamplerMemory]:
    """Return what happened since the sample before, and what to remember for the next one.

    Args:
        memory: that of the sample before, `SamplerMemory()` for the first.
        pool: the pool and its replicas.
        sources: what gateways and replicas told just now.
        now_s: seconds on the clock of `sources`.
        now: the time on the clock of Kubernetes.
    """
    interval_s = 0.0 if memory.now_s is None else max(0.0, now_s - memory.now_s)
    gateways = {name: reading for name, reading in sources.gateways.items() if reading is not None}
    told = {r.name: reading for r in pool.telling if (reading := sources.replicas.get(r.name)) is not None}
    replicas = {name: reading for name, reading in told.items() if _has_new_figures(reading, memory.replicas.get(name))}
    sample = PoolSample(
        now_s=now_s,
        interval_s=interval_s,
        gateway=_add_gateways(gateways, memory.gateways) if gateways else None,
        replicas=tuple(_sample_replica(name, reading, memory, interval_s) for name, reading in replicas.items()),
        silent=len(pool.telling) - len(replicas),
        starting=tuple(_describe_starting(pool, now)),
        has_quota=pool.has_quota,
        draining=sum(r.state in {ReplicaState.DRAINING, ReplicaState.TERMINATING} for r in pool.replicas),
        started_s=tuple(_find_start_times(pool, memory.starting, now)),
        stale=(*_find_stale_gateways(sources, memory), *_find_stale_replicas(pool, replicas, memory)),
    )
    starting = frozenset(replica.name for replica in pool.starting)
    return sample, SamplerMemory(now_s, gateways, told, starting)


def _has_new_figures(reading: EngineReading, before: EngineReading | None) -> bool:
    return before is None or reading.load.boot != before.load.boot or reading.figures_s > before.figures_s


def _add_gateways(readings: Mapping[str, GatewayReading], memory: Mapping[str, GatewayReading]) -> GatewaySample:
    loads = [reading.load for reading in readings.values()]
    pairs = [
        (before.load, reading.load)
        for name, reading in readings.items()
        if (before := memory.get(name)) is not None and before.boot == reading.boot
    ]
    return GatewaySample(
        queued=sum(load.queued for load in loads),
        queued_prompt_tokens=sum(load.queued_prompt_tokens for load in loads),
        oldest_queued_s=max(load.oldest_queued_s for load in loads),
        running=sum(load.running for load in loads),
        arrivals=sum(_grown(after.arrivals_total, before.arrivals_total) for before, after in pairs),
        arrived_prompt_tokens=sum(
            _grown(after.arrived_prompt_tokens_total, before.arrived_prompt_tokens_total) for before, after in pairs
        ),
        finished=sum(
            _grown(after.finished_total + after.failed_total, before.finished_total + before.failed_total)
            for before, after in pairs
        ),
        completion_tokens=sum(
            _grown(after.completion_tokens_total, before.completion_tokens_total) for before, after in pairs
        ),
        rejected=sum(_grown(after.rejected_total, before.rejected_total) for before, after in pairs),
        ttft=_add_latencies([(before.ttft, after.ttft) for before, after in pairs]),
        tpot=_add_latencies([(before.tpot, after.tpot) for before, after in pairs]),
    )


def _grown(after: int, before: int) -> int:
    return max(0, after - before)


def _add_latencies(pairs: list[tuple[Latencies, Latencies]]) -> Latencies:
    """Add up the growth of histograms. One with other buckets than ours, from another version, is left out."""
    size = len(NO_LATENCIES.counts)
    known = [(before, after) for before, after in pairs if len(before.counts) == len(after.counts) == size]
    counts = tuple(
        sum(_grown(after.counts[bucket], before.counts[bucket]) for before, after in known) for bucket in range(size)
    )
    if not any(counts):
        return NO_LATENCIES
    return Latencies(counts=counts, sum_s=sum(max(0.0, after.sum_s - before.sum_s) for before, after in known))


def _sample_replica(name: str, reading: EngineReading, memory: SamplerMemory, interval_s: float) -> ReplicaSample:
    load = reading.load
    before = memory.replicas.get(name)
    if before is not None and before.load.boot == load.boot:
        then, stretch = before.load, interval_s / (reading.figures_s - before.figures_s)
    else:
        then, stretch = EngineLoad() if name in memory.starting else load, 1.0

    def count(after: int, earlier: int) -> int:
        return round(_grown(after, earlier) * stretch)

    return ReplicaSample(
        name=name,
        running=load.running,
        waiting=load.waiting,
        prompt_tokens=count(load.prompt_tokens_total, then.prompt_tokens_total),
        generation_tokens=count(load.generation_tokens_total, then.generation_tokens_total),
        steps=count(load.steps_total, then.steps_total),
        preemptions=count(load.preemptions_total, then.preemptions_total),
        kv_usage=load.kv_usage,
    )


def _describe_starting(pool: ScaledPool, now: datetime) -> Iterator[StartingReplica]:
    for replica in pool.starting:
        age_s = max(0.0, (now - replica.began).total_seconds())
        is_stuck = replica.stuck is not None or replica.state is ReplicaState.FAILED
        yield StartingReplica(replica.name, age_s, is_stuck, replica.is_gated)


def _find_start_times(pool: ScaledPool, starting_before: frozenset[str], now: datetime) -> Iterator[float]:
    for replica in pool.replicas:
        if replica.state is ReplicaState.READY and replica.name in starting_before:
            yield max(0.0, ((replica.ready_at or now) - replica.began).total_seconds())


def _find_stale_gateways(sources: Sources, memory: SamplerMemory) -> Iterator[str]:
    if not sources.are_gateways_known:
        yield UNKNOWN_GATEWAYS
    for name, reading in sources.gateways.items():
        before = memory.gateways.get(name)
        if reading is None or before is None or before.boot != reading.boot:
            yield f"gateway {name}"


def _find_stale_replicas(
    pool: ScaledPool, readings: Mapping[str, EngineReading], memory: SamplerMemory
) -> Iterator[str]:
    for replica in pool.telling:
        reading, before = readings.get(replica.name), memory.replicas.get(replica.name)
        has_begun = before is None and replica.name in memory.starting
        is_new_life = reading is not None and (before is None or before.load.boot != reading.load.boot)
        if reading is None or (is_new_life and not has_begun):
            yield f"replica {replica.name}"
