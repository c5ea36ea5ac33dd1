"""Which replica lately got which conversation, from whichever gateway.

Each gateway sees only a part of a conversation's turns. So they tell each other, about once a second, where they sent
which conversation, and the newest word of it counts. A conversation is known by its anchor (`blocks.PromptBlocks`),
cut to 48 bits: a hash with the salt of its tenant in it, of which nobody learns what was asked, and of which equal
prompts of two tenants have two. Two of a million conversations share one with a chance of 1 in 560, and then one of
them goes where the other is.

Only what this gateway sent itself is told: what others told comes to everybody from them. Bounded: what was noted
first is forgotten first, its own and others' words together; each takes about as much memory as a block of the index.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

__all__ = ["Conversations", "Placement"]

_CUT_BITS: Final = 16
_FORGOTTEN_PER_NOTE: Final = 8


class Placement(NamedTuple):
    """Where a conversation was sent."""

    conversation: int
    """Its anchor, cut to 48 bits."""
    address: str
    """host:port of the engine."""
    at_s: float
    """When, by this process's clock."""


class Conversations:
    """The conversations of one pool.

    Args:
        limit: how many are remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A conversation is in one of them, by who has the newest word of it. Oldest first.
        self._own: OrderedDict[int, Placement] = OrderedDict()
        self._others: OrderedDict[int, Placement] = OrderedDict()
        self._addresses: set[str] = set()

    def __len__(self) -> int:
        """Return how many conversations are remembered."""
        return len(self._own) + len(self._others)

    def find(self, anchor: int) -> str | None:
        """Return the replica that got the conversation last, None if nobody said."""
        conversation = anchor >> _CUT_BITS
        placement = self._own.get(conversation) or self._others.get(conversation)
        return placement.address if placement is not None else None

    def find_told(self, anchor: int) -> str | None:
        """Return the replica that got the conversation last if that was another gateway's doing, None otherwise."""
        placement = self._others.get(anchor >> _CUT_BITS)
        return placement.address if placement is not None else None

    def note(self, anchor: int, address: str, at_s: float) -> None:
        """Note that this gateway sent a turn of the conversation to a replica."""
        placement = Placement(anchor >> _CUT_BITS, address, at_s)
        self._others.pop(placement.conversation, None)
        self._put(self._own, placement)

    def learn(self, placement: Placement) -> None:
        """Take another gateway's word, unless there is a newer one."""
        known = self._own.get(placement.conversation) or self._others.get(placement.conversation)
        if known is not None and known.at_s >= placement.at_s:
            return
        self._own.pop(placement.conversation, None)
        self._put(self._others, placement)

    def tell(self, since_s: float) -> Iterator[Placement]:
        """Yield what this gateway noted since then, the newest first."""
        for placement in reversed(self._own.values()):
            if placement.at_s < since_s:
                return
            yield placement

    def forget(self, address: str) -> None:
        """Forget what a replica got: it is gone, or its cache is empty."""
        self._retain(self._addresses - {address})

    def retain(self, addresses: Collection[str]) -> None:
        """Forget what all replicas got but these."""
        self._retain(self._addresses & set(addresses))

    def resize(self, limit: int) -> None:
        """Change the limit; what is too much leaves with later notes and `sweep`."""
        self._limit = limit

    def sweep(self, count: int) -> int:
        """Forget up to that many that are too many; return how many."""
        forgotten = 0
        while forgotten < count and len(self) > self._limit:
            min((known for known in (self._own, self._others) if known), key=_find_oldest_s).popitem(last=False)
            forgotten += 1
        return forgotten

    def _put(self, known: OrderedDict[int, Placement], placement: Placement) -> None:
        known[placement.conversation] = placement
        known.move_to_end(placement.conversation)
        self._addresses.add(placement.address)
        self.sweep(_FORGOTTEN_PER_NOTE)

    def _retain(self, kept: set[str]) -> None:
        if len(kept) == len(self._addresses):
            return
        self._addresses = kept
        for known in (self._own, self._others):
            for conversation in [key for key, placement in known.items() if placement.address not in kept]:
                del known[conversation]


def _find_oldest_s(known: OrderedDict[int, Placement]) -> float:
    return next(iter(known.values())).at_s
