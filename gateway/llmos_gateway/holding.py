"""Holding: a request whose pool has no replica that can be reached waits here until one comes, within bounds.

Who waits: as many as the pool's and the key's limits allow, each until its deadline. The queue is first in, first out:
when a replica appears, all that wait for the pool go, in the order in which they came. They are not let out a few at a
time: the engine admits what its memory bears and queues the rest itself, in the same order, and the router spreads them
if several replicas came together. The price is that a second replica, seconds later, gets only what arrives after it.

Replicas that are listed and cannot be reached count as none for a request that has tried them (`avoided`). It goes on
when another one is listed, or when one of the pool's replicas can be connected to (`reached`). To find that out the
first in the queue tries again after a pause, for all: what is dead gets one attempt at a time, however many wait.

Requests for an adapter wait in the same queue, within the same limits, for the replicas that serve it. They are a lane
of their own there: what one of them finds out by trying holds for the replicas that have the adapter only.

When it ends otherwise: the queue is full (429), the deadline has passed (503), the pool cannot get a replica until
somebody changes something (503, with the operator's words, at once for all that wait), no replica of a pool that runs
serves the adapter, and none is loading it (the same), or the pool or adapter is gone (404). A caller that goes away
frees its slot at once.

`Retry-After` is what is left of the pool's measured start-up time since the first of those that wait came, for their
coming is what woke the pool; without a measurement, or when something is known to be wrong, `UNKNOWN_RETRY_S`.

Accounting: `wait` tells the book how the request ended whenever it does not return a pool.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from llmos_gateway.catalog import ANONYMOUS, Catalog, Pool
from llmos_gateway.load import LoadBook

UNKNOWN_RETRY_S: Final = 10
MAX_RETRY_S: Final = 3600
MAX_REQUESTS: Final = 10_000
"""Requests that one gateway holds, whatever its pools allow: each holds a connection and a body."""
LONGEST_TRY_S: Final = 5.0
"""For which one request tries replicas that could not be reached, and no other one does."""

RefusedFor = Literal["queue_full", "timed_out", "replica_unreachable", "unavailable", "not_found"]
_STATUS: Final[dict[RefusedFor, int]] = {
    "queue_full": 429,
    "timed_out": 503,
    "replica_unreachable": 503,
    "unavailable": 503,
    "not_found": 404,
}


class HoldRefused(Exception):  # noqa: N818 - the request was refused; nothing is broken
    """The request cannot wait, or not any longer.

    `reason` is for programs, `message` for the caller: cause and remedy. `retry_after_s` is None where trying again
    helps only after somebody has changed something. `status` is the HTTP status to answer with.
    """

    def __init__(self, reason: RefusedFor, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
        self.status = _STATUS[reason]


@dataclass(slots=True, eq=False)
class _Waiter:
    caller: str
    since_s: float
    avoided: frozenset[str] = frozenset()
    tries_at_s: float = math.inf
    """When it may try what it avoids, if it is the first in the queue."""
    change: asyncio.Future[None] | None = None
    """Done when something about the pool has changed."""

    def can_use(self, pool: Pool) -> bool:
        return any(endpoint.address not in self.avoided for endpoint in pool.endpoints)

    def forget_gone(self, pool: Pool) -> None:
        """What is listed no longer may come back as a new process under its old address."""
        if self.avoided:
            self.avoided &= {endpoint.address for endpoint in pool.endpoints}

    async def wait_for_change(self, timeout_s: float) -> None:
        self.change = asyncio.get_running_loop().create_future()
        await asyncio.wait((self.change,), timeout=timeout_s)

    def wake(self) -> None:
        if self.change is not None and not self.change.done():
            self.change.set_result(None)


@dataclass(slots=True)
class _Lane:
    """Those that wait for the same replicas: all of a pool, or those that serve one adapter."""

    waiters: OrderedDict[_Waiter, None] = field(default_factory=OrderedDict)
    """In order of arrival."""
    tried_until_s: float = 0.0
    """Until when nobody else tries a replica that could not be reached."""

    @property
    def first(self) -> _Waiter:
        return next(iter(self.waiters))

    def add(self, waiter: _Waiter) -> None:
        is_back = bool(self.waiters) and waiter.since_s < self.first.since_s
        self.waiters[waiter] = None
        if is_back:
            self.waiters.move_to_end(waiter, last=False)
        if self.first is waiter:
            # Who was let out to try is back, in its place.
            self.tried_until_s = 0.0

    def remove(self, waiter: _Waiter) -> None:
        del self.waiters[waiter]
        if self.waiters:
            # Another one may be the first now, whose turn it is to try.
            self.first.wake()


@dataclass(slots=True)
class _Queue:
    """All that wait for a pool."""

    lanes: dict[str, _Lane] = field(default_factory=dict)
    """By adapter; the empty name is the pool's model."""
    by_caller: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def list_waiters(self) -> list[_Waiter]:
        return [waiter for lane in self.lanes.values() for waiter in lane.waiters]

    def find_oldest_s(self) -> float:
        return min((lane.first.since_s for lane in self.lanes.values()), default=math.inf)

    def add(self, adapter: str, waiter: _Waiter) -> _Lane:
        lane = self.lanes.setdefault(adapter, _Lane())
        lane.add(waiter)
        self.size += 1
        self.by_caller[waiter.caller] = self.by_caller.get(waiter.caller, 0) + 1
        return lane

    def remove(self, adapter: str, waiter: _Waiter) -> None:
        lane = self.lanes[adapter]
        lane.remove(waiter)
        if not lane.waiters:
            del self.lanes[adapter]
        self.size -= 1
        self.by_caller[waiter.caller] -= 1
        if not self.by_caller[waiter.caller]:
            del self.by_caller[waiter.caller]


class Holding:
    """The queues of all pools.

    Args:
        catalog: tells when a replica comes, or none can come.
        book: where waiting and its end are counted.
        clock: seconds that only grow.
        max_requests: requests held over all pools.
    """

    def __init__(
        self,
        catalog: Catalog,
        book: LoadBook,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_requests: int = MAX_REQUESTS,
    ) -> None:
        self._catalog = catalog
        self._book = book
        self._clock = clock
        self._max_requests = max_requests
        self._queues: dict[str, _Queue] = {}
        self._held = 0
        catalog.subscribe(self._on_change)

    async def wait(
        self,
        pool_id: str,
        caller: str,
        prompt_tokens: int,
        *,
        adapter: str = "",
        arrived_s: float | None = None,
        was_let_in: bool = False,
        avoided: frozenset[str] = frozenset(),
        pause_s: float = 0.0,
    ) -> Pool:
        """Return the pool, as the adapter sees it, as soon as it has a replica: at once if it has one now.

        Args:
            pool_id: the pool, for which the book has counted the arrival.
            caller: the identity of the key.
            prompt_tokens: an estimate, for the autoscaler.
            adapter: that the replica must serve; empty for the pool's model.
            arrived_s: when the request came by `clock`, if it waited before; its deadline counts from there.
            was_let_in: whether it was held or queued before; then it keeps its place, however full the queue is by now.
            avoided: addresses that it could not reach, which count as no replica. Who has some was let in before.
            pause_s: after which the first in the queue tries them again.

        Raises:
            HoldRefused: it cannot wait, or not any longer; the book knows.
        """
        now_s = self._clock()
        waiter = _Waiter(caller, now_s if arrived_s is None else arrived_s, avoided, now_s + pause_s)
        try:
            return await self._wait(pool_id, adapter, waiter, prompt_tokens, was_let_in=was_let_in or bool(avoided))
        except HoldRefused as refusal:
            if refusal.reason in {"queue_full", "timed_out", "replica_unreachable"}:
                self._book.refused(pool_id)
            else:
                self._book.dropped(pool_id)
            raise
        except asyncio.CancelledError:
            self._book.dropped(pool_id)
            raise

    def reached(self, pool_id: str, adapter: str = "") -> None:
        """Note that who was let out to try has a replica: all that wait for the same replicas may try them."""
        queue = self._queues.get(pool_id)
        lane = queue.lanes.get(adapter) if queue else None
        for waiter in lane.waiters if lane else ():
            waiter.avoided = frozenset()
            waiter.wake()

    async def _wait(self, pool_id: str, adapter: str, waiter: _Waiter, prompt_tokens: int, *, was_let_in: bool) -> Pool:
        pool = self._get_pool(pool_id, adapter)
        if waiter.can_use(pool):
            return pool
        deadline_s = waiter.since_s + pool.hold.timeout_s
        self._check_time(pool, waiter.since_s, deadline_s)
        if not was_let_in:
            self._check_room(pool, waiter.caller)
        lane = self._enter(pool_id, adapter, waiter)
        ticket = self._book.held(pool_id, prompt_tokens)
        try:
            # A replica may come and be gone again before this runs; the place in the queue is kept.
            while not waiter.can_use(pool) and not self._may_try(pool, lane, waiter):
                tries_at_s = max(waiter.tries_at_s, lane.tried_until_s)
                is_next = pool.endpoints and lane.first is waiter
                await waiter.wait_for_change(min(deadline_s, tries_at_s if is_next else deadline_s) - self._clock())
                pool = self._get_pool(pool_id, adapter)
                waiter.forget_gone(pool)
                if not waiter.can_use(pool):
                    self._check_time(pool, waiter.since_s, deadline_s)
            return pool
        finally:
            self._leave(pool_id, adapter, waiter)
            self._book.released(pool_id, ticket)

    def _may_try(self, pool: Pool, lane: _Lane, waiter: _Waiter) -> bool:
        """Whether the waiter tries what it avoids, for all; then the others wait until it knows."""
        now_s = self._clock()
        if not pool.endpoints or lane.first is not waiter or now_s < max(waiter.tries_at_s, lane.tried_until_s):
            return False
        lane.tried_until_s = now_s + LONGEST_TRY_S
        return True

    def _get_pool(self, pool_id: str, adapter: str) -> Pool:
        """Return a pool, as an adapter sees it, that has a replica or may get one."""
        pool = self._catalog.get_pool(pool_id, adapter)
        if pool is None:
            is_pool = self._catalog.get_pool(pool_id) is None or not adapter
            gone = f"model {pool_id} was deleted" if is_pool else f"adapter {adapter} was detached from {pool_id}"
            raise HoldRefused("not_found", f"The {gone}. Choose one of GET /v1/models.")
        if pool.is_hopeless and not pool.endpoints:
            retry_after_s = UNKNOWN_RETRY_S if pool.mends_itself else None
            raise HoldRefused("unavailable", f"{_lacks_replica(pool)} {pool.problem}".strip(), retry_after_s)
        return pool

    def _check_time(self, pool: Pool, arrived_s: float, deadline_s: float) -> None:
        now_s = self._clock()
        if now_s >= deadline_s:
            raise HoldRefused(
                "replica_unreachable" if pool.endpoints else "timed_out",
                f"No replica of {pool.full_name} could take the request within {now_s - arrived_s:.0f} s. "
                f"Try again later.{_because(pool)}",
                self._compute_retry(pool, arrived_s),
            )

    def _check_room(self, pool: Pool, caller: str) -> None:
        queue, hold = self._queues.get(pool.id, _Queue()), pool.hold
        if self._held >= self._max_requests:
            limit = f"This gateway holds {self._max_requests} requests already"
        elif queue.size >= hold.max_requests:
            limit = f"{hold.max_requests} requests wait for {pool.id} already (its spec.hold.maxRequests)"
        elif caller != ANONYMOUS.identity and queue.by_caller.get(caller, 0) >= hold.max_requests_per_key:
            limit = (
                f"{hold.max_requests_per_key} requests of this tenant or API key wait for {pool.id} already "
                "(its spec.hold.maxRequestsPerKey)"
            )
        else:
            return
        raise HoldRefused(
            "queue_full",
            f"{limit}, and no replica can take them yet. Try again later.{_because(pool)}",
            self._compute_retry(pool, self._clock()),
        )

    def _compute_retry(self, pool: Pool, arrived_s: float) -> int:
        if not pool.start_s or pool.problem:
            return UNKNOWN_RETRY_S
        queue = self._queues.get(pool.id)
        woken_s = min(arrived_s, queue.find_oldest_s() if queue else math.inf)
        left_s = pool.start_s - (self._clock() - woken_s)
        return min(max(1, math.ceil(left_s)), MAX_RETRY_S)

    def _enter(self, pool_id: str, adapter: str, waiter: _Waiter) -> _Lane:
        self._held += 1
        return self._queues.setdefault(pool_id, _Queue()).add(adapter, waiter)

    def _leave(self, pool_id: str, adapter: str, waiter: _Waiter) -> None:
        queue = self._queues[pool_id]
        queue.remove(adapter, waiter)
        self._held -= 1
        if not queue.size:
            del self._queues[pool_id]

    def _on_change(self, pool_id: str) -> None:
        queue = self._queues.get(pool_id)
        for waiter in queue.list_waiters() if queue else ():
            waiter.wake()


def _lacks_replica(pool: Pool) -> str:
    if pool.adapter is None:
        return f"{pool.id} has no replica and can get none."
    return f"No replica of {pool.id} serves the adapter {pool.adapter.name}."


def _because(pool: Pool) -> str:
    return f" The pool says: {pool.problem}" if pool.problem else ""
