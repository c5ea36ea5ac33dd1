"""least-load: fewest requests in flight, whatever is cached."""

from __future__ import annotations

from llmos_gateway.routing.candidates import Candidates, Score

__all__ = ["score_least_load"]


def score_least_load(candidates: Candidates) -> list[Score]:
    """Score each replica by its requests in flight."""
    return [(load,) for load in candidates.loads]
