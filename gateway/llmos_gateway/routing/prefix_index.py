"""Remembers which replica probably holds which prompt blocks: an LRU of block hashes for each replica.

Nothing is read from the engines; what was sent to a replica is taken to be in its cache until as many newer blocks went
there as it is believed to hold. Blocks of one prompt are touched from the last to the first, so that a block is always
older than the one before it in the chain. Hence two facts, on which the rest stands:

* the oldest block of a replica is never the beginning of another one that is still there, so a replica always holds a
  prompt from its first block up to some block, without gaps (engines evict in the same order);
* along a prompt the set of replicas that hold a block only shrinks, so it is found by bisection: O(log blocks) look-ups
  for each distinct length, whatever the number of replicas.

Storage is shared: hash -> bit mask of replicas. Memory is bounded twice, by replica and in all (about 240 bytes for
each block of each replica). A replica that goes away leaves at once; its blocks are swept out a few at a time, with
later insertions, so that no request waits for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from llmos_gateway.routing.blocks import BLOCK_TOKENS

__all__ = ["IndexLimits", "PrefixIndex"]

_SWEPT_PER_INSERT: Final = 512


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """How much the index may remember."""

    blocks_per_replica: int = 32_768
    """At most this many blocks of one replica: 4 million tokens at 128 each, more than most KV caches hold."""
    blocks_in_all: int = 524_288
    """About 120 MiB; shared evenly where many replicas would take more together."""
    replicas: int = 1024
    """The one that came first leaves for one more."""

    def within(self, blocks_in_all: int, kv_cache_tokens: int) -> IndexLimits:
        """Return limits within these, for replicas whose KV cache holds that many tokens (0 = unknown).

        Twice the cache: where an engine has just evicted the end of a prompt, its beginning is often still there, and
        replays lose hits below 1.5 times. Beyond twice the router counts on more than is cached.
        """
        held = max(1, 2 * kv_cache_tokens // BLOCK_TOKENS) if kv_cache_tokens else self.blocks_per_replica
        return replace(self, blocks_per_replica=min(self.blocks_per_replica, held), blocks_in_all=blocks_in_all)


@dataclass(slots=True)
class _Replica:
    bit: int
    blocks: OrderedDict[int, None] = field(default_factory=OrderedDict)


class PrefixIndex:
    """Blocks by replica."""

    def __init__(self, limits: IndexLimits | None = None) -> None:
        self._limits = limits or IndexLimits()
        self._holders: dict[int, int] = {}
        self._replicas: dict[str, _Replica] = {}
        self._by_bit: dict[int, str] = {}
        self._leaving: list[_Replica] = []
        self._present = 0

    def __len__(self) -> int:
        """Return how many blocks are remembered, over all replicas, also those that are still swept out."""
        return sum(len(replica.blocks) for replica in (*self._replicas.values(), *self._leaving))

    @property
    def capacity_blocks(self) -> int:
        """How many blocks each replica may have now."""
        share = self._limits.blocks_in_all // max(1, len(self._replicas))
        return max(1, min(self._limits.blocks_per_replica, share))

    def match(self, hashes: Sequence[int]) -> dict[str, int]:
        """Return, for each replica that holds at least the first block, how many blocks from the first on it holds."""
        held: dict[str, int] = {}
        mask = self._mask(hashes[0]) if hashes else 0
        first = 0
        while mask:
            first = self._find_change(hashes, first, mask)
            remaining = self._mask(hashes[first]) & mask if first < len(hashes) else 0
            lost = mask ^ remaining
            while lost:
                bit = lost & -lost
                held[self._by_bit[bit]] = first
                lost ^= bit
            mask = remaining
        return held

    def insert(self, replica: str, hashes: Sequence[int]) -> None:
        """Note that a prompt was sent to `replica`: its blocks are the newest there now."""
        entry = self._replicas.get(replica) or self._add(replica)
        blocks, holders, bit = entry.blocks, self._holders, entry.bit
        for block in reversed(hashes):
            if block in blocks:
                blocks.move_to_end(block)
            else:
                blocks[block] = None
                holders[block] = holders.get(block, 0) | bit
        # The capacity shrinks when replicas come; a bounded number leaves with each insertion.
        excess = min(len(blocks) - self.capacity_blocks, len(hashes) + _SWEPT_PER_INSERT)
        if excess > 0:
            self._forget_oldest(entry, excess)
        if self._leaving:
            self._sweep_leaving(_SWEPT_PER_INSERT)

    def remove(self, replica: str) -> None:
        """Forget a replica: it matches nothing from now on, and its memory is freed by `sweep`."""
        entry = self._replicas.pop(replica, None)
        if entry is None:
            return
        self._present &= ~entry.bit
        self._leaving.append(entry)

    def retain(self, replicas: Collection[str]) -> None:
        """Forget all replicas but these."""
        for replica in [known for known in self._replicas if known not in replicas]:
            self.remove(replica)

    def resize(self, limits: IndexLimits) -> None:
        """Change the limits; what is too much leaves with later insertions and `sweep`."""
        self._limits = limits

    def sweep(self, blocks: int) -> int:
        """Free up to that many blocks that are too many or belong to replicas that went away; return how many."""
        freed = self._sweep_leaving(blocks)
        for entry in self._replicas.values():
            excess = min(len(entry.blocks) - self.capacity_blocks, blocks - freed)
            if excess > 0:
                freed += self._forget_oldest(entry, excess)
        return freed

    def _sweep_leaving(self, blocks: int) -> int:
        freed = 0
        while self._leaving and freed < blocks:
            entry = self._leaving[-1]
            freed += self._forget_oldest(entry, blocks - freed)
            if not entry.blocks:
                # Only now may another replica take the bit.
                self._leaving.pop()
                del self._by_bit[entry.bit]
        return freed

    def _mask(self, block: int) -> int:
        return self._holders.get(block, 0) & self._present

    def _find_change(self, hashes: Sequence[int], start: int, mask: int) -> int:
        """Return the first block after `start` that not all replicas of `mask` hold; they all hold `start`."""
        low, high = start + 1, len(hashes)
        while low < high:
            middle = (low + high) // 2
            if self._mask(hashes[middle]) & mask == mask:
                low = middle + 1
            else:
                high = middle
        return low

    def _add(self, replica: str) -> _Replica:
        if len(self._replicas) >= self._limits.replicas:
            self.remove(next(iter(self._replicas)))
        bit = 1
        while bit in self._by_bit:
            bit <<= 1
        entry = _Replica(bit)
        self._replicas[replica] = entry
        self._by_bit[bit] = replica
        self._present |= bit
        return entry

    def _forget_oldest(self, entry: _Replica, count: int) -> int:
        blocks, holders, others = entry.blocks, self._holders, ~entry.bit
        count = min(count, len(blocks))
        for _ in range(count):
            block, _none = blocks.popitem(last=False)
            if left := holders[block] & others:
                holders[block] = left
            else:
                del holders[block]
        return count
