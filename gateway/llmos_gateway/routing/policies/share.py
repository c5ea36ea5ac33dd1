"""The guard of the policies that follow the cache: who is so far from its share of the load that caches do not count.

With m requests in flight on the mean replica, counting the new one, a replica is

    overloaded  above max(1.25 m, m + 2.5 sqrt(m)): it gets nothing for its cache's sake;
    starved     below min(m / 3, m - 2.5 sqrt(m)): it comes first, whatever it has cached.

1.25 is the bound of consistent hashing with bounded loads (Mirrokni et al. 2016; KubeAI takes it, too). Alone it
refuses what chance does: of few requests, evenly thrown, some replica has 1.25 times the mean nearly always, and each
refusal loses a cached prompt. So a replica may also exceed the mean by 2.5 standard deviations of a Poisson variable;
from 100 requests a replica on that no longer counts. The lower bound is for a replica that has just come: where most
requests share one long prefix, it would have nothing to offer and relieve nobody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

__all__ = ["ORDINARY", "OVERLOADED", "STARVED", "rank_by_share"]

STARVED: Final = 0
ORDINARY: Final = 1
OVERLOADED: Final = 2


def rank_by_share(loads: Sequence[int]) -> list[int]:
    """Return STARVED, ORDINARY or OVERLOADED for each replica; the least loaded one is never overloaded."""
    mean = (sum(loads) + 1) / len(loads)
    chance = 2.5 * math.sqrt(mean)
    most, least = max(1.25 * mean, mean + chance), min(mean / 3, mean - chance)
    return [OVERLOADED if load > most else STARVED if load < least else ORDINARY for load in loads]
