"""KubeAI's PrefixHash: consistent hashing with bounded loads (kubeai-project/kubeai at f442a2cd, balance_chwbl.go).

xxhash64 of the adapter and the first 100 characters of the first user message; 256 virtual nodes for each endpoint,
each the xxhash64 of its name and a number; clockwise from the key, the first endpoint whose load is at most 1.25 times
the mean, counting the new request, or any if nothing is in flight; if none fits, the first.

The trace has no text. `key_block` is the block that stands for these characters: 0 is the very beginning, which all
prompts of the conversation trace share (a system prompt), 1 is the first block that belongs to the user.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from xxhash import xxh64_intdigest

from bench.routing.peers.simple import Forgetful
from bench.routing.trace import Request

__all__ = ["Chwbl"]


class Chwbl(Forgetful):
    """The ring."""

    def __init__(self, replicas: int, *, key_block: int, load_factor: float = 1.25, virtual_nodes: int = 256) -> None:
        self._key_block = key_block
        self._load_factor = load_factor
        ring = {
            xxh64_intdigest(f"10.0.0.{number}:8000{node}".encode()): number
            for number in range(replicas)
            for node in range(virtual_nodes)
        }
        self._hashes = sorted(ring)
        self._owners = [ring[position] for position in self._hashes]

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Return the first endpoint clockwise that is not overloaded."""
        key = request.blocks[min(self._key_block, len(request.blocks) - 1)]
        start = bisect_left(self._hashes, xxh64_intdigest(str(key).encode())) % len(self._hashes)
        total = sum(loads)
        most = self._load_factor * (total + 1) / len(loads)
        for step in range(len(self._owners)):
            owner = self._owners[(start + step) % len(self._owners)]
            if total == 0 or loads[owner] <= most:
                return owner, None
        return self._owners[start], None
