"""Canaries of adapters: which share of an adapter's requests its successor takes, for how long, and what came of it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from llmos.api.meta import ApiModel, Name, Rule

DEFAULT_WEIGHT: Final = 10
DEFAULT_PROMOTE_AFTER: Final = "30m"
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}

Duration = Annotated[str, Field(max_length=6, pattern=r"^[1-9][0-9]{0,4}[smh]$")]
"""A whole number of seconds, minutes or hours, for example 30m."""

CanaryState = Literal["Waiting", "Running", "Promoting", "Promoted", "RollingBack", "RolledBack"]


def parse_duration_s(text: str) -> int:
    """Return the seconds of a Duration.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,4}[smh]", text):
        raise ValueError(f"{text!r} is no duration; write for example 90s, 30m or 2h")
    return int(text[:-1]) * _SECONDS[text[-1]]


class AttachTo(ApiModel):
    """A pool that serves the result."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.replaces) || !(has(self.weight) || has(self.promoteAfter))",
            "weight and promoteAfter are those of a canary: name in replaces the adapter whose requests it takes",
        ),
    )

    pool: Name
    """Name of an InferencePool in the same namespace."""
    replaces: Name | None = None
    """Name by which clients ask an adapter of this pool whose place the result is to take. It first takes `weight` per
    cent of the requests for that name and after `promoteAfter` all, unless it is clearly worse. Where the pool has no
    adapter of that name it takes all at once. Absent = the result is served by its own name only."""
    weight: Annotated[int, Field(ge=1, le=100)] | None = None
    """Per cent of the requests for `replaces` that the result takes at first. Absent = 10; 100 promotes at once."""
    promote_after: Duration | None = None
    """How long it takes that share before it takes all, for example 90s, 30m or 2h. Absent = 30m."""

    @property
    def share(self) -> int:
        """Per cent of the requests that it takes at first."""
        return DEFAULT_WEIGHT if self.weight is None else self.weight

    @property
    def watch_s(self) -> int:
        """For how long it takes no more than that."""
        return parse_duration_s(self.promote_after or DEFAULT_PROMOTE_AFTER)


class Replacement(ApiModel):
    """A name in one pool that an adapter answers in the place of another."""

    pool: Name
    """Name of an InferencePool in the same namespace that serves this adapter."""
    name: Name
    """Name by which clients ask the other adapter."""
    weight: Annotated[int, Field(ge=0, le=100)] = 100
    """Per cent of the requests for that name that this adapter answers; the other answers the rest, as long as it is
    there. Of several replacements of a name the youngest goes first, and the next one takes of what is left."""


class ArmStatus(ApiModel):
    """One of the two adapters that a canary compares, since it has its present share."""

    name: Annotated[str, Field(max_length=253)] = ""
    """Of its LLMModel."""
    requests: Annotated[int, Field(ge=0)] = 0
    """Requests that it answered or failed to."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Of these, requests that ended with a status of 500 or above."""
    ttft_milliseconds: Annotated[float, Field(ge=0)] | None = None
    """Mean time to the first token; of streams only."""
    tpot_milliseconds: Annotated[float, Field(ge=0)] | None = None
    """Mean time for each further token; of streams only."""


class CanaryStatus(ApiModel):
    """One pool in which the result takes another adapter's place."""

    pool: Annotated[str, Field(max_length=253)]
    """Name of the InferencePool."""
    replaces: Annotated[str, Field(max_length=253)]
    """Name by which clients ask."""
    weight: Annotated[int, Field(ge=0, le=100)] = 0
    """Per cent of the requests that the result takes now."""
    state: CanaryState
    """Waiting (no replica serves the result yet), Running, Promoting, Promoted, RollingBack or RolledBack."""
    since: datetime | None = None
    """Since when the result has its first share."""
    waiting_since: datetime | None = None
    """Since when the pool has replicas that are ready, and none of them holds the result."""
    result: ArmStatus | None = None
    """The result, as the gateways see it."""
    incumbent: ArmStatus | None = None
    """The adapter that answers the other requests."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why it stands where it does, and what to do."""
