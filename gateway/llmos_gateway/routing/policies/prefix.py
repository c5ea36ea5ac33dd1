"""prefix: the longest cached beginning, among replicas that are not overloaded (overload.py).

Prompts that no replica has more of than others go home where several gateways route to the pool (auto.py), else where
the fewest requests are in flight.
"""

from __future__ import annotations

from llmos_gateway.routing.candidates import Candidates, Score
from llmos_gateway.routing.policies.overload import compute_most_load

__all__ = ["score_prefix"]


def score_prefix(candidates: Candidates) -> list[Score]:
    """Score overloaded replicas last, then by cached tokens, then by load."""
    most = compute_most_load(candidates.loads)
    return [
        (load > most, -cached, place != candidates.home, load)
        for place, (load, cached) in enumerate(zip(candidates.loads, candidates.cached_tokens, strict=True))
    ]
