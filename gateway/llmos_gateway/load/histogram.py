"""A histogram of latencies, as gateways tell it to the operator."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from llmos.api.load import LATENCY_BUCKETS_S, Latencies


@dataclass(slots=True)
class Histogram:
    """Latencies by bucket."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_S) + 1))
    sum_s: float = 0.0

    def observe(self, value_s: float) -> None:
        """Count one."""
        self.counts[bisect_left(LATENCY_BUCKETS_S, value_s)] += 1
        self.sum_s += value_s

    def build(self) -> Latencies:
        """Return what was counted."""
        return Latencies.model_construct(counts=tuple(self.counts), sum_s=self.sum_s)
