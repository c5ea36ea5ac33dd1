"""An event loop whose time stands still while its process does not run.

Tests of the load task have gateways, replicas and autoscaler in one process, and in one loop. What a busy machine takes
away from the process must not look as if one of them had been late: so at most `STEP_S` passes between two looks at the
clock, and the loop looks at least as often while it waits.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Final

STEP_S: Final = 0.02


class _Selector(selectors.DefaultSelector):
    """Wakes a loop that waits often enough for it to notice how much time it had."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else min(timeout, STEP_S))


class SteadyLoop(asyncio.SelectorEventLoop):
    """Counts the time that it had, and no other."""

    def __init__(self) -> None:
        self._passed_s = 0.0
        self._looked_s = time.monotonic()
        super().__init__(_Selector())

    def time(self) -> float:
        """Seconds of its own since it was made."""
        now_s = time.monotonic()
        self._passed_s += min(now_s - self._looked_s, STEP_S)
        self._looked_s = now_s
        return self._passed_s
