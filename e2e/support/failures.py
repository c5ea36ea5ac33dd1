"""Provokes one failure and watches what the operator makes of it, for long enough that a loop would show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from e2e.support.api import Api, Object
from e2e.support.objects import count_gpus_held, read_condition
from e2e.support.waiting import eventually
from llmos.api import Reason

WATCHED_S = 20.0
"""Several resyncs, and the first retry of what is retried (after 10 s)."""
TOLD_TIMEOUT_S = 240.0
RELEASED_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Scene:
    """Where a failure is provoked."""

    api: Api
    namespace: str
    url: str
    """Of the source of models."""
    tls_url: str
    """Of the same source, by a certificate of an authority that nobody knows."""


@dataclass(frozen=True)
class Provoked:
    """What a failure looked like."""

    condition: Object
    events: int
    """Events with the reason, about the object."""
    gpus_held: int
    """The fewest GPUs that were held at a moment after the reason was told."""
    attempts: int
    """Pods and Jobs that there ever were; a Job and its pod count twice."""


@dataclass(frozen=True)
class Failure:
    """A way to fail: what a user applies, and what the user must then be told.

    `arrange` makes the objects and returns the one that fails. `says` are words of the message: of cause and
    remedy.
    """

    name: str
    reason: Reason
    arrange: Callable[[Scene], Awaitable[Object]]
    says: tuple[str, str]
    gpus: int = 0
    """GPUs that its pods ask for."""
    gpus_held: int = 0
    """GPUs that are held all the same, by a replica that works."""
    attempts: int = 4
    """Most pods and Jobs within the time that is watched: the first attempt and one retry, each a Job and its pod."""


@dataclass
class _Seen:
    uids: set[str] = field(default_factory=set)
    fewest_gpus: int | None = None


async def provoke(failure: Failure, scene: Scene) -> Provoked:
    """Let it happen, wait until it is told, and go on watching."""
    seen = _Seen()
    watching = asyncio.create_task(_watch(scene, seen))
    try:
        thing = await failure.arrange(scene)
        kind, name = thing["kind"], thing["metadata"]["name"]
        await eventually(
            f"{failure.name}: the status tells {failure.reason}",
            lambda: scene.api.get(kind, name, scene.namespace),
            lambda found: read_condition(found).get("reason") == failure.reason,
            timeout_s=TOLD_TIMEOUT_S,
        )
        seen.fewest_gpus = None
        began_s = time.monotonic()
        await eventually(
            f"{failure.name}: GPUs are given back",
            _value(lambda: seen.fewest_gpus),
            lambda held: held is not None and held <= failure.gpus_held,
            timeout_s=RELEASED_TIMEOUT_S,
        )
        await asyncio.sleep(max(0.0, WATCHED_S - (time.monotonic() - began_s)))
        condition = read_condition(await scene.api.get(kind, name, scene.namespace))
        events = await scene.api.list("Event", scene.namespace)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    told = [e for e in events if (e["regarding"]["kind"], e["reason"]) == (kind, failure.reason.value)]
    return Provoked(condition, len(told), seen.fewest_gpus or 0, len(seen.uids))


async def _watch(scene: Scene, seen: _Seen) -> None:
    while True:
        pods = await scene.api.list("Pod", scene.namespace)
        jobs = await scene.api.list("Job", scene.namespace)
        seen.uids |= {thing["metadata"]["uid"] for thing in (*pods, *jobs)}
        held = count_gpus_held(pods)
        seen.fewest_gpus = held if seen.fewest_gpus is None else min(seen.fewest_gpus, held)
        await asyncio.sleep(1.0)


def _value(read: Callable[[], int | None]) -> Callable[[], Awaitable[int | None]]:
    async def observe() -> int | None:
        return read()

    return observe
