"""The account in this process, with a journal beside it.

Twice a second what has changed is written and synced, running requests included as far as their answers have come. So a
process that is killed at any moment loses at most the last second of what was used, and what was only reserved comes
back by itself: the requests that had reserved it are gone.

A journal that cannot be used is tried again with growing pauses. Until then nobody knows what was used, and tenants
with limits get nothing.

Several gateways with an account each do not know what the others grant. Each grants its part of every limit, by the
number of gateways that there are; a shared store is exact.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from llmos.api.tenancy import read_account
from llmos_gateway.budget_store.journal import Journal, JournalError, State
from llmos_gateway.budget_store.store import StoreAwayError, Tab
from llmos_gateway.limits import Granted, Ledger, Quote, Refused, Terms, Use

FLUSH_S: Final = 0.5
PRUNE_S: Final = 3600.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

_logger = logging.getLogger(__name__)


class LocalStore:
    """Keeps the account of one gateway.

    Args:
        journal: where it outlives the process, opened by `start`; None keeps it in memory only.
        unix_time: by which windows begin.
        flush_s: how often the journal is written.
        pause_s: after which a journal that cannot be used is tried again at first.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        *,
        unix_time: Callable[[], float] = time.time,
        flush_s: float = FLUSH_S,
        pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.is_shared = False
        self.gateways = 1
        self._journal = journal
        self._unix_time = unix_time
        self._flush_s = flush_s
        self._pause_s = pause_s
        self._is_open = journal is None
        self._is_closed = False
        self._problem = "it is being read"
        """Why the journal is not open."""
        self._ledger = Ledger()
        self._numbers = itertools.count()
        self._tabs: dict[str, Tab] = {}
        self._written: dict[str, tuple[Use, ...]] = {}
        self._pruned_s = unix_time()
        self._writing = threading.Lock()
        """A write goes on in its thread when `run` is cancelled."""

    def start(self) -> None:
        """Read the journal.

        Raises:
            JournalError: it cannot be used; `run` tries again.
        """
        self._load(self._read_journal())

    async def open(self, tenant: str, terms: Terms, quote: Quote) -> tuple[Tab, Granted] | Refused:
        if not self._is_open:
            raise StoreAwayError(
                f"The tokens of the tenant {read_account(tenant)!r} cannot be counted: the gateway's journal of token "
                f"budgets cannot be used ({self._problem}). Try again later, or ask your administrator."
            )
        number = str(next(self._numbers))
        terms = terms.share(self.gateways)
        outcome = self._ledger.reserve(self._unix_time(), tenant, terms, number, quote.least, quote.most)
        if isinstance(outcome, Refused):
            return outcome
        tab = self._tabs[number] = Tab(number, tenant, terms, outcome.amount)
        return tab, outcome

    async def grow(self, tab: Tab, least: int, most: int) -> Refused | None:
        now_s = self._unix_time()
        outcome = self._ledger.grow(now_s, tab.tenant, tab.terms, tab.number, tab.unsettled, least, most)
        tab.turn(outcome.amount if isinstance(outcome, Granted) else 0)
        return outcome if isinstance(outcome, Refused) else None

    def settle(self, tab: Tab, used: int) -> None:
        self._ledger.settle(tab.tenant, tab.number, used - tab.before)
        self._tabs.pop(tab.number, None)

    def read(self) -> Mapping[str, tuple[Use, ...]]:
        return self._ledger.read(self._unix_time())

    def forget(self, tenant: str) -> None:
        self._ledger.forget(tenant)

    async def run(self) -> None:
        await self._open_on()
        problem = ""
        while True:
            await asyncio.sleep(self._flush_s)
            try:
                await asyncio.to_thread(self._write, self._collect())
                await self._prune()
                problem = ""
            except OSError as error:
                if str(error) != problem:
                    _logger.error("Token budgets cannot be written, and a restart would forget them: %s", error)
                problem = str(error)

    async def close(self) -> None:
        self._is_closed = True
        if self._journal is None:
            return
        if self._is_open:
            try:
                self._write(self._collect())
            except OSError as error:
                _logger.error("The last of the token budgets could not be written: %s", error)
        with self._writing:
            self._journal.close()

    async def _open_on(self) -> None:
        """Try until the journal can be used."""
        pause_s = self._pause_s
        while not self._is_open:
            # Gateways that share a disk must not come back to it together.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            pause_s, problem = min(2 * pause_s, LONGEST_PAUSE_S), self._problem
            try:
                self._load(await asyncio.to_thread(self._read_journal, 0.0))
                _logger.info("The journal of token budgets can be used again.")
            except JournalError as error:
                if error.cause != problem:
                    _logger.error("%s Trying again.", error)

    def _read_journal(self, lock_wait_s: float | None = None) -> State:
        """Open the journal; it may be a thread that does."""
        with self._writing:
            if self._journal is None or self._is_closed:
                return {}
            try:
                return self._journal.open(lock_wait_s)
            except JournalError as error:
                self._problem = error.cause
                raise

    def _load(self, state: State) -> None:
        for tenant, windows in state.items():
            starts = {window: start_s for window, (start_s, _) in windows.items()}
            self._ledger.load(tenant, starts, {window: used for window, (_, used) in windows.items()})
            self._written[tenant] = self._ledger.read_spent(tenant)
        self._is_open = True

    def _collect(self) -> dict[str, tuple[Use, ...]]:
        """Return what has changed since it was written."""
        for tab in self._tabs.values():
            self._ledger.report(tab.tenant, tab.number, tab.spent - tab.before)
        states = {tenant: self._ledger.read_spent(tenant) for tenant in self._ledger.tenants()}
        return {tenant: uses for tenant, uses in states.items() if self._written.get(tenant) != uses}

    def _write(self, changed: dict[str, tuple[Use, ...]]) -> None:
        if self._journal is not None and changed:
            with self._writing:
                self._journal.append(changed)
            self._written.update(changed)

    async def _prune(self) -> None:
        now_s = self._unix_time()
        if now_s - self._pruned_s >= PRUNE_S:
            self._pruned_s = now_s
            self._ledger.prune(now_s)
        gone = self._written.keys() - set(self._ledger.tenants())
        for tenant in gone:
            del self._written[tenant]
        if self._journal is not None and gone:
            await asyncio.to_thread(self._drop, self._journal, gone)

    def _drop(self, journal: Journal, tenants: set[str]) -> None:
        with self._writing:
            if not self._is_closed:
                journal.forget(tenants)
