"""round-robin: all replicas are equal, and equal ones take turns."""

from __future__ import annotations

from llmos_gateway.routing.candidates import Candidates, Score

__all__ = ["score_round_robin"]


def score_round_robin(candidates: Candidates) -> list[Score]:
    """Score all replicas the same."""
    return [(0,)] * len(candidates.loads)
