"""The routers of all pools, within one budget of memory.

Each pool gets an equal share of the blocks that the process may remember. When a pool comes, the others' shares
shrink; what is too much leaves a little at a time: with insertions, and by `sweep`, which the gateway calls about once
a second for the sake of pools without traffic (5,000 blocks take about 1 ms).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from llmos_gateway.routing.prefix_index import IndexLimits
from llmos_gateway.routing.router import Router

__all__ = ["Routers"]


class Routers:
    """One Router for each pool."""

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._limits = limits or IndexLimits()
        self._routers: dict[str, Router] = {}

    def get(self, pool_id: str) -> Router:
        """Return the pool's router, a new one if it has none yet."""
        router = self._routers.get(pool_id)
        if router is None:
            router = self._routers[pool_id] = Router()
            self._divide()
        return router

    def retain(self, pool_ids: Collection[str]) -> None:
        """Forget the routers of all pools but these."""
        kept = {pool_id: router for pool_id, router in self._routers.items() if pool_id in pool_ids}
        if len(kept) != len(self._routers):
            self._routers = kept
            self._divide()

    def sweep(self, blocks: int) -> int:
        """Free up to that many blocks that are no longer wanted; return how many."""
        freed = 0
        for router in self._routers.values():
            if freed >= blocks:
                break
            freed += router.sweep(blocks - freed)
        return freed

    def _divide(self) -> None:
        share = self._limits.blocks_in_all // max(1, len(self._routers))
        for router in self._routers.values():
            router.resize(replace(self._limits, blocks_in_all=share))
