"""auto: new prefill tokens x batch size (LMetric, arXiv 2603.15202)."""

from __future__ import annotations

from llmos_gateway.routing.candidates import Candidates, Score

__all__ = ["score_auto"]


def score_auto(candidates: Candidates) -> list[Score]:
    """Score each replica by what the request costs there and how many share the cost."""
    prompt_tokens = candidates.prompt_tokens
    return [
        ((prompt_tokens - cached + queued) * (load + 1),)
        for load, cached, queued in zip(
            candidates.loads, candidates.cached_tokens, candidates.queued_tokens, strict=True
        )
    ]
