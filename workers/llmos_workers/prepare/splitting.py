"""Which examples are held out. Pure.

    u(example) = blake2b-64( seed, digest of the example ) / 2^64         held out if u < evalFraction

The choice depends on the example and the seed alone: not on its place, nor on what else is in the dataset. The same
line lands on the same side in every file and version of a dataset, and copies of it never on both.

Where the fraction is above 0 but no example lies below it (small datasets), the one with the smallest u is held out.
Therefore the smallest so far is held back until the end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Row = TypeVar("Row")


def compute_place(digest: bytes, seed: int) -> float:
    """Return where an example stands between 0 and 1."""
    hashed = hashlib.blake2b(digest, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(hashed, "little") / 2**64


def is_held_out(digest: bytes, fraction: float, seed: int) -> bool:
    """Whether the example is held out by its place alone."""
    return compute_place(digest, seed) < fraction


@dataclass
class Smallest(Generic[Row]):
    """Holds back the example with the smallest place, with its copies, until it is known whether any is held out."""

    place: float = 2.0
    row: Row | None = None
    copies: int = field(default=0)

    def offer(self, place: float, row: Row) -> list[Row]:
        """Take an example, and return those that are no longer held back."""
        if place > self.place:
            return [row]
        if place == self.place:
            self.copies += 1
            return []
        released = self.release()
        self.place, self.row, self.copies = place, row, 1
        return released

    def release(self) -> list[Row]:
        """Give back what is held."""
        rows = [] if self.row is None else [self.row] * self.copies
        self.place, self.row, self.copies = 2.0, None, 0
        return rows
