"""The account of all gateways, in Valkey or Redis.

Each step is one call of one script (`budget.lua`) on the keys of one tenant, so that it is atomic and takes one round
trip. The steps of a gateway go in the order in which they were made, as many at once as have come meanwhile: the refund
of one request is there before the next one asks. The server's clock says which windows there are.

A gateway that dies leaves its requests open in the store. Every second it tells what they have used and that it lives;
after `LEASE_S` without that, a request is settled by what was told last, and what it had reserved comes back. If its
gateway was only cut off, the settlement that comes later still counts.

While the store is away requests go on for `away_s` by what this gateway knew last (`outage`), and are refused after
that. What is to be settled waits, in a bounded queue, and is tried again with growing pauses.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from llmos_gateway.budget_store.outage import Outage
from llmos_gateway.budget_store.steps import (
    FORGET,
    PROBE,
    SCRIPT,
    Step,
    build_forget,
    build_probe,
    build_report,
    build_settle,
    build_take,
    read_outcome,
    read_running,
    read_uses,
)
from llmos_gateway.budget_store.store import StoreAwayError, Tab
from llmos_gateway.limits import Granted, Quote, Refused, Terms, Use, find_starts

AWAY_S: Final = 30.0
LEASE_S: Final = 20.0
REPORT_S: Final = 1.0
RENEW_S: Final = 5.0
TIMEOUT_S: Final = 1.0
MAX_STEPS: Final = 256
"""In one round trip."""
MAX_WAITING: Final = 100_000
"""Steps that wait for the store to come back; beyond it the oldest are left to their lease."""
MAX_REFUSALS: Final = 100
"""After which a step that the server always refuses, while it does others, holds them up no more."""
LONGEST_PAUSE_S: Final = 2.0
CLOSE_S: Final = 2.0
MAX_EMPTY: Final = 4096
"""Accounts of which it is remembered that they were dropped; others are dropped again."""

_logger = logging.getLogger(__name__)


class _FailedError(Exception):
    """The store did not do it."""


class SharedStore:
    """Keeps the account in a server.

    Args:
        url: of the server, `redis://` or `rediss://`, with its password.
        away_s: how long requests go on without it.
        unix_time: the clock of the script; None leaves it to the server.
        clock: seconds that only grow.
        lease_s: how long an open request of a silent gateway is kept.
    """

    def __init__(
        self,
        url: str,
        *,
        away_s: float = AWAY_S,
        unix_time: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        lease_s: float = LEASE_S,
    ) -> None:
        self.is_shared = True
        self.gateways = 1
        self._away_s = away_s
        self._now = unix_time
        self._unix_time = unix_time or time.time
        self._clock = clock
        self._lease_s = lease_s
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self._sha = ""
        self._boot = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._tabs: dict[str, Tab] = {}
        self._told: dict[str, tuple[int, float]] = {}
        """What of a tab was told last, and when."""
        self._known: dict[str, tuple[Use, ...]] = {}
        self._empty: dict[str, None] = {}
        """Accounts that were dropped and of which nothing was asked since."""
        self._steps: deque[Step] = deque()
        self._has_steps = asyncio.Event()
        self._outage: Outage | None = None
        self._outages: dict[str, Outage] = {}
        """By the number of each request that is counted in one."""
        self._away_since_s = 0.0
        self._pause_s = 0.0
        self._trip: asyncio.Task[list[Any]] | None = None

    async def open(self, tenant: str, terms: Terms, quote: Quote) -> tuple[Tab, Granted] | Refused:
        number = self._build_number()
        step = build_take("reserve", tenant, terms, number, least=quote.least, most=quote.most, spent=0)
        try:
            outcome = read_outcome(await self._ask(step), terms, quote.least)
        except _FailedError:
            return self._open_away(tenant, terms, quote)
        except asyncio.CancelledError:
            # It may be granted, even if it is not known here yet; where it is not there is nothing to settle.
            self._add(build_settle(tenant, number, 0))
            raise
        if isinstance(outcome, Refused):
            return outcome
        tab = Tab(number, tenant, terms, outcome.amount)
        self._hold(tab)
        return tab, outcome

    async def grow(self, tab: Tab, least: int, most: int) -> Refused | None:
        if (outage := self._outages.get(tab.number)) is not None:
            if self._outage is not None:
                self._check_away()
                refused, charge = outage.grow(tab, least, most)
                self._add(charge)
                return refused
            self._bring_back(tab, outage)
        spent = tab.before + tab.unsettled
        step = build_take("grow", tab.tenant, tab.terms, tab.number, least=least, most=most, spent=spent)
        try:
            outcome = read_outcome(await self._ask(step), tab.terms, least)
        except _FailedError:
            return self._take_over(tab, least, most)
        tab.turn(outcome.amount if isinstance(outcome, Granted) else 0)
        return outcome if isinstance(outcome, Refused) else None

    def settle(self, tab: Tab, used: int) -> None:
        outage = self._outages.pop(tab.number, None)
        self._add(outage.settle(tab, used) if outage is not None else build_settle(tab.tenant, tab.number, used))
        self._release(tab.number)

    def read(self) -> Mapping[str, tuple[Use, ...]]:
        starts = find_starts(self._unix_time())
        self._known = {tenant: uses for tenant, uses in self._known.items() if uses[-1].start_s >= starts[-1]}
        return {
            tenant: tuple(
                use if use.start_s >= start_s else Use(use.window, start_s, 0, 0)
                for use, start_s in zip(uses, starts, strict=True)
            )
            for tenant, uses in self._known.items()
        }

    def forget(self, tenant: str) -> None:
        # It is asked again and again: nothing has to wait for the store to come back. Nor does it matter whether this
        # gateway ever heard of the tenant: it may be the only one left.
        is_done = tenant in self._empty and tenant not in self._known
        if self._outage is None and not is_done and not any(tab.tenant == tenant for tab in self._tabs.values()):
            self._add(build_forget(tenant))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._report_on())
            while True:
                await self._has_steps.wait()
                await self._send_some()
                if self._pause_s:
                    # Gateways that lost it together must not come back together.
                    await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load

    async def close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                if self._trip is not None:
                    await asyncio.wait({self._trip})
                while self._steps and not self._pause_s:
                    await self._send_some()
        if self._steps:
            _logger.error("%d steps of token budgets were not told to the store; leases end them.", len(self._steps))
        await self._redis.aclose()

    async def _ask(self, step: Step) -> Sequence[Any]:
        if self._outage is not None:
            raise _FailedError
        step.outcome = asyncio.get_running_loop().create_future()
        self._add(step)
        return await step.outcome

    def _add(self, step: Step) -> None:
        if len(self._steps) >= MAX_WAITING:
            self._drop(self._steps.popleft())
        self._steps.append(step)
        self._has_steps.set()

    def _drop(self, step: Step) -> None:
        if step.outcome is not None and not step.outcome.done():
            step.outcome.set_exception(_FailedError())

    async def _send_some(self) -> None:
        """Send what has come, and tell who waits."""
        steps = self._take_steps()
        if not steps:
            return
        # A round trip is never cancelled on its way: redis-py may lose the cancellation (8.1), or the connection.
        trip = self._trip = asyncio.create_task(self._execute(steps))
        trip.add_done_callback(_note_failure)
        try:
            answers = await asyncio.shield(trip)
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(steps, error)
            return
        except asyncio.CancelledError:
            # What is done twice changes nothing.
            self._steps.extendleft(reversed([step for step in steps if step.is_kept]))
            raise
        failed: list[Step] = []
        is_server = all(isinstance(answer, Exception) for answer in answers)
        for step, answer in zip(steps, answers, strict=True):
            if isinstance(answer, Exception):
                step.refusals += not is_server
                failed.append(step)
            else:
                self._done(step, answer)
        if failed:
            self._failed(failed, next(answer for answer in answers if isinstance(answer, Exception)))
        else:
            self._succeeded(has_sent_all=len(steps) < MAX_STEPS)

    def _take_steps(self) -> list[Step]:
        steps: list[Step] = []
        while self._steps and len(steps) < MAX_STEPS:
            step = self._steps.popleft()
            # Of a caller that left before it was sent.
            if step.outcome is None or not step.outcome.done():
                steps.append(step)
        if not self._steps:
            self._has_steps.clear()
        return steps

    async def _execute(self, steps: Sequence[Step]) -> list[Any]:
        if not self._sha:
            self._sha = await self._redis.script_load(SCRIPT)
        answers = await self._call(steps)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            # The server began anew. What it did not know it has not done.
            self._sha = await self._redis.script_load(SCRIPT)
            again = await self._call([steps[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        if any(isinstance(answer, Exception) for answer in answers):
            # It may be a replica by now, and its address another server's.
            await self._redis.connection_pool.disconnect()
        return answers

    async def _call(self, steps: Iterable[Step]) -> list[Any]:
        now = "" if self._now is None else str(int(self._now() * 1000))
        lease = str(int(self._lease_s * 1000))
        pipeline = self._redis.pipeline(transaction=False)
        for step in steps:
            keys = step.build_keys()
            pipeline.execute_command("EVALSHA", self._sha, len(keys), *keys, step.name, now, lease, *step.arguments)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        return answers

    def _done(self, step: Step, answer: Sequence[Any]) -> None:
        if step.name == FORGET and not read_running(answer):
            self._known.pop(step.tenant, None)
            self._empty[step.tenant] = None
            if len(self._empty) > MAX_EMPTY:
                del self._empty[next(iter(self._empty))]
        elif step.name != PROBE:
            self._known[step.tenant] = read_uses(answer)
        if step.outcome is not None and not step.outcome.done():
            step.outcome.set_result(answer)

    def _failed(self, steps: Sequence[Step], error: Exception) -> None:
        if self._outage is None:
            _logger.error("The store of token budgets is away; requests go on for %g s: %s", self._away_s, error)
            self._outage = Outage(self.read(), self.gateways, self._unix_time)
            self._away_since_s = self._clock()
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or 0.05)
        for step in [step for step in steps if step.refusals >= MAX_REFUSALS]:
            _logger.error("The store cannot %s for tenant %s, which is left to its lease.", step.name, step.tenant)
        waiting = [*(step for step in steps if step.refusals < MAX_REFUSALS), *self._steps]
        for step in waiting:
            self._drop(step)
        # The probe says whether the store is back, and whether it is the store or a step that fails.
        self._steps = deque([build_probe(), *(step for step in waiting if step.is_kept)])
        self._has_steps.set()

    def _succeeded(self, *, has_sent_all: bool) -> None:
        self._pause_s = 0.0
        if self._outage is not None and has_sent_all:
            _logger.info("The store of token budgets is back.")
            self._outage = None

    def _check_away(self) -> Outage:
        outage = self._outage
        if outage is None:
            raise StoreAwayError("The store of token budgets is away. Try again.")
        if self._clock() - self._away_since_s > self._away_s:
            message = f"The store of token budgets has been away for longer than {self._away_s:g} s. Try again later."
            raise StoreAwayError(message)
        return outage

    def _open_away(self, tenant: str, terms: Terms, quote: Quote) -> tuple[Tab, Granted] | Refused:
        outage = self._check_away()
        outcome = outage.open(tenant, terms, quote.least, quote.most)
        if not isinstance(outcome, Refused):
            self._outages[outcome[0].number] = outage
        return outcome

    def _take_over(self, tab: Tab, least: int, most: int) -> Refused | None:
        outage = self._check_away()
        before = build_settle(tab.tenant, tab.number, tab.before + tab.unsettled)
        number = tab.number
        refused = outage.take_over(tab, least, most)
        if refused is None:
            self._add(before)
            self._release(number)
            self._outages[tab.number] = outage
        return refused

    def _bring_back(self, tab: Tab, outage: Outage) -> None:
        """Have the store count a request from here on: to it, it is a new one that has used something already."""
        self._add(outage.leave(tab))
        del self._outages[tab.number]
        tab.number = self._build_number()
        self._hold(tab)

    def _build_number(self) -> str:
        return f"{self._boot}-{next(self._numbers)}"

    def _hold(self, tab: Tab) -> None:
        self._tabs[tab.number] = tab
        self._told[tab.number] = tab.before, self._clock()

    def _release(self, number: str) -> None:
        self._tabs.pop(number, None)
        self._told.pop(number, None)

    async def _report_on(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            if self._outage is None:
                for step in self._build_reports():
                    self._add(step)

    def _build_reports(self) -> list[Step]:
        now_s = self._clock()
        by_tenant: dict[str, list[tuple[str, int]]] = {}
        for number, tab in self._tabs.items():
            spent = tab.before + tab.unsettled
            told, told_s = self._told[number]
            if spent != told or now_s - told_s >= min(RENEW_S, self._lease_s / 4):
                by_tenant.setdefault(tab.tenant, []).append((number, spent))
                self._told[number] = spent, now_s
        return [
            build_report(tenant, spent[start : start + MAX_STEPS])
            for tenant, spent in by_tenant.items()
            for start in range(0, len(spent), MAX_STEPS)
        ]


def _note_failure(trip: asyncio.Task[list[Any]]) -> None:
    """Take notice of what a trip that nobody waits for any more failed with."""
    if not trip.cancelled() and trip.exception() is not None:
        _logger.debug("A round trip failed: %s", trip.exception())
