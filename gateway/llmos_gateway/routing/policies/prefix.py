"""prefix: the longest cached beginning, whatever waits there, among replicas that are not overloaded (share.py).

A beginning counts from a fifth of the prompt on. Less is usually the system prompt that all conversations share, and
whoever follows that sends every new conversation to the replicas that have it. Prompts of which no replica has more
than others go home where several gateways route to the pool (auto.py), else where the least waits.
"""

from __future__ import annotations

from llmos_gateway.routing.candidates import Candidates, Score
from llmos_gateway.routing.policies.share import rank_by_share

__all__ = ["score_prefix"]


def score_prefix(candidates: Candidates) -> list[Score]:
    """Score each replica by its share, then by cached tokens, then home, then by queue and load as `auto` does."""
    loads, prompt_tokens = candidates.loads, candidates.prompt_tokens
    load_tokens = prompt_tokens / (sum(loads) / len(loads) + 1)
    columns = zip(rank_by_share(loads), loads, candidates.cached_tokens, candidates.queued_tokens, strict=True)
    return [
        (
            rank,
            -cached if 5 * cached >= prompt_tokens else 0,
            place != candidates.home,
            queued + load * load_tokens,
        )
        for place, (rank, load, cached, queued) in enumerate(columns)
    ]
