"""Queueing: a request whose pool is busy waits here for its turn.

Whose turn it is and how many go at once is decided by `fairness`, which is pure; here are the futures that wait, their
deadlines, and what is told to callers and to the load book. Where nobody waits and there is room, a request passes
without waiting for anything: `enter` is a few look-ups.

The bounds are those of the pool's `spec.hold`: `maxRequests` may wait in each gateway, `maxRequestsPerKey` of one
tenant (of one key, where the key has no tenant), each until `timeoutSeconds` after its arrival. Beyond that: 429 where
there is no room, 503 where the time is over, both with a `Retry-After` from the pace at which requests went lately.

A pool that loses its last replica sends those that wait back to `holding`, which knows whether there is hope.

Whoever waits here counts as queued in the load book, so that the autoscaler sees the backlog: the engines do not have
it any more. It wakes nobody at once, for the pool has replicas and is looked at every second anyway.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from llmos.api.load import EngineLoad
from llmos_gateway.catalog import ANONYMOUS, ApiKey, Catalog, Pool
from llmos_gateway.fairness import EngineFigures, FairQueue, QueueFull, QueueLimits, Room, Ticket, Window
from llmos_gateway.holding import HoldRefused
from llmos_gateway.load import LoadBook
from llmos_gateway.protocol.usage import Usage

_NO_ROOM: Final = Room(0.0, 0.0)
_NO_LIMITS: Final = QueueLimits(sys.maxsize, sys.maxsize)
"""What is held is bounded already."""


@dataclass(slots=True)
class _Line:
    """The queue of one pool."""

    pool: Pool
    limits: QueueLimits
    queue: FairQueue = field(default_factory=FairQueue)
    window: Window = field(default_factory=Window)
    room: Room = _NO_ROOM
    turns: dict[Ticket, asyncio.Future[HoldRefused | bool]] = field(default_factory=dict)
    """Of those that wait: True when it is their turn, False when there is no replica any more."""
    addresses: frozenset[str] = frozenset()
    """Of the replicas that are listed."""
    sent: Counter[str] = field(default_factory=Counter)
    """Requests by the replica that has them."""

    def count_leaving(self) -> int:
        """Return the requests on replicas that are listed no longer: they take no room from those that are."""
        return sum(count for address, count in self.sent.items() if address not in self.addresses)


class Place:
    """One request's place: in the queue and then, until `leave`, in the window."""

    __slots__ = ("_address", "_begun_at", "_line", "_queueing", "_ticket")

    def __init__(self, queueing: Queueing, line: _Line, ticket: Ticket) -> None:
        self._queueing = queueing
        self._line = line
        self._ticket = ticket
        self._address = ""
        """Of the replica that has the request."""
        self._begun_at = ""

    @property
    def may_go(self) -> bool:
        """Whether it may be sent."""
        return not self._ticket.is_waiting

    async def wait(self, prompt_tokens: int, *, arrived_s: float) -> bool:
        """Return True when the request may be sent, False when the pool has no replica any more.

        Args:
            prompt_tokens: an estimate, for the autoscaler.
            arrived_s: when the request came; its deadline counts from there.

        Raises:
            HoldRefused: it cannot wait any longer; the book knows.
        """
        return await self._queueing.wait(self._line, self._ticket, prompt_tokens, arrived_s=arrived_s)

    def send(self, address: str) -> None:
        """Note which replica has the request."""
        self._end_attempt()
        self._line.sent[address] += 1
        self._address = address

    def begin(self, address: str) -> None:
        """Note that a stream has begun to answer."""
        self._begun_at = address
        if self._line.window.begin(address) and self._line.turns:
            self._queueing.refresh(self._line)

    def progress(self, output_tokens: int) -> None:
        """Note how many tokens have passed."""
        self._line.queue.progress(self._ticket, output_tokens)

    def leave(self, usage: Usage | None, *, was_served: bool) -> None:
        """Give the place to the next.

        Args:
            usage: what the engine counted, or None if it did not say.
            was_served: whether a replica may have worked on the request. What none took costs nothing.
        """
        self._end_attempt()
        counted = (0, 0, 0) if not was_served else None
        if usage is not None and usage.is_exact:
            counted = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        self._line.queue.end(self._ticket, counted)
        self._queueing.admit(self._line)

    def _end_attempt(self) -> None:
        if self._begun_at:
            # Also where it was lost before the caller saw anything of it.
            self._line.window.end(self._begun_at)
            self._begun_at = ""
        if self._address:
            sent, address = self._line.sent, self._address
            sent[address] -= 1
            if not sent[address]:
                del sent[address]
            if address not in self._line.addresses:
                self._queueing.measure(self._line)
            self._address = ""


class Queueing:
    """The queues of all pools.

    Args:
        catalog: pools, their replicas, and the weights of tenants.
        book: where waiting is counted.
        others: requests of others on a replica.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        catalog: Catalog,
        book: LoadBook,
        *,
        others: Callable[[str], float] = lambda _: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gateways = 1
        """How many gateways send to the same replicas, this one included."""
        self._catalog = catalog
        self._book = book
        self._others = others
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._by_address: dict[str, _Line] = {}
        catalog.subscribe(self._on_change)

    def enter(self, pool: Pool, key: ApiKey, *, prompt_tokens: int, is_whole: bool, was_let_in: bool = False) -> Place:
        """Return a place in the queue of a pool that has a replica, perhaps one that may go at once.

        Args:
            pool: the pool, for which the book has counted the arrival.
            key: the caller.
            prompt_tokens: an estimate.
            is_whole: whether the answer comes in one piece.
            was_let_in: whether it was held before; then it stays in, however many wait here.

        Raises:
            HoldRefused: there is no room; the book knows.
        """
        # Who asks for an adapter sees a part of the pool, and waits for its turn with all others.
        line = self._lines.get(pool.id) or self._open(self._catalog.get_pool(pool.id) or pool)
        tenant = self._catalog.get_tenant(key.tenant) if key.tenant else None
        limits = line.limits if key is not ANONYMOUS else QueueLimits(line.limits.max_waiting, line.limits.max_waiting)
        limits = _NO_LIMITS if was_let_in else limits
        try:
            ticket, pushed = line.queue.arrive(
                key.identity,
                float(tenant.weight) if tenant is not None else 1.0,
                prompt_tokens=prompt_tokens,
                is_whole=is_whole,
                now_s=self._clock(),
                limits=limits,
            )
        except QueueFull as full:
            self._book.refused(pool.id)
            raise _build_full(pool, key, full) from None
        if pushed is not None:
            self._push_out(line, pushed)
        self.admit(line)
        return Place(self, line, ticket)

    async def wait(self, line: _Line, ticket: Ticket, prompt_tokens: int, *, arrived_s: float) -> bool:
        """See `Place.wait`."""
        pool = line.pool
        turn: asyncio.Future[HoldRefused | bool] = asyncio.get_running_loop().create_future()
        line.turns[ticket] = turn
        counted = self._book.held(pool.id, prompt_tokens, wakes=False)
        try:
            await asyncio.wait((turn,), timeout=max(0.0, arrived_s + pool.hold.timeout_s - self._clock()))
            outcome = turn.result() if turn.done() else self._give_up(line, ticket, arrived_s)
        except asyncio.CancelledError:
            self._withdraw(line, ticket)
            raise
        finally:
            line.turns.pop(ticket, None)
            self._book.released(pool.id, counted)
        if isinstance(outcome, HoldRefused):
            if outcome.reason == "not_found":
                self._book.dropped(pool.id)
            else:
                self._book.refused(pool.id)
            raise outcome
        return outcome

    def admit(self, line: _Line) -> None:
        """Let go whoever may go now."""
        if not line.queue.waiting:
            return
        for ticket in line.queue.admit(line.room, self._clock()):
            turn = line.turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(True)

    def refresh(self, line: _Line) -> None:
        """Reckon the room anew, and let go whoever may go now."""
        self.measure(line)
        self.admit(line)

    def measure(self, line: _Line) -> None:
        """Reckon the room anew."""
        room = line.window.compute_room(gateways=self.gateways, others=self._others)
        line.room = replace(room, shared=room.shared + line.count_leaving())

    def tell(self, address: str, load: EngineLoad | None) -> None:
        """Take in what a replica told, None if it could not be asked."""
        line = self._by_address.get(address)
        if line is None:
            return
        figures = None if load is None else EngineFigures(load.running, load.waiting, load.kv_usage)
        line.window.tell(address, figures, is_awaited=bool(line.turns))
        self.refresh(line)

    def find_awaited(self) -> list[str]:
        """Return the ids of pools for which requests wait."""
        return [pool_id for pool_id, line in self._lines.items() if line.turns]

    def read_windows(self) -> dict[str, float]:
        """Return how many requests go at once, by pool."""
        return {pool_id: line.room.shared for pool_id, line in self._lines.items()}

    def _open(self, pool: Pool) -> _Line:
        line = self._lines[pool.id] = _Line(pool, _build_limits(pool))
        self._follow(line, pool)
        return line

    def _follow(self, line: _Line, pool: Pool) -> None:
        self._forget_addresses(line)
        line.pool, line.limits = pool, _build_limits(pool)
        line.addresses = frozenset(endpoint.address for endpoint in pool.endpoints)
        self._by_address.update(dict.fromkeys(line.addresses, line))
        line.window.retain(line.addresses, pool.max_sequences)
        self.refresh(line)

    def _forget_addresses(self, line: _Line) -> None:
        for endpoint in line.pool.endpoints:
            # The address of a pod that ended may be another pool's by now.
            if self._by_address.get(endpoint.address) is line:
                del self._by_address[endpoint.address]

    def _on_change(self, pool_id: str) -> None:
        line = self._lines.get(pool_id)
        if line is None:
            return
        pool = self._catalog.get_pool(pool_id)
        if pool is None:
            del self._lines[pool_id]
            gone = f"The model {pool_id} was deleted. Choose one of GET /v1/models."
            self._dismiss(line, lambda: HoldRefused("not_found", gone))
            self._forget_addresses(line)
            return
        self._follow(line, pool)
        if not pool.endpoints:
            self._dismiss(line, lambda: False)

    def _dismiss(self, line: _Line, build_outcome: Callable[[], HoldRefused | bool]) -> None:
        for ticket in line.queue.get_waiting():
            line.queue.leave(ticket)
            turn = line.turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(build_outcome())

    def _push_out(self, line: _Line, ticket: Ticket) -> None:
        turn = line.turns.get(ticket)
        if turn is not None and not turn.done():
            retry_s = math.ceil(line.queue.estimate_wait_s(ticket.flow))
            message = (
                f"The queue of {line.pool.id} is full (its spec.hold.maxRequests), and others who have less in it came."
                " Try again later, with fewer requests at once."
            )
            turn.set_result(HoldRefused("queue_full", message, retry_s))

    def _give_up(self, line: _Line, ticket: Ticket, arrived_s: float) -> HoldRefused:
        self._take_out(line, ticket)
        waited_s = self._clock() - arrived_s
        message = (
            f"{line.pool.id} is busy: the request was not sent within {waited_s:.0f} s (its spec.hold.timeoutSeconds). "
            "Try again later."
        )
        return HoldRefused("timed_out", message, math.ceil(line.queue.estimate_wait_s(ticket.flow)))

    def _withdraw(self, line: _Line, ticket: Ticket) -> None:
        """Free what a caller that is gone had: its place in the queue, or its turn that had just come."""
        turn = line.turns.get(ticket)
        if ticket.is_waiting:
            self._take_out(line, ticket)
        elif turn is not None and turn.done() and turn.result() is True:
            line.queue.end(ticket, (0, 0, 0))
            self.admit(line)

    def _take_out(self, line: _Line, ticket: Ticket) -> None:
        line.queue.leave(ticket)
        # It may have been first, and have had no right to the room that the next one has a right to.
        self.admit(line)


def _build_limits(pool: Pool) -> QueueLimits:
    return QueueLimits(pool.hold.max_requests, pool.hold.max_requests_per_key)


def _build_full(pool: Pool, key: ApiKey, full: QueueFull) -> HoldRefused:
    whose = "tenant" if key.tenant else "API key"
    limit = (
        f"As many requests of this {whose} wait for {pool.id} as may (its spec.hold.maxRequestsPerKey)"
        if full.of_flow
        else f"As many requests wait for {pool.id} as may (its spec.hold.maxRequests)"
    )
    return HoldRefused("queue_full", f"{limit}. Try again later.", math.ceil(full.retry_after_s))
