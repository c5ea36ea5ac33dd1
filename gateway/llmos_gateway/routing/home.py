"""The replica that every gateway takes for a conversation without asking the others: rendezvous hashing.

Each replica draws a number from the conversation and its own address, the highest wins (Thaler and Ravishankar 1998).
When a replica comes or goes, only the conversations that it wins or had won move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from xxhash import xxh3_64_intdigest

__all__ = ["find_home"]

_MASK: Final = 2**64 - 1
_ODD: Final = 0x9E37_79B9_7F4A_7C15


def find_home(anchor: int, addresses: Sequence[str]) -> int:
    """Return the position of the conversation's replica in `addresses`, which must not be empty."""
    draws = [((anchor ^ _hash_address(address)) * _ODD & _MASK) >> 11 for address in addresses]
    return max(range(len(draws)), key=draws.__getitem__)


@lru_cache(maxsize=4096)
def _hash_address(address: str) -> int:
    return xxh3_64_intdigest(address.encode())
