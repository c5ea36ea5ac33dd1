"""Moving means and extremes over a window of time, as policies keep them."""

from __future__ import annotations

import math
from collections import deque


class Window:
    """Values of the last `span_s`, one for each second or each tick."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._values: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, now_s: float, value: float) -> None:
        """Add a value, and forget those that are `span_s` old."""
        self._values.append((now_s, value))
        self._sum += value
        while self._values[0][0] <= now_s - self._span_s:
            self._sum -= self._values.popleft()[1]

    @property
    def mean(self) -> float:
        """Mean of what is in the window; 0 if nothing is."""
        return max(0.0, self._sum) / len(self._values) if self._values else 0.0

    @property
    def greatest(self) -> float:
        """Greatest of what is in the window."""
        return max((value for _, value in self._values), default=0.0)

    @property
    def least(self) -> float:
        """Least of what is in the window."""
        return min((value for _, value in self._values), default=0.0)


def ceil(value: float) -> int:
    """Round up, forgiving what is left by sums of fractions."""
    return math.ceil(value - 1e-9)


class Ticker:
    """Says when a policy's own turn has come."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = 0.0

    def is_due(self, now_s: float) -> bool:
        """Whether it is time; if so, the next turn is `every_s` later."""
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True
