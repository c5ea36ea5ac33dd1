"""sglang router's cache_aware policy (sgl-project/sglang, cache_aware.rs and tree.rs).

If the load is imbalanced (max - min > balance_abs_threshold and max > balance_rel_threshold * min), the shortest queue.
Otherwise the longest match in an approximate radix tree of what was sent where: if it covers more than cache_threshold
of the prompt, one of the workers that the matching node knows (the first in its map); else

* `fallback="smallest-tree"`: the worker with the fewest characters in the tree (sgl-router of 2025, commit 026f853b;
  defaults 0.5, 32, 1.0001 in its README);
* `fallback="least-load"`: the worker with the fewest requests (sgl-model-gateway; defaults 0.3, 64, 1.5 in
  sglang-router 0.3.2), equal ones at random.

The choice is then inserted in the tree. Every eviction_interval_s the leaves that were used least recently leave until
no worker has more than max_tree_size characters. Block ids of the trace already name a whole beginning, so a node is a
block, and a block counts 512 tokens * 4 characters.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from bench.routing.peers.simple import Forgetful
from bench.routing.trace import BLOCK_TOKENS, Request

__all__ = ["CacheAware", "CacheAwareConfig"]

_BLOCK_CHARS: Final = BLOCK_TOKENS * 4


@dataclass(frozen=True, slots=True)
class CacheAwareConfig:
    """The policy's settings; these are the current defaults."""

    cache_threshold: float = 0.3
    balance_abs_threshold: int = 64
    balance_rel_threshold: float = 1.5
    fallback: Literal["smallest-tree", "least-load"] = "least-load"
    max_tree_size: int = 2**26
    eviction_interval_s: float = 60.0


@dataclass(slots=True)
class _Node:
    parent: int | None
    used_s: dict[int, float] = field(default_factory=dict)
    """By worker, in order of insertion."""


class CacheAware(Forgetful):
    """The policy with its tree."""

    def __init__(self, replicas: int, config: CacheAwareConfig, seed: int = 0) -> None:
        self._config = config
        self._nodes: dict[int, _Node] = {}
        self._chars = [0] * replicas
        self._evicted_s = 0.0
        self._random = random.Random(seed)

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Return the worker."""
        if now_s - self._evicted_s >= self._config.eviction_interval_s:
            self._evict()
            self._evicted_s = now_s
        best = self._select(request, loads, now_s)
        self._insert(request, best, now_s)
        return best, None

    def _select(self, request: Request, loads: Sequence[int], now_s: float) -> int:
        config = self._config
        most, least = max(loads), min(loads)
        if most - least > config.balance_abs_threshold and most > config.balance_rel_threshold * least:
            return self._pick_least(loads)
        matched, worker = self._match(request, now_s)
        if worker is not None and matched / len(request.blocks) > config.cache_threshold:
            return worker
        if config.fallback == "smallest-tree":
            return min(range(len(loads)), key=self._chars.__getitem__)
        return self._pick_least(loads)

    def _pick_least(self, loads: Sequence[int]) -> int:
        least = min(loads)
        return self._random.choice([number for number, load in enumerate(loads) if load == least])

    def _match(self, request: Request, now_s: float) -> tuple[int, int | None]:
        matched = 0
        for block in request.blocks:
            node = self._nodes.get(block)
            if node is None or not node.used_s:
                break
            matched += 1
        if not matched:
            return 0, None
        worker = next(iter(self._nodes[request.blocks[matched - 1]].used_s))
        for block in request.blocks[:matched]:
            self._nodes[block].used_s[worker] = now_s
        return matched, worker

    def _insert(self, request: Request, worker: int, now_s: float) -> None:
        parent: int | None = None
        for block in request.blocks:
            node = self._nodes.setdefault(block, _Node(parent))
            if worker not in node.used_s:
                self._chars[worker] += _BLOCK_CHARS
            node.used_s[worker] = now_s
            parent = block

    def _evict(self) -> None:
        for worker, chars in enumerate(self._chars):
            if chars > self._config.max_tree_size:
                self._evict_worker(worker)

    def _evict_worker(self, worker: int) -> None:
        children: dict[int, int] = {}
        held = [block for block, node in self._nodes.items() if worker in node.used_s]
        for block in held:
            parent = self._nodes[block].parent
            if parent is not None:
                children[parent] = children.get(parent, 0) + 1
        leaves = [(self._nodes[block].used_s[worker], block) for block in held if not children.get(block)]
        heapq.heapify(leaves)
        while leaves and self._chars[worker] > self._config.max_tree_size:
            _used_s, block = heapq.heappop(leaves)
            node = self._nodes[block]
            del node.used_s[worker]
            self._chars[worker] -= _BLOCK_CHARS
            if not node.used_s:
                del self._nodes[block]
            if node.parent is not None:
                children[node.parent] -= 1
                if not children[node.parent]:
                    heapq.heappush(leaves, (self._nodes[node.parent].used_s[worker], node.parent))
