"""Ray Serve's autoscaling: `ceil(mean ongoing requests over 30 s / target_ongoing_requests)`.

A change is made only once it was asked for without a break, for `upscale_delay_s` (30 s) or `downscale_delay_s`
(600 s). Default target 2.
"""

from __future__ import annotations

from bench.autoscale.policies.windows import Window, ceil
from bench.autoscale.simulation import View

LOOK_BACK_S = 30.0


class RayServe:
    """Asked each second; Ray's own loop is faster, which the delays make irrelevant."""

    def __init__(self, target: float = 2.0, *, upscale_delay_s: float = 30.0, downscale_delay_s: float = 600.0) -> None:
        self._target = target
        self._up_s, self._down_s = upscale_delay_s, downscale_delay_s
        self._ongoing = Window(LOOK_BACK_S)
        self._asked = 0
        """Seconds for which more (positive) or fewer (negative) were asked for."""

    def decide(self, view: View) -> int | None:
        self._ongoing.add(view.now_s, float(view.held + view.in_flight))
        desired = max(1, ceil(self._ongoing.mean / self._target))
        if desired > view.current:
            self._asked = max(0, self._asked) + 1
            return self._act(desired) if self._asked > self._up_s else None
        if desired < view.current:
            self._asked = min(0, self._asked) - 1
            return self._act(desired) if -self._asked > self._down_s else None
        self._asked = 0
        return None

    def _act(self, desired: int) -> int:
        self._asked = 0
        return desired
