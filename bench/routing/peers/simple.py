"""Round-robin and least-load, the references without a memory."""

from __future__ import annotations

from collections.abc import Sequence

from bench.routing.trace import Request

__all__ = ["Forgetful", "LeastLoad", "RoundRobin"]


class Forgetful:
    """A policy that need not know how requests go on."""

    def first_token(self, token: object) -> None:
        """Ignore it."""

    def ended(self, token: object) -> None:
        """Ignore it."""


class RoundRobin(Forgetful):
    """Each in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Return the next one."""
        self._turn = (self._turn + 1) % len(loads)
        return self._turn, None


class LeastLoad(Forgetful):
    """Fewest requests in flight; equal ones take turns."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Return the least loaded one."""
        count = len(loads)
        best = min(range(count), key=lambda number: (loads[number], (number - self._turn) % count))
        self._turn = best + 1
        return best, None
