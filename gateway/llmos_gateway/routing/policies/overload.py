"""The guard of the policies that follow the cache: which replica has too many requests to get more for its cache's
sake.

A replica is overloaded above max(1.25 m, m + 2.5 sqrt(m)) requests in flight, where m is the mean, counting the new
request. The first bound is that of consistent hashing with bounded loads (Mirrokni et al. 2016; KubeAI takes 1.25).
Alone it refuses what chance does: of few requests, evenly thrown, some replica has 1.25 times the mean nearly always,
and each refusal loses a cached prompt. So a replica may also exceed the mean by 2.5 standard deviations of a Poisson
variable. The second bound no longer counts from 100 requests on each replica.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["compute_most_load"]


def compute_most_load(loads: Sequence[int]) -> float:
    """Return the most requests in flight that a replica may have; the least loaded one never has more."""
    mean = (sum(loads) + 1) / len(loads)
    return max(1.25 * mean, mean + 2.5 * math.sqrt(mean))
