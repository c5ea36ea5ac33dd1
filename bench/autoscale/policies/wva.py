"""llm-d's Workload Variant Autoscaler, saturation mode V1 (b08b1c77).

Each loop (60 s): a replica is saturated if the greatest KV-cache usage of the last minute is 0.80 or more, or its queue
5 or more. Spare is the threshold less the value, on average over those that are not. One more replica if the spare
usage is below 0.10 or the spare queue below 3; one fewer if what the others would take over leaves that much. Nothing
while a replica is pending.
"""

from __future__ import annotations

from collections import deque

from bench.autoscale.policies.windows import Ticker
from bench.autoscale.simulation import View

HISTORY_S = 60


class Wva:
    """`kv` and `queue` are the saturation thresholds."""

    def __init__(self, *, kv: float = 0.80, queue: float = 5.0, loop_s: float = 60.0) -> None:
        self._kv, self._queue = kv, queue
        self._spare_kv, self._spare_queue = 0.10, min(3.0, queue * 0.6)
        self._ticker = Ticker(loop_s)
        self._seen: dict[str, deque[tuple[float, float]]] = {}

    def decide(self, view: View) -> int | None:
        self._seen = {engine.name: self._seen.get(engine.name) or deque(maxlen=HISTORY_S) for engine in view.engines}
        for engine in view.engines:
            self._seen[engine.name].append((engine.kv_usage, float(engine.waiting)))
        if not self._ticker.is_due(view.now_s) or view.starting_ages_s or not view.engines:
            return None
        peaks = [(max(kv for kv, _ in values), max(queue for _, queue in values)) for values in self._seen.values()]
        free = [(kv, queue) for kv, queue in peaks if kv < self._kv and queue < self._queue]
        if not free:
            return view.current + 1
        kv, queue = (sum(values) / len(free) for values in zip(*free, strict=True))
        if self._kv - kv < self._spare_kv or self._queue - queue < self._spare_queue:
            return view.current + 1
        if len(free) < 2 or len(free) < len(peaks):
            return None
        grown = len(free) / (len(free) - 1)
        is_safe = self._kv - kv * grown >= self._spare_kv and self._queue - queue * grown >= self._spare_queue
        return view.current - 1 if is_safe else None
