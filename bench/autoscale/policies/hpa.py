"""Kubernetes' HorizontalPodAutoscaler, and what builds on it: KEDA and production-stack.

Each 15 s: with a metric of pods (a mean for each ready pod), `ceil(ready * mean / target)`, pods that are not ready
counting as 0 on the way up; with an external metric (KEDA's AverageValue), `ceil(total / target)`. Nothing changes
while the ratio is within 10 % of 1. On the way down the greatest recommendation of the last 300 s counts. On the way up
at most the greater of +100 % and +4 pods in 15 s, on the way down at most 100 % in 15 s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.autoscale.policies.windows import Ticker, Window, ceil
from bench.autoscale.simulation import View

SYNC_S = 15.0
TOLERANCE = 0.1
STABILISATION_S = 300.0
Metric = Callable[[View], float]


def count_in_flight(view: View) -> float:
    """All requests held or in flight."""
    return float(view.held + view.in_flight)


def count_waiting(view: View) -> float:
    """`num_requests_waiting` of all engines, and what a gateway holds."""
    return float(view.waiting)


@dataclass
class Behaviour:
    """`spec.behavior`: how fast the number may change."""

    stabilisation_s: float = STABILISATION_S
    up_percent: float = 100.0
    up_pods: int = 4
    up_period_s: float = 15.0
    down_pods: int | None = None
    """None is the default of 100 %."""
    down_period_s: float = 15.0
    _down: Window = field(init=False)
    _history: list[tuple[float, int]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._down = Window(max(self.stabilisation_s, 1e-9))

    def apply(self, now_s: float, current: int, recommended: int) -> int:
        """Return the number that the behaviour allows."""
        self._down.add(now_s, recommended)
        stabilised = max(recommended, min(current, int(self._down.greatest)))
        self._history = [(at_s, n) for at_s, n in self._history if at_s > now_s - 3600] + [(now_s, current)]
        if stabilised > current:
            base = self._get_base(now_s, self.up_period_s, current, min)
            most = max(ceil(base * (1 + self.up_percent / 100)), base + self.up_pods)
            return min(stabilised, max(most, current))
        if stabilised < current and self.down_pods is not None:
            base = self._get_base(now_s, self.down_period_s, current, max)
            return max(stabilised, min(base - self.down_pods, current))
        return stabilised

    def _get_base(self, now_s: float, period_s: float, current: int, choose: Callable[[int, int], int]) -> int:
        """Return the number at the beginning of the period, so that all changes within it count."""
        base = current
        for at_s, number in self._history:
            if at_s > now_s - period_s:
                base = choose(base, number)
        return base


class _Hpa(ABC):
    """A turn of the HPA: a recommendation, and the behaviour that holds it back."""

    def __init__(self, target: float, metric: Metric, behaviour: Behaviour | None = None) -> None:
        self._target, self._metric = target, metric
        self._behaviour = behaviour or Behaviour()
        self._ticker = Ticker(SYNC_S)

    def decide(self, view: View) -> int | None:
        if not self._ticker.is_due(view.now_s):
            return None
        return max(1, self._behaviour.apply(view.now_s, view.current, self._recommend(view)))

    @abstractmethod
    def _recommend(self, view: View) -> int: ...


class Hpa(_Hpa):
    """HPA on a metric of pods."""

    def __init__(self, target: float, metric: Metric = count_in_flight, behaviour: Behaviour | None = None) -> None:
        super().__init__(target, metric, behaviour)

    def _recommend(self, view: View) -> int:
        total, ready, unready = self._metric(view), view.ready, len(view.starting_ages_s)
        if ready == 0:
            return view.current
        ratio = total / ready / self._target
        if ratio <= 1 or unready == 0:
            return view.current if abs(ratio - 1) <= TOLERANCE else ceil(ratio * ready)
        with_unready = total / (ready + unready) / self._target
        if with_unready <= 1 + TOLERANCE:
            return view.current
        return max(view.current, ceil(with_unready * (ready + unready)))


class Keda(_Hpa):
    """KEDA: an external metric, AverageValue. KAITO uses it with the number of waiting requests.

    The polling interval of 30 s and the cool-down of 300 s matter from and to zero only; the HPA reads the metric at
    each of its own turns.
    """

    def __init__(self, target: float, metric: Metric = count_waiting, behaviour: Behaviour | None = None) -> None:
        super().__init__(target, metric, behaviour)

    def _recommend(self, view: View) -> int:
        return compute_average_value(self._metric(view), self._target, view.current)


def compute_average_value(total: float, target: float, current: int) -> int:
    """Return what the HPA makes of an external metric with target type AverageValue."""
    if current and abs(total / (target * current) - 1) <= TOLERANCE:
        return current
    return ceil(total / target)


class ProductionStack:
    """vLLM production-stack's ScaledObject: the greatest of four triggers, +1 and -1 pod in 60 s.

    Keep-alive (1 if there was traffic within 2 minutes), running requests / 5, generated tokens/s over 1 minute / 100,
    prompt tokens/s over 1 minute / 100. `scale` multiplies all three thresholds, which are meant for small GPUs.
    """

    RUNNING = 5.0
    TOKENS_PER_S = 100.0
    RATE_S = 60.0

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._totals: list[tuple[float, float, float]] = []
        self._engines: dict[str, tuple[int, int]] = {}
        self._generated = self._prompted = 0.0
        self._ticker = Ticker(SYNC_S)
        self._behaviour = Behaviour(
            stabilisation_s=300.0, up_percent=0.0, up_pods=1, up_period_s=60.0, down_pods=1, down_period_s=60.0
        )

    def decide(self, view: View) -> int | None:
        self._count_tokens(view)
        if not self._ticker.is_due(view.now_s):
            return None
        first, last = self._totals[0], self._totals[-1]
        elapsed_s = max(1.0, last[0] - first[0])
        running = sum(engine.running for engine in view.engines)
        recommended = max(
            1,
            compute_average_value(running, self.RUNNING * self._scale, view.current),
            *(
                compute_average_value((last[i] - first[i]) / elapsed_s, self.TOKENS_PER_S * self._scale, view.current)
                for i in (1, 2)
            ),
        )
        return max(1, self._behaviour.apply(view.now_s, view.current, recommended))

    def _count_tokens(self, view: View) -> None:
        for engine in view.engines:
            generated, prompted = self._engines.get(engine.name, (0, 0))
            self._generated += engine.generation_tokens_total - generated
            self._prompted += engine.prompt_tokens_total - prompted
        self._engines = {e.name: (e.generation_tokens_total, e.prompt_tokens_total) for e in view.engines}
        self._totals.append((view.now_s, self._generated, self._prompted))
        self._totals = [entry for entry in self._totals if entry[0] >= view.now_s - self.RATE_S]
