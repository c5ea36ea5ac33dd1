"""Where conversations were sent, in the words of `GET /load`.

Clocks of two gateways have nothing in common, so an age is told. What is read counts from the moment of the question:
the answer was built later, so nothing seems newer than it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeAlias

from llmos.api.load import MAX_AGE_MS, MAX_CONVERSATIONS, Conversation, GatewayLoad
from llmos_gateway.routing import Placement

__all__ = ["Told", "build_told", "read_told"]

Told: TypeAlias = dict[str, dict[str, tuple[Conversation, ...]]]
"""By pool and by replica address, the newest first."""


def build_told(placements: Iterable[tuple[str, Placement]], now_s: float) -> Told:
    """Return the first `MAX_CONVERSATIONS` of them, each with the id of its pool."""
    told: dict[str, dict[str, list[Conversation]]] = {}
    for pool_id, (conversation, address, at_s) in islice(placements, MAX_CONVERSATIONS):
        age_ms = min(max(0, int(1000 * (now_s - at_s))), MAX_AGE_MS)
        told.setdefault(pool_id, {}).setdefault(address, []).append((conversation, age_ms))
    return {
        pool_id: {address: tuple(conversations) for address, conversations in by_address.items()}
        for pool_id, by_address in told.items()
    }


def read_told(load: GatewayLoad, asked_s: float) -> Iterator[tuple[str, Placement]]:
    """Yield what another gateway told, no more than `MAX_CONVERSATIONS`, each with the id of its pool."""
    placements = (
        (pool_id, Placement(conversation, address, asked_s - age_ms / 1000))
        for pool_id, pool in load.pools.items()
        for address, conversations in pool.conversations.items()
        for conversation, age_ms in conversations
    )
    return islice(placements, MAX_CONVERSATIONS)
