"""AIBrix's PodAutoscaler (aibrix e3e10f9e): APA, and KPA as it is written and as it is meant.

Every 10 s, windows 180 s (stable) and 60 s (panic) over the mean of a metric for each pod; at most twice and at least
half the present number; recommendations on the way down are held for 300 s.

    APA  v / target > 1.1: min(ceil(cur * v / target), 2 cur);  < 0.9: max(ceil(cur * v / target), floor(cur / 2))
    KPA  ceil(stable / target), panic mode when panic / stable > 2, in which the greater of both counts

As written, KPA divides the mean of one pod by the target, without the number of pods, so that with a metric of at most
1 and a target of 0.5 it cannot ask for more than 2; the "no scale-down in panic mode" has no effect; and stabilisation
takes the least of the recommendations on the way down, where Kubernetes takes the greatest.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.autoscale.policies.windows import Ticker, Window, ceil
from bench.autoscale.simulation import View

TICK_S = 10.0
STABLE_S = 180.0
PANIC_S = 60.0
TOLERANCE = 0.1
DOWN_COOLDOWN_S = 300.0
PANIC_THRESHOLD = 2.0
DEFAULT_TARGET = 0.5
"""Of the KV cache, as in the shipped samples."""


def mean_kv_usage(view: View) -> float:
    """`gpu_cache_usage_perc`, mean over pods."""
    return sum(engine.kv_usage for engine in view.engines) / view.ready if view.ready else 0.0


def mean_in_flight(view: View) -> float:
    """Running and waiting requests, mean over pods."""
    total = view.held + sum(engine.running + engine.waiting for engine in view.engines)
    return total / view.ready if view.ready else float(total)


class _Stabiliser:
    def __init__(self, is_reversed: bool, down_s: float) -> None:
        self._is_reversed = is_reversed
        self._window = Window(down_s)

    def apply(self, now_s: float, current: int, recommended: int) -> int:
        self._window.add(now_s, recommended)
        if recommended >= current:
            return recommended
        if self._is_reversed:
            return int(self._window.least)
        return min(current, int(self._window.greatest))


class Apa:
    """The application-specific autoscaler."""

    def __init__(
        self,
        target: float = DEFAULT_TARGET,
        metric: Callable[[View], float] = mean_kv_usage,
        *,
        is_reversed: bool = True,
        down_s: float = DOWN_COOLDOWN_S,
        window_s: float = STABLE_S,
    ) -> None:
        self._target, self._metric = target, metric
        self._window, self._ticker = Window(window_s), Ticker(TICK_S)
        self._stabiliser = _Stabiliser(is_reversed, down_s)

    def decide(self, view: View) -> int | None:
        self._window.add(view.now_s, self._metric(view))
        if not self._ticker.is_due(view.now_s) or view.ready == 0:
            return None
        current, ratio = view.current, self._window.mean / self._target
        recommended = current
        if ratio > 1 + TOLERANCE:
            recommended = min(ceil(current * ratio), 2 * current)
        elif ratio < 1 - TOLERANCE:
            recommended = max(ceil(current * ratio), current // 2)
        return max(1, self._stabiliser.apply(view.now_s, current, recommended))


class Kpa:
    """Knative's algorithm as AIBrix has it."""

    def __init__(
        self,
        target: float = DEFAULT_TARGET,
        metric: Callable[[View], float] = mean_kv_usage,
        *,
        is_corrected: bool = False,
        down_s: float = DOWN_COOLDOWN_S,
    ) -> None:
        self._target, self._metric, self._is_corrected = target, metric, is_corrected
        self._stable, self._panic, self._ticker = Window(STABLE_S), Window(PANIC_S), Ticker(TICK_S)
        self._stabiliser = _Stabiliser(not is_corrected, down_s)
        self._most = 0
        self._panic_since_s: float | None = None

    def decide(self, view: View) -> int | None:
        # Corrected: the total of all pods, not the mean of one.
        value = self._metric(view) * (view.ready if self._is_corrected else 1)
        self._stable.add(view.now_s, value)
        self._panic.add(view.now_s, value)
        if not self._ticker.is_due(view.now_s) or view.ready == 0:
            return None
        current = view.current
        stable, panic = (self._clamp(window.mean, current) for window in (self._stable, self._panic))
        recommended = max(stable, panic) if self._is_panic(view.now_s) else stable
        if self._is_corrected and self._panic_since_s is not None:
            self._most = recommended = max(self._most, recommended)
        return max(1, self._stabiliser.apply(view.now_s, current, recommended))

    def _clamp(self, value: float, current: int) -> int:
        return min(max(ceil(value / self._target), current // 2), 2 * current)

    def _is_panic(self, now_s: float) -> bool:
        stable = self._stable.mean
        if stable <= 0 and not self._is_corrected:
            return True
        if stable > 0 and self._panic.mean / stable > PANIC_THRESHOLD:
            self._panic_since_s = now_s
        elif self._panic_since_s is not None and self._panic_since_s + STABLE_S < now_s:
            self._panic_since_s, self._most = None, 0
        return self._panic_since_s is not None
