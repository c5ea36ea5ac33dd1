"""Waiting for what the cluster does in its own time: a generous deadline, and a failure that tells what was seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

Seen = TypeVar("Seen")


async def eventually(
    what: str,
    observe: Callable[[], Awaitable[Seen]],
    is_wanted: Callable[[Seen], object],
    *,
    timeout_s: float = 90.0,
    poll_s: float = 0.5,
) -> Seen:
    """Observe until it is as wanted, and return what was seen then.

    Raises:
        AssertionError: it never was; the message has what was seen last.
    """
    deadline_s = time.monotonic() + timeout_s
    seen: Seen | httpx.TransportError | None = None
    while time.monotonic() < deadline_s:
        try:
            seen = observed = await observe()
            if is_wanted(observed):
                return observed
        except httpx.TransportError as error:  # a busy machine, or a story that takes the API server away
            seen = error
        await asyncio.sleep(poll_s)
    raise AssertionError(f"{what}: not within {timeout_s:g} s. Last seen: {seen!r}")
