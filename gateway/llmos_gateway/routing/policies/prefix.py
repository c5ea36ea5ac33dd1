"""prefix: the longest cached beginning, among replicas that are not overloaded.

A replica is overloaded when it has more than 1.25 times its share of the requests in flight, counting the new one
(consistent hashing with bounded loads, Mirrokni et al. 2016, the bound that KubeAI takes).
"""

from __future__ import annotations

from typing import Final

from llmos_gateway.routing.candidates import Candidates, Score

__all__ = ["score_prefix"]

_LOAD_FACTOR: Final = 1.25


def score_prefix(candidates: Candidates) -> list[Score]:
    """Score overloaded replicas last, then by cached tokens, then by load."""
    loads = candidates.loads
    most = max(_LOAD_FACTOR * (sum(loads) + 1) / len(loads), 1) if loads else 0
    return [(load > most, -cached, load) for load, cached in zip(loads, candidates.cached_tokens, strict=True)]
