"""KubeAI's autoscaler (kubeai f442a2c).

Every 10 s: the mean of all active requests over 10 minutes (60 samples) / targetRequests, rounded up. Fewer replicas
only after ceil(scaleDownDelaySeconds / 10) turns in a row that ask for fewer; more at once.
"""

from __future__ import annotations

from collections import deque

from bench.autoscale.policies.windows import Ticker, ceil
from bench.autoscale.simulation import View

DEFAULT_TARGET = 100.0


class KubeAi:
    """`interval_s` and `window_s` are settings of its chart, `target` one of a model."""

    def __init__(
        self,
        target: float = DEFAULT_TARGET,
        *,
        interval_s: float = 10.0,
        window_s: float = 600.0,
        scale_down_delay_s: float = 30.0,
    ) -> None:
        self._target = target
        self._ticker = Ticker(interval_s)
        count = max(1, int(window_s / interval_s))
        self._samples: deque[float] = deque([0.0] * count, maxlen=count)
        self._needed_lower = ceil(scale_down_delay_s / interval_s)
        self._lower = 0

    def decide(self, view: View) -> int | None:
        if not self._ticker.is_due(view.now_s):
            return None
        self._samples.append(float(view.held + view.in_flight))
        desired = max(1, ceil(sum(self._samples) / len(self._samples) / self._target))
        if desired >= view.current:
            self._lower = 0
            return desired
        self._lower += 1
        if self._lower < self._needed_lower:
            return None
        self._lower = 0
        return desired
