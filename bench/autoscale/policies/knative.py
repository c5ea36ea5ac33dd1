"""Knative's pod autoscaler (KPA), as knative/serving `pkg/autoscaler/scaling/autoscaler.go` at 98e5ef90a.

Every 2 s, from the mean concurrency of all pods over 60 s (stable) and over 6 s (panic), with `r` ready pods:

    up = ceil(1000 r), down = floor(r / 2)
    ds = clamp(ceil(stable / target), down, up),  dp = clamp(ceil(panic / target), down, up)
    panic mode begins when ceil(panic / target) / r >= 2 and ends a stable window after it was last so
    in panic max(most so far, ds, dp), otherwise ds
"""

from __future__ import annotations

from bench.autoscale.policies.windows import Ticker, Window, ceil
from bench.autoscale.simulation import View

TICK_S = 2.0
STABLE_S = 60.0
PANIC_S = 6.0
PANIC_THRESHOLD = 2.0
MOST_UP = 1000.0
MOST_DOWN = 2.0
DEFAULT_TARGET = 70.0
"""containerConcurrency 100 x utilization 0.7."""


class Knative:
    """`target` is the concurrency of a pod after the utilization share."""

    def __init__(self, target: float = DEFAULT_TARGET) -> None:
        self._target = target
        self._stable, self._panic = Window(STABLE_S), Window(PANIC_S)
        self._ticker = Ticker(TICK_S)
        self._panic_since_s: float | None = None
        self._most = 0

    def decide(self, view: View) -> int | None:
        self._stable.add(view.now_s, view.concurrency)
        self._panic.add(view.now_s, view.concurrency)
        if not self._ticker.is_due(view.now_s):
            return None
        ready = max(1, view.ready)
        up, down = ceil(MOST_UP * ready), int(ready // MOST_DOWN)
        by_stable = min(max(ceil(self._stable.mean / self._target), down), up)
        by_panic = min(max(ceil(self._panic.mean / self._target), down), up)
        is_over = ceil(self._panic.mean / self._target) / ready >= PANIC_THRESHOLD
        if is_over:
            self._panic_since_s = view.now_s
        elif self._panic_since_s is not None and self._panic_since_s + STABLE_S < view.now_s:
            self._panic_since_s, self._most = None, 0
        if self._panic_since_s is None:
            return by_stable
        self._most = max(self._most, by_stable, by_panic)
        return self._most
