"""Which key is reconciled next: the queue between watch events and workers.

Three sets decide everything. `ready` holds keys in the order in which they became due, `running` those that a worker
has, `dirty` those that changed while a worker had them. An event for a key that is ready already collapses; an event
for a key that is running marks it dirty, and it becomes ready again when its worker returns. So no change is ever lost,
no key is ever with two workers, and the memory is bounded by the number of distinct keys.

`ready` has two lanes. News (`add`) goes before routine (`add_after`: looking again, retries, resync), so that a change
is answered quickly while thousands of objects are merely looked at again; every eighth turn is routine's, so that it
goes on under a flood of news.

A key rests after each run for three times as long as the run took, `rest_s` at least, or as long as the run asked for
if that is longer, and a second at most: what changes again and again, as the pods of a pool that makes many, is looked
at a few times a second and not once for each change, and takes no more than a quarter of anybody's time.

A key on which all others wait may have a worker of its own (`own_workers`): it starts whenever it is due, however busy
the others are.

A failed key is tried again after base x 2^(n-1), at most `cap`, less a random share of up to `jitter`, so that many
keys that failed together do not return together. The first success forgets the failures.

The queue knows nothing of Kubernetes. It must be used from one event loop.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

LONGEST_REST_S: Final = 1.0
REST_SHARE: Final = 3.0
"""Seconds of rest for each second of a run."""
ROUTINE_TURN: Final = 8
"""One in so many turns is routine's while there is news."""


@dataclass(frozen=True)
class Backoff:
    """How long a failed key waits."""

    base_s: float = 0.1
    cap_s: float = 60.0
    jitter: float = 0.2
    """Largest random share that is taken off a delay."""

    def compute_delay_s(self, failures: int, chance: float) -> float:
        """Return the delay after so many failures in a row; `chance` is a random number in [0, 1)."""
        # 2^64 x base is beyond any cap; a larger exponent would only overflow.
        delay_s: float = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 64))
        return delay_s * (1.0 - self.jitter * chance)


@dataclass
class _Run:
    task: asyncio.Task[None]
    started_s: float
    is_aborted: bool = False


class WorkQueue(Generic[K]):
    """A de-duplicating queue with its workers.

    Args:
        process: handles one key. It returns after how many seconds the key is due again even if nothing changes, or
            None. Whatever it raises is a failure; an attribute `retry_after_s` of the error is the least delay.
        workers: how many keys may be processed at a time.
        on_failure: told the key, the error and the delay until the next try.
        own_workers: keys that have a worker of their own, beyond `workers`; they do not rest.
        rest_s: the shortest rest; 0 for none.
        rest_of: how long a key that was just processed asks to rest at least.
    """

    def __init__(
        self,
        process: Callable[[K], Awaitable[float | None]],
        *,
        workers: int,
        backoff: Backoff = Backoff(),
        on_failure: Callable[[K, Exception, float], None] = lambda _key, _error, _delay_s: None,
        chance: Callable[[], float] = random.random,
        own_workers: frozenset[K] = frozenset(),
        rest_s: float = 0.0,
        rest_of: Callable[[K], float] = lambda _key: 0.0,
    ) -> None:
        self._process = process
        self._workers = workers
        self._backoff = backoff
        self._on_failure = on_failure
        self._chance = chance
        self._own_workers = own_workers
        self._rest_s = rest_s
        self._rest_of = rest_of
        # Keys by lane, in order, with the time since when they are due.
        self._news: OrderedDict[K, float] = OrderedDict()
        self._routine: OrderedDict[K, float] = OrderedDict()
        self._turn = 0
        self._running: dict[K, _Run] = {}
        self._resting: set[K] = set()
        self._dirty: dict[K, float] = {}
        # With the time when it rings: uvloop's handles of timers that ring at once do not tell it.
        self._timers: dict[K, tuple[float, asyncio.Handle]] = {}
        self._failures: dict[K, int] = {}
        self._is_paused = False
        self._resumed_s = 0.0
        self._is_stopping = False

    def add(self, key: K) -> None:
        """Make a key due now, before all that is due by the clock. It keeps its place if it is news already."""
        since_s = self._routine.pop(key, self._now_s())
        if key in self._running or key in self._resting:
            self._dirty.setdefault(key, since_s)
        elif key not in self._news:
            self._news[key] = since_s
            self._start_due()

    def add_after(self, key: K, delay_s: float) -> None:
        """Make a key due after a while. Of several delays for one key the one that ends first counts."""
        timer = self._timers.get(key)
        due_s = self._now_s() + delay_s
        if timer is not None and timer[0] <= due_s:
            return
        if timer is not None:
            timer[1].cancel()
        self._timers[key] = (due_s, asyncio.get_running_loop().call_at(due_s, self._ring, key))

    def pause(self) -> None:
        """Start nothing more until `resume`; what is added waits."""
        self._is_paused = True

    def resume(self) -> None:
        """Start what has become due meanwhile."""
        self._is_paused = False
        self._resumed_s = self._now_s()
        self._start_due()

    def abort(self) -> None:
        """Cancel what is running. Those keys are due again, and it does not count as a failure."""
        for run in self._running.values():
            run.is_aborted = True
            run.task.cancel()

    async def drain(self, deadline_s: float) -> bool:
        """Start nothing more and wait for what is running; abort it after the deadline.

        Returns:
            Whether everything finished by itself.
        """
        self._is_stopping = True
        for _, handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        tasks = [run.task for run in self._running.values()]
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=deadline_s)
        self.abort()
        if late:
            await asyncio.wait(late)
        return not late

    @property
    def depth(self) -> int:
        """How many keys are due and have no worker."""
        return len(self._news) + len(self._routine) + len(self._dirty)

    @property
    def running(self) -> int:
        """How many keys have a worker."""
        return len(self._running)

    def oldest_waiting_s(self) -> float:
        """Return for how long the key that is due longest has waited for a free worker; 0 while paused."""
        # A dirty key waits for its own worker, not for a free one: `longest_run_s` speaks about it.
        if self._is_paused:
            return 0.0
        now_s = self._now_s()
        oldest_s = min((lane[next(iter(lane))] for lane in (self._news, self._routine) if lane), default=now_s)
        return now_s - max(oldest_s, self._resumed_s)

    def longest_run_s(self) -> float:
        """Return how long the worker that is busy longest has had its key."""
        now_s = self._now_s()
        return max((now_s - run.started_s for run in self._running.values()), default=0.0)

    def _ring(self, key: K) -> None:
        self._timers.pop(key, None)
        if key in self._running or key in self._resting:
            self._dirty.setdefault(key, self._now_s())
        elif key not in self._news and key not in self._routine:
            self._routine[key] = self._now_s()
            self._start_due()

    def _start_due(self) -> None:
        if self._is_paused or self._is_stopping:
            return
        for key in self._own_workers:
            if key in self._news or key in self._routine:
                self._start(key)
        while len(self._running) - len(self._own_workers & self._running.keys()) < self._workers:
            lane = self._choose_lane()
            if not lane:
                return
            self._start(next(iter(lane)))

    def _start(self, key: K) -> None:
        self._news.pop(key, None)
        self._routine.pop(key, None)
        # This run sees everything that the timer was set for.
        if timer := self._timers.pop(key, None):
            timer[1].cancel()
        task = asyncio.get_running_loop().create_task(self._work(key), name=f"reconcile {key}")
        self._running[key] = _Run(task, self._now_s())
        # Not a `finally` in the task: one that is cancelled before its first step never gets there.
        task.add_done_callback(functools.partial(self._finish, key))

    def _choose_lane(self) -> OrderedDict[K, float]:
        if not (self._news and self._routine):
            return self._news or self._routine
        self._turn = (self._turn + 1) % ROUTINE_TURN
        return self._news if self._turn else self._routine

    async def _work(self, key: K) -> None:
        try:
            again_after_s = await self._process(key)
        except Exception as error:  # noqa: BLE001 - whatever a reconcile raises is tried again, and reported
            self._retry(key, error)
        else:
            self._failures.pop(key, None)
            if again_after_s is not None:
                self._add_later(key, again_after_s)

    def _retry(self, key: K, error: Exception) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay_s = self._backoff.compute_delay_s(failures, self._chance())
        delay_s = max(delay_s, getattr(error, "retry_after_s", None) or 0.0)
        self._on_failure(key, error, delay_s)
        self._add_later(key, delay_s)

    def _add_later(self, key: K, delay_s: float) -> None:
        if not self._is_stopping:
            self.add_after(key, delay_s)

    def _finish(self, key: K, task: asyncio.Task[None]) -> None:
        run = self._running.pop(key)
        if run.is_aborted and task.cancelled():
            self._dirty.setdefault(key, self._now_s())
        elif task.cancelled():
            self._is_stopping = True  # The whole program is being cancelled.
        if self._rest_s and key not in self._own_workers and not self._is_stopping:
            self._resting.add(key)
            rest_s = max(self._rest_s, self._rest_of(key), REST_SHARE * (self._now_s() - run.started_s))
            asyncio.get_running_loop().call_later(min(rest_s, LONGEST_REST_S), self._wake, key)
        else:
            self._take_up(key)
        self._start_due()

    def _wake(self, key: K) -> None:
        self._resting.discard(key)
        self._take_up(key)
        self._start_due()

    def _take_up(self, key: K) -> None:
        dirty_since_s = self._dirty.pop(key, None)
        if dirty_since_s is not None:
            self._news[key] = dirty_since_s

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
