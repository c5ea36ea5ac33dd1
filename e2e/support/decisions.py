"""Follows what a pool says of its number of replicas, by a watch, so that no decision between two looks is missed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from e2e.support.api import Api, Object


@dataclass(frozen=True)
class Decision:
    """What stood in the status at one moment."""

    at_s: float
    """Of the test's own monotonic clock."""
    desired: int
    ready: int
    bounded_by: str
    message: str

    def __str__(self) -> str:
        """For the message of a failed assertion."""
        return f"desired {self.desired}, ready {self.ready}, bounded by {self.bounded_by or 'nothing'}: {self.message}"


@dataclass
class Decisions:
    """Every status since the watch began."""

    seen: list[Decision] = field(default_factory=list)

    def add(self, pool: Object) -> None:
        """Take in one state of the pool."""
        status = pool.get("status", {})
        scaling = status.get("scaling", {})
        self.seen.append(
            Decision(
                time.monotonic(),
                status.get("desiredReplicas", 0),
                status.get("readyReplicas", 0),
                scaling.get("boundedBy", ""),
                scaling.get("message", ""),
            )
        )

    def mark(self) -> int:
        """Begin a phase; the present state is its first."""
        return max(0, len(self.seen) - 1)

    def changes(self, since: int = 0) -> list[Decision]:
        """The first status of each new desired number."""
        seen = self.seen[since:]
        return [later for former, later in itertools.pairwise(seen) if former.desired != later.desired]

    def highest(self, since: int = 0) -> int:
        """The most replicas that were desired since a mark."""
        return max(decision.desired for decision in self.seen[since:])

    def lowest(self, since: int = 0) -> int:
        """The fewest replicas that were desired since a mark."""
        return min(decision.desired for decision in self.seen[since:])


@asynccontextmanager
async def follow_decisions(api: Api, namespace: str, pool: str = "pool") -> AsyncIterator[Decisions]:
    """Follow a pool for the length of a block; a watch that breaks fails the story."""
    decisions = Decisions()

    async def follow() -> None:
        async for event, thing in api.watch("InferencePool", namespace, ""):
            if event != "DELETED" and thing["metadata"]["name"] == pool:
                decisions.add(thing)

    task = asyncio.create_task(follow())
    try:
        yield decisions
        assert not task.done(), f"the watch ended: {task}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
