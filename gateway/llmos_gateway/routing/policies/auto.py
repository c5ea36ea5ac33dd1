"""auto: the cached prompt decides, unless a queue or the load speaks louder.

    cost = 64 * new_tokens + queued_tokens + prompt_tokens * load / (mean load + 1) - (2 * prompt_tokens at home)

in units of prefill tokens; the lowest cost wins. Starved replicas come first and overloaded ones last (share.py).

* new_tokens: what the replica has to compute. It weighs more than a token in the queue, because computing again what
  another replica has delays every request in the batch and evicts as much from this replica's cache. 64 is a batch of
  ordinary size; with 1 (the request's own delay and nothing else) up to a third of the hits is lost.
* queued_tokens: prompts that this gateway sent there and whose first token has not come. Among replicas that have
  equally much of the prompt, so for every new conversation, this decides.
* load: requests in flight, also those of other gateways, relative to the mean: a replica with twice the mean costs as
  much as computing the prompt once more.
* home, only where several gateways route to the pool: each knows only the prompts that it sent itself. It leans towards
  the replica that got this conversation last, as gateways tell each other (conversations.py); where some do not tell,
  towards the one that all would take for it (home.py).

LMetric (arXiv 2603.15202) multiplies new tokens by batch size. That keeps as many hits, but a new conversation does
not see that one of two equally loaded replicas has a long prompt before it; docs/reference/routing.md has both,
measured.
"""

from __future__ import annotations

from typing import Final

from llmos_gateway.routing.candidates import Candidates, Score
from llmos_gateway.routing.policies.share import rank_by_share

__all__ = ["score_auto"]

_NEW_TOKEN_WEIGHT: Final = 64
_HOME_WEIGHT: Final = 2


def score_auto(candidates: Candidates) -> list[Score]:
    """Score each replica by its share of the load, then by what the request costs there."""
    loads, prompt_tokens = candidates.loads, candidates.prompt_tokens
    load_tokens = prompt_tokens / (sum(loads) / len(loads) + 1)
    columns = zip(rank_by_share(loads), loads, candidates.cached_tokens, candidates.queued_tokens, strict=True)
    scores: list[Score] = [
        (rank, _NEW_TOKEN_WEIGHT * (prompt_tokens - cached) + queued + load * load_tokens)
        for rank, load, cached, queued in columns
    ]
    if candidates.home is not None:
        rank, cost = scores[candidates.home]
        scores[candidates.home] = (rank, cost - _HOME_WEIGHT * prompt_tokens)
    return scores
