"""One way to wait for what only asking can tell, always with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


async def wait_until(
    is_reached: Callable[[], Awaitable[bool]], *, what: str, timeout_s: float, poll_s: float = 0.5
) -> None:
    """Ask every `poll_s` seconds until the answer is yes.

    Raises:
        TimeoutError: `what` did not happen in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not await is_reached():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what} did not happen in {timeout_s:.0f} s. Look at the operator's log.")
        await asyncio.sleep(poll_s)
