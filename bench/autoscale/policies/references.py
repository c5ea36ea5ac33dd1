"""References: a fixed number, and a controller that sees what will come."""

from __future__ import annotations

from collections.abc import Sequence

from bench.autoscale.policies.windows import ceil
from bench.autoscale.profiles import Profile
from bench.autoscale.simulation import View
from bench.autoscale.traces import Arrival

LOOK_AHEAD_S = 30.0
SMOOTHING_S = 20.0


class Static:
    """Always the same number."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def decide(self, view: View) -> int | None:
        return self._replicas


class Clairvoyant:
    """Sees all arrivals until a replica ordered now is ready, and 30 s beyond, and knows what each costs.

    It has as many replicas as the busiest 20 s of that time need at the given utilization. The work of a request is
    counted over the 20 s after its arrival. It is no bound: it neither uses queues nor knows which waits matter.
    """

    def __init__(self, profile: Profile, arrivals: Sequence[Arrival], cold_start_s: float, utilization: float) -> None:
        self._ahead_s = cold_start_s + LOOK_AHEAD_S
        self._utilization = utilization
        seconds = int(arrivals[-1].time_s) + 2
        work_s = [0.0] * seconds
        for arrival in arrivals:
            work_s[int(arrival.time_s)] += compute_work_s(profile, arrival)
        self._busy = _smooth(work_s)

    def decide(self, view: View) -> int | None:
        now = int(view.now_s)
        return self.count_needed(now)

    def count_needed(self, now: int) -> int:
        """Return the replicas that the time ahead of second `now` needs."""
        ahead = self._busy[max(0, now) : int(now + self._ahead_s)]
        return max(1, ceil(max(ahead, default=0.0) / self._utilization))


def compute_work_s(profile: Profile, arrival: Arrival) -> float:
    """Return the replica-seconds that a request takes beyond the base of the steps, at the common batch sizes."""
    prompt, output = arrival.prompt_tokens, arrival.output_tokens
    prefill_s = prompt * profile.compute_per_token_s + profile.pair_s * prompt**2 / 2
    return prefill_s + output * (profile.weights_per_token_s + profile.context_token_s * (prompt + output / 2))


def _smooth(work_s: list[float]) -> list[float]:
    """Return the mean of the last 20 s for each second."""
    sums, span = [0.0], int(SMOOTHING_S)
    for value in work_s:
        sums.append(sums[-1] + value)
    return [(sums[i + 1] - sums[max(0, i + 1 - span)]) / min(span, i + 1) for i in range(len(work_s))]
