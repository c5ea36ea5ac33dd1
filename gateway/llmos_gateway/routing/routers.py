"""The routers of all pools, within one budget of memory.

Each pool gets an equal share of the blocks that the process may remember, and of each of its replicas no more than a
KV cache of that size could hold. When a pool comes, the others' shares shrink at the next `sweep`, which the gateway
calls about once a second; what is too much leaves a little at a time: by it, for the sake of pools without traffic
(5,000 blocks take about 1 ms), and with insertions.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from llmos_gateway.routing.conversations import Placement
from llmos_gateway.routing.prefix_index import IndexLimits
from llmos_gateway.routing.router import Router

__all__ = ["Routers"]


@dataclass(slots=True)
class _Entry:
    kv_cache_tokens: int
    router: Router = field(default_factory=Router)


class Routers:
    """One Router for each pool."""

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._limits = limits or IndexLimits()
        self._entries: dict[str, _Entry] = {}
        self._is_divided = True
        """Whether all shares are as many as there are pools."""

    def find(self, pool_id: str) -> Router | None:
        """Return the pool's router if it has one."""
        entry = self._entries.get(pool_id)
        return entry.router if entry is not None else None

    def get(self, pool_id: str, kv_cache_tokens: int = 0) -> Router:
        """Return the pool's router, a new one if it has none yet.

        `kv_cache_tokens` is what the KV cache of one of its replicas holds, 0 if that is unknown.
        """
        entry = self._entries.get(pool_id)
        if entry is None:
            entry = self._entries[pool_id] = _Entry(kv_cache_tokens)
            self._resize(entry)
            self._is_divided = False
        return entry.router

    def refresh(self, pool_id: str, addresses: Collection[str], kv_cache_tokens: int = 0) -> None:
        """Say which replicas a pool has now, and what their KV caches hold, if it has a router."""
        entry = self._entries.get(pool_id)
        if entry is None:
            return
        entry.router.retain(addresses)
        if entry.kv_cache_tokens != kv_cache_tokens:
            entry.kv_cache_tokens = kv_cache_tokens
            self._resize(entry)

    def retain(self, pool_ids: Collection[str]) -> None:
        """Forget the routers of all pools but these."""
        kept = {pool_id: entry for pool_id, entry in self._entries.items() if pool_id in pool_ids}
        if len(kept) != len(self._entries):
            self._entries = kept
            self._is_divided = False

    def tell(self, since_s: float) -> Iterator[tuple[str, Placement]]:
        """Yield where conversations of which pool were sent since then, the newest of all first."""
        told = [_tell(pool_id, entry.router, since_s) for pool_id, entry in self._entries.items()]
        return heapq.merge(*told, key=lambda word: -word[1].at_s)

    def sweep(self, blocks: int) -> int:
        """Free up to that many blocks that are no longer wanted; return how many."""
        if not self._is_divided:
            # Here rather than with each pool that comes or goes, for there may be hundreds at once.
            self._is_divided = True
            for entry in self._entries.values():
                self._resize(entry)
        freed = 0
        for entry in self._entries.values():
            if freed >= blocks:
                break
            freed += entry.router.sweep(blocks - freed)
        return freed

    def _resize(self, entry: _Entry) -> None:
        share = self._limits.blocks_in_all // max(1, len(self._entries))
        entry.router.resize(self._limits.within(share, entry.kv_cache_tokens))


def _tell(pool_id: str, router: Router, since_s: float) -> Iterator[tuple[str, Placement]]:
    for placement in router.tell(since_s):
        yield pool_id, placement
