"""What the autoscaler decides from: one sample of a pool each second, as plain values. Pure.

The reader (`runtime/load.py`) takes differences of the totals that gateways and replicas tell, so that everything here
counts what happened since the sample before; a source that did not answer, or that began a new life, has no figures for
this second and is named in `stale`. Nothing is ever read as zero because it is missing. The simulation in
`bench/autoscale` builds the same values, so that what is measured there is what the operator runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmos.api.load import Latencies

NO_LATENCIES: Final = Latencies()


@dataclass(frozen=True, slots=True)
class GatewaySample:
    """All gateways together, over one interval."""

    queued: int = 0
    """Requests held because no replica can take them, now."""
    queued_prompt_tokens: int = 0
    oldest_queued_s: float = 0.0
    running: int = 0
    """Requests that were sent to replicas and are not answered in full, now."""
    arrivals: int = 0
    """Requests that came in the interval."""
    arrived_prompt_tokens: int = 0
    finished: int = 0
    completion_tokens: int = 0
    """Tokens that the engines generated for requests that ended in the interval."""
    rejected: int = 0
    ttft: Latencies = NO_LATENCIES
    """Of requests whose first token came in the interval."""
    tpot: Latencies = NO_LATENCIES
    """Of requests that ended in the interval."""


@dataclass(frozen=True, slots=True)
class ReplicaSample:
    """One replica that answers, over one interval. Figures are the engine's own: they count traffic that bypasses the
    gateways too."""

    name: str
    running: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    """Prompt tokens prefilled in the interval."""
    generation_tokens: int = 0
    """Tokens generated in the interval."""
    steps: int = 0
    """Engine steps in the interval."""
    preemptions: int = 0
    kv_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1, now."""


@dataclass(frozen=True, slots=True)
class StartingReplica:
    """A replica that exists and does not answer yet."""

    name: str
    age_s: float
    """Since its creation."""
    is_stuck: bool = False
    """It cannot go on: no node has room, or it failed and waits for its next attempt."""
    is_gated: bool = False
    """It waits until the quota admits it."""


@dataclass(frozen=True, slots=True)
class PoolSample:
    """One pool in one second."""

    now_s: float
    """Seconds since any fixed moment."""
    interval_s: float
    """Time since the sample before; 0 for the first one."""
    gateway: GatewaySample | None
    """None if no gateway answered; then only `replicas` tell of the load."""
    replicas: tuple[ReplicaSample, ...] = ()
    """Replicas that answer and told their figures."""
    silent: int = 0
    """Replicas that answer requests, but whose figures are missing in this sample."""
    starting: tuple[StartingReplica, ...] = ()
    draining: int = 0
    has_quota: bool = False
    """Whether replicas wait until the quota admits them."""
    started_s: tuple[float, ...] = ()
    """Times from creation to readiness of replicas that became ready in the interval, in seconds."""
    stale: tuple[str, ...] = ()
    """Gateways and replicas without figures in this sample."""
