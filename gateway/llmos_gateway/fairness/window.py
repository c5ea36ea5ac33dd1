"""How many requests of a pool the gateway lets through to its replicas at once.

An engine serves its own queue in order of arrival. Whatever waits there is beyond the reach of the counters, so it must
be short; but an engine that finds nothing waiting when a sequence ends computes less than it could. So for each replica
the gateway learns how many requests it runs at once, from the load that it tells every second (while somebody waits in
the gateway, four times as often):

- Requests wait in the engine, and either somebody waits here too or they are more than a few: the engine is full with
  those that run. The limit is the most that ran in the last `FULL_KEPT` reports of this kind.
- Nothing waits in the engine: it may be able to run more. The limit grows to `GROWTH` times what runs or, if room in
  the engine was what ended its growth before, by a hundredth, which is how a change is noticed.
- Streams that have begun to answer run, so the limit is at least their number; this tells at once, without a report.
  An engine that begins every answer at once, before it runs the request, must have a `max-num-seqs`.

What ended the growth tells what the engine needs:

- *Room*: as many sequences as it takes, or a KV cache that is full. Then a waiting request only waits. The window is a
  little less than the limit (`HEADROOM`), so that a request which is let through beyond it begins at once.
- *Prompts*: sequences would fit and wait for the prefill of others. Then `CUSHION` requests more than run keep it busy.

Beyond the window stands a reserve of `RESERVE` of it for flows with less than their part (see `queue`).

A replica that has told nothing yet counts as the largest of the others or `START`. The limit of one engine is never
above the `max-num-seqs` that its pool sets; where a replica cannot be asked and its pool sets none, it is not guarded.

With several gateways each is entitled to its equal part, and may use what the others leave: with `o` their requests on
the same replicas, as reported up to a second ago,

    own window = max(window / gateways, window - o)

So for about a second after others begin there may be more requests on a replica than it runs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

START: Final = 32.0
LEAST: Final = 8.0
"""No limit is learned below this while an engine has room: a few requests always wait for the step that runs."""
GROWTH: Final = 1.25
CUSHION: Final = 4.0
HEADROOM: Final = 0.02
RESERVE: Final = 0.06
FULL_KEPT: Final = 4
FULL_KV: Final = 0.85
"""Share of the KV cache from which on it counts as full: engines keep some free for sequences that grow."""
KV_FILLED: Final = 0.97
"""Share up to which an engine fills its cache before requests wait."""
_MANY: Final = 0.25


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What one replica told."""

    running: int
    waiting: int
    kv_usage: float = 0.0


@dataclass(frozen=True, slots=True)
class Room:
    """How many requests of this gateway may be on the replicas of a pool at once."""

    shared: float
    """For everybody."""
    reserve: float
    """Beyond that, for flows with less than their part."""


@dataclass(slots=True)
class _Replica:
    limit: float
    has_told: bool = False
    is_guarded: bool = True
    is_full_of_room: bool = False
    """Whether room in the engine is what ended its growth, not prompts that wait for each other."""
    prompts_in_a_row: int = 0
    """Reports of late that say the opposite."""
    begun: int = 0
    """Streams of this gateway that have begun to answer."""
    full: deque[int] = field(default_factory=lambda: deque(maxlen=FULL_KEPT))

    def compute_window(self, most: float) -> float:
        """Return how many requests may be there, without the reserve, where no more than `most` sequences run."""
        if not self.is_guarded:
            return math.inf
        # An engine may begin to answer before it runs a request.
        limit = min(most, max(self.limit, float(self.begun)))
        if self.is_full_of_room:
            return max(1.0, limit - max(1.0, HEADROOM * limit))
        return limit + CUSHION


class Window:
    """What is known of the replicas of one pool."""

    def __init__(self) -> None:
        self._replicas: dict[str, _Replica] = {}
        self._most = math.inf

    def retain(self, addresses: Collection[str], max_sequences: int = 0) -> None:
        """Say which replicas there are, and how many sequences each may run (0 = not known)."""
        self._most = float(max_sequences) if max_sequences > 0 else math.inf
        self._replicas = {address: known for address, known in self._replicas.items() if address in addresses}
        first = max((known.limit for known in self._replicas.values()), default=START)
        for address in addresses:
            if address not in self._replicas:
                self._replicas[address] = _Replica(min(self._most, first))

    def tell(self, address: str, figures: EngineFigures | None, *, is_awaited: bool) -> None:
        """Take in what a replica told, None if it could not be asked.

        Args:
            address: the replica.
            figures: its load.
            is_awaited: whether requests of the pool wait in the gateway.
        """
        replica = self._replicas.get(address)
        if replica is None:
            return
        if figures is None:
            replica.is_guarded = replica.has_told or math.isfinite(self._most)
            return
        replica.has_told = replica.is_guarded = True
        if figures.waiting and (is_awaited or figures.waiting > max(CUSHION, _MANY * figures.running)):
            self._learn_full(replica, figures)
        elif not figures.waiting:
            self._grow(replica, figures)

    def begin(self, address: str) -> bool:
        """Note that a stream has begun to answer; return whether the window grew by that."""
        replica = self._replicas.get(address)
        if replica is None:
            return False
        replica.begun += 1
        return min(self._most, replica.begun) > replica.limit

    def end(self, address: str) -> None:
        """Note that a stream that had begun has ended."""
        if (replica := self._replicas.get(address)) is not None:
            replica.begun = max(0, replica.begun - 1)

    def compute_room(self, *, gateways: int = 1, others: Callable[[str], float] = lambda _: 0.0) -> Room:
        """Return how many requests this gateway may have on the replicas.

        Args:
            gateways: how many send to them, this one included.
            others: requests of others on a replica.
        """
        if not self._replicas:
            return Room(0.0, 0.0)
        window = sum(replica.compute_window(self._most) for replica in self._replicas.values())
        if math.isinf(window):
            return Room(math.inf, 0.0)
        theirs = sum(others(address) for address in self._replicas) if gateways > 1 else 0.0
        own = max(1.0, window / gateways, window - theirs)
        return Room(own, max(1.0, RESERVE * own))

    def read_limits(self) -> dict[str, float]:
        """Return the limit of each replica, for those who look."""
        return {address: replica.limit for address, replica in self._replicas.items()}

    def _learn_full(self, replica: _Replica, figures: EngineFigures) -> None:
        replica.full.append(figures.running)
        most = max(replica.full)
        has_plateau = len(replica.full) == FULL_KEPT and most - min(replica.full) <= 1
        if figures.kv_usage >= FULL_KV or figures.running >= self._most or has_plateau:
            replica.prompts_in_a_row = 0
            replica.is_full_of_room = True
        else:
            replica.prompts_in_a_row += 1
            replica.is_full_of_room = replica.is_full_of_room and replica.prompts_in_a_row < FULL_KEPT
        replica.limit = min(self._most, max(float(most), 1.0 if replica.is_full_of_room else LEAST))

    def _grow(self, replica: _Replica, figures: EngineFigures) -> None:
        """Nothing waits in the engine."""
        replica.prompts_in_a_row = 0
        # What runs has taken `kv_usage` of the cache: more than fills it would wait.
        fits = KV_FILLED * figures.running / figures.kv_usage if figures.kv_usage > 0 else math.inf
        if not replica.is_full_of_room or figures.kv_usage >= FULL_KV:
            grown = GROWTH * figures.running
        elif figures.running >= replica.compute_window(self._most) - 1:
            grown = replica.limit + max(1.0, 0.01 * replica.limit)
        else:
            return
        replica.limit = min(self._most, max(replica.limit, min(grown, fits)))
