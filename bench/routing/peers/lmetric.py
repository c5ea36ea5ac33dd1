"""LMetric (Zhang et al., arXiv 2603.15202): new prefill tokens if routed there x current batch size, the lowest wins.

The paper's score has no parameters. Two readings are tried, and each counts as a peer: the new tokens of this request
alone, and with those that already wait for their prefill there (`with_queue`). The batch size counts the new request,
so that an idle replica does not score zero whatever it has cached. Which blocks a replica has is known from what was
sent to it, in an LRU of the true cache size (better than a gateway would know); equal scores take turns.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from bench.routing.trace import BLOCK_TOKENS, Request

__all__ = ["LMetric"]


class LMetric:
    """The product."""

    def __init__(self, replicas: int, cache_blocks: int, *, with_queue: bool) -> None:
        self._caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(replicas)]
        self._cache_blocks = cache_blocks
        self._queued = [0] * replicas
        self._with_queue = with_queue
        self._waiting: dict[int, tuple[int, int]] = {}
        self._turn = self._tickets = 0

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Return the replica with the lowest product."""
        count = len(loads)
        new = [request.input_tokens - self._count_cached(cache, request) for cache in self._caches]

        def score(number: int) -> tuple[int, int]:
            queued = self._queued[number] if self._with_queue else 0
            return (new[number] + queued) * (loads[number] + 1), (number - self._turn) % count

        best = min(range(count), key=score)
        self._turn = best + 1
        self._remember(best, request)
        self._tickets += 1
        self._queued[best] += new[best]
        self._waiting[self._tickets] = (best, new[best])
        return best, self._tickets

    def first_token(self, token: object) -> None:
        """Its prompt does not wait any more."""
        assert isinstance(token, int)
        number, tokens = self._waiting.pop(token)
        self._queued[number] -= tokens

    def ended(self, token: object) -> None:
        """The load is counted by the replay."""

    def _count_cached(self, cache: OrderedDict[int, None], request: Request) -> int:
        cached = 0
        for block in request.blocks:
            if block not in cache:
                break
            cached += BLOCK_TOKENS
        return min(cached, request.input_tokens)

    def _remember(self, number: int, request: Request) -> None:
        cache = self._caches[number]
        for block in reversed(request.blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > self._cache_blocks:
            cache.popitem(last=False)
