"""The paged KV cache: fixed blocks, shared by prefix, forgotten least recently used first.

A block is in use (one or more sequences refer to it) or free. A free block keeps its content, and the key that names
it, until it is handed out again, so that a later prompt with the same prefix takes it back instead of computing it.
This module only keeps the books; which sequence gets blocks is decided in scheduler.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Books of `total` blocks. A block's number is its identity."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(total))
        self._references = [0] * total
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def total(self) -> int:
        """Blocks in all."""
        return self._total

    @property
    def free(self) -> int:
        """Blocks that nobody refers to."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that are in use, 0 to 1."""
        return 1 - self.free / self._total

    def find_prefix(self, keys: Sequence[bytes]) -> list[int]:
        """Blocks that still hold the longest known prefix of `keys`. They are not taken yet."""
        found: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def is_free(self, block: int) -> bool:
        """Whether nobody refers to the block."""
        return self._references[block] == 0

    def take(self, blocks: Iterable[int]) -> None:
        """Refer to blocks that hold known content."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks for new content, least recently used first.

        Raises:
            ValueError: fewer are free. The caller asks first.
        """
        if count > self.free:
            raise ValueError(f"{count} KV blocks were asked for, {self.free} are free")
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
            key = self._key_of.pop(block, None)
            if key is not None:
                del self._block_of[key]
        return blocks

    def name(self, block: int, key: bytes) -> None:
        """Say what a block now holds. Of two blocks with equal content the first one keeps the name."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Give up a sequence's blocks, last one first: the end of a prompt is shared less often than its start."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
