"""A set of 16-byte digests that takes little more than 16 bytes for each: 10 million lines need 160 MB.

New digests gather in a Python set; when it is full it is merged into a sorted array, which is searched by bisection.
The merges of n digests cost O(n^2 / GATHER), which is below two minutes for a hundred million.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import Final

import numpy as np
import numpy.typing as npt

_GATHER: Final = 1 << 17
_HALF: Final = np.dtype("<u8")
_SPLIT: Final = struct.Struct("<QQ").unpack

Halves = npt.NDArray[np.uint64]


class DigestSet:
    """Remembers which digests were added."""

    def __init__(self, gather: int = _GATHER) -> None:
        """Start empty; `gather` is how many digests wait for a merge."""
        self._gather = gather
        self._fresh: set[bytes] = set()
        # Two arrays and not one of pairs, for bisection copies what is not contiguous.
        self._high: Halves = np.empty(0, dtype=_HALF)
        self._low: Halves = np.empty(0, dtype=_HALF)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._high) + len(self._fresh)

    def __contains__(self, digest: bytes) -> bool:
        """Whether it was added."""
        if digest in self._fresh:
            return True
        high, low = _SPLIT(digest)
        first = bisect_left(self._high, high)
        while first < len(self._high) and self._high[first] == high:
            if self._low[first] == low:
                return True
            first += 1
        return False

    def add(self, digest: bytes) -> bool:
        """Add a digest; return whether it is new."""
        if digest in self:
            return False
        self._fresh.add(digest)
        if len(self._fresh) >= self._gather:
            self._merge()
        return True

    def _merge(self) -> None:
        pairs = np.frombuffer(b"".join(self._fresh), dtype=_HALF).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0])]
        places = np.searchsorted(self._high, pairs[:, 0])
        self._high = np.insert(self._high, places, pairs[:, 0])
        self._low = np.insert(self._low, places, pairs[:, 1])
        self._fresh.clear()
