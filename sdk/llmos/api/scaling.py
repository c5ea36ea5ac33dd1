"""How a pool grows and shrinks by itself: what the user asks for, and what the autoscaler saw, learned and decided."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmos.api.meta import ApiModel, ListMap, Rule

TimeOfDay = Annotated[str, Field(max_length=5, pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
"""Hours and minutes, 00:00 to 23:59."""

Day = Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


class LatencyObjective(ApiModel):
    """Latencies that requests should see."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.ttftMilliseconds) || has(self.tpotMilliseconds)",
            "name ttftMilliseconds, tpotMilliseconds or both",
        ),
    )

    ttft_milliseconds: Annotated[int, Field(ge=1, le=3600000)] | None = None
    """Longest time to the first token, queueing included."""
    tpot_milliseconds: Annotated[int, Field(ge=1, le=600000)] | None = None
    """Longest mean time for each further token of an answer."""


class ScalingTarget(ApiModel):
    """What each replica should bear. With nothing set, 0.8 of its measured capacity."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "[has(self.queueDepth), has(self.utilization), has(self.slo)].filter(x, x).size() <= 1",
            "queueDepth, utilization and slo exclude each other",
        ),
    )

    queue_depth: Annotated[int, Field(ge=1, le=100000)] | None = None
    """Requests for each replica, queued and running together."""
    utilization: Annotated[float, Field(ge=0.1, le=1.0)] | None = None
    """Share of a replica's measured capacity that is used."""
    slo: LatencyObjective | None = None
    """Latencies to hold; how much a replica bears under them is learned."""


class ScheduleWindow(ApiModel):
    """Other limits at certain times. Of windows that overlap, the one with the most replicas counts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.minReplicas) || has(self.maxReplicas)",
            "say what holds in the window: minReplicas, maxReplicas or both",
        ),
        Rule(
            "!has(self.minReplicas) || !has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must not be greater than maxReplicas",
            field_path=".minReplicas",
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """What status calls it."""
    days: Annotated[tuple[Day, ...], Field(max_length=7)] = ()
    """Days on which the window begins; empty means every day."""
    start: TimeOfDay
    """When it begins."""
    end: TimeOfDay
    """When it ends; a time before `start` is one of the next day, an equal one is a whole day."""
    time_zone: Annotated[str, Field(max_length=64)] = "UTC"
    """Name of the IANA time zone database, for example Europe/Berlin."""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Instead of scaling.minReplicas; where it is more than scaling.maxReplicas, it is the most too."""
    max_replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Instead of scaling.maxReplicas; where it is less than scaling.minReplicas, it is the fewest too."""


class Scaling(ApiModel):
    """Replicas by load, between two limits."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not be greater than maxReplicas",
            field_path=".minReplicas",
        ),
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest replicas; 0 lets the pool sleep, and the first request wakes it."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 8
    """Most replicas."""
    target: ScalingTarget = ScalingTarget()
    """What each replica should bear."""
    scale_down_delay_seconds: Annotated[int, Field(ge=0, le=86400)] = 60
    """How long fewer replicas must have sufficed before one goes."""
    scale_to_zero_after_seconds: Annotated[int, Field(ge=0, le=604800)] = 600
    """How long a pool with minReplicas 0 must have had nothing to do before its last replica goes."""
    schedule: Annotated[tuple[ScheduleWindow, ...], Field(max_length=16), ListMap(("name",))] = ()
    """Other limits at certain times."""
    mode: Literal["active", "advisory"] = "active"
    """advisory shows in status what would be done, and does nothing; `replicas` may then say how many there are."""


BoundedBy = Literal[
    "",
    "minReplicas",
    "maxReplicas",
    "schedule",
    "scaleDownDelay",
    "scaleToZeroDelay",
    "unschedulable",
    "quota",
    "staleInputs",
]
"""What kept the decision from following the demand."""


class ScalingInputs(ApiModel):
    """What the autoscaler saw, from all gateways and engines. Rates are for one second, smoothed over the last ten."""

    queued: Annotated[int, Field(ge=0)] = 0
    """Requests that wait, in gateways and in engines."""
    running: Annotated[int, Field(ge=0)] = 0
    """Requests that engines work on."""
    arrivals_per_second: Annotated[float, Field(ge=0)] = 0
    """New requests."""
    prompt_tokens_per_second: Annotated[float, Field(ge=0)] = 0
    """Prompt tokens that arrive."""
    generation_tokens_per_second: Annotated[float, Field(ge=0)] = 0
    """Tokens that are generated."""
    ready: Annotated[int, Field(ge=0)] = 0
    """Replicas that answer."""
    starting: Annotated[int, Field(ge=0)] = 0
    """Replicas that count as coming supply."""
    stale: Annotated[tuple[Annotated[str, Field(max_length=253)], ...], Field(max_length=16)] = ()
    """Gateways and replicas whose figures are missing or too old; nothing is assumed about them."""


class ScalingDemand(ApiModel):
    """What one target asks for."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """`queueDepth` for that target; else `traffic` (requests at once, foreseen), `work` (tokens, measured),
    `concurrency` (requests at once, now), `backlog` (work that already waits), `bypass` (requests that did not come
    through the gateway) or `bootstrap` (nothing is measured yet)."""
    replicas: Annotated[float, Field(ge=0)] = 0
    """Replicas that it asks for, before rounding."""
    message: Annotated[str, Field(max_length=256)] = ""
    """The formula with its numbers."""


class ReplicaCapacity(ApiModel):
    """What one replica was measured to do. Kept over restarts of the operator; begun anew with a new revision."""

    revision: Annotated[str, Field(max_length=64)] = ""
    """Revision of the replicas that were measured."""
    prefill_tokens_per_second: Annotated[float, Field(ge=0)] = 0
    """Prompt tokens that one replica can take in a second."""
    decode_tokens_per_second: Annotated[float, Field(ge=0)] = 0
    """Tokens that one replica can generate in a second at `concurrency`."""
    concurrency: Annotated[float, Field(ge=0)] = 0
    """Requests at once at which the target still holds."""
    step_milliseconds: Annotated[float, Field(ge=0)] = 0
    """Time of an engine step, whatever its batch."""
    milliseconds_per_sequence: Annotated[float, Field(ge=0)] = 0
    """Further time of a step for each sequence that it decodes."""
    milliseconds_per_prompt_token: Annotated[float, Field(ge=0)] = 0
    """Further time of a step for each prompt token."""
    start_seconds: Annotated[float, Field(ge=0)] = 0
    """Time from a replica's creation to its readiness."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Busy seconds that this rests on; 0 means nothing was measured yet."""


class ScalingStatus(ApiModel):
    """The autoscaler's last decision, and why."""

    desired: Annotated[int, Field(ge=0)] = 0
    """Replicas that it decided on. In advisory mode nobody acts on it."""
    raw: Annotated[float, Field(ge=0)] = 0
    """Replicas that the demand asks for, before limits, delays and rounding."""
    bounded_by: BoundedBy = ""
    """What kept `desired` from following `raw`; empty if nothing did."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """The decision in words."""
    since: datetime | None = None
    """Since when `desired` and `boundedBy` are what they are."""
    inputs: ScalingInputs = ScalingInputs()
    """What it saw."""
    demands: Annotated[tuple[ScalingDemand, ...], Field(max_length=8), ListMap(("name",))] = ()
    """What each target asks for; the greatest counts."""
    capacity: ReplicaCapacity = ReplicaCapacity()
    """What a replica was measured to do."""
