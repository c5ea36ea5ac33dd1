"""Kthena's autoscaler (3cc05728), with the values of its documented example.

The ratio of a metric for each pod to its target, unready pods counting as 0 on the way up; nothing within 10 %. Stable:
the least recommendation of 1 minute on the way up, at most twice the number in 30 s; the greatest of 5 minutes on the
way down. Panic, once 150 % of the present number is asked for, and for 5 minutes: up at once, never down.
"""

from __future__ import annotations

from bench.autoscale.policies.hpa import count_in_flight
from bench.autoscale.policies.windows import Ticker, Window, ceil
from bench.autoscale.simulation import View

TICK_S = 5.0
TOLERANCE = 0.1
PANIC_PERCENT = 150.0
PANIC_HOLD_S = 300.0
UP_PERIOD_S = 30.0


class Kthena:
    """On requests in flight for each pod."""

    def __init__(self, target: float, *, up_window_s: float = 60.0, down_window_s: float = 300.0) -> None:
        self._target = target
        self._ticker = Ticker(TICK_S)
        self._up, self._down = Window(max(1e-9, up_window_s)), Window(max(1e-9, down_window_s))
        self._recent = Window(UP_PERIOD_S)
        self._panic_until_s = -1.0

    def decide(self, view: View) -> int | None:
        if not self._ticker.is_due(view.now_s) or view.current == 0:
            return None
        ratio = count_in_flight(view) / (self._target * view.current)
        recommended = view.current if abs(ratio - 1) <= TOLERANCE else max(1, ceil(ratio * view.current))
        for window in (self._up, self._down):
            window.add(view.now_s, recommended)
        self._recent.add(view.now_s, view.current)
        if recommended * 100 >= PANIC_PERCENT * view.current:
            self._panic_until_s = view.now_s + PANIC_HOLD_S
        if view.now_s < self._panic_until_s:
            return max(view.current, recommended)
        if recommended > view.current:
            return min(max(view.current, int(self._up.least)), int(2 * self._recent.least))
        return min(view.current, int(self._down.greatest))
