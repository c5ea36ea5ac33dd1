"""The account in this process, with a journal beside it.

Twice a second what has changed is written and synced, running requests included as far as their answers have come. So a
process that is killed at any moment loses at most the last second of what was used, and what was only reserved comes
back by itself: the requests that had reserved it are gone.

Several gateways with an account each do not know what the others grant. Each grants its part of every limit, by the
number of gateways that there are; a shared store is exact.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from llmos_gateway.budget_store.journal import Journal
from llmos_gateway.budget_store.store import Tab
from llmos_gateway.limits import Granted, Ledger, Quote, Refused, Terms, Use

FLUSH_S: Final = 0.5
PRUNE_S: Final = 3600.0

_logger = logging.getLogger(__name__)


class LocalStore:
    """Keeps the account of one gateway.

    Args:
        journal: where it outlives the process, opened by `start`; None keeps it in memory only.
        unix_time: by which windows begin.
        flush_s: how often the journal is written.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        *,
        unix_time: Callable[[], float] = time.time,
        flush_s: float = FLUSH_S,
    ) -> None:
        self.is_shared = False
        self.gateways = 1
        self._journal = journal
        self._unix_time = unix_time
        self._flush_s = flush_s
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
            JournalError: it cannot be used.
        """
        for tenant, windows in self._journal.open().items() if self._journal is not None else ():
            starts = {window: start_s for window, (start_s, _) in windows.items()}
            self._ledger.load(tenant, starts, {window: used for window, (_, used) in windows.items()})
            self._written[tenant] = self._ledger.read_spent(tenant)

    async def open(self, tenant: str, terms: Terms, quote: Quote) -> tuple[Tab, Granted] | Refused:
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

    async def run(self) -> None:
        problem = ""
        while True:
            await asyncio.sleep(self._flush_s)
            try:
                await asyncio.to_thread(self._write, self._collect())
                problem = ""
            except OSError as error:
                if str(error) != problem:
                    _logger.error("Token budgets cannot be written, and a restart would forget them: %s", error)
                problem = str(error)
            self._prune()

    async def close(self) -> None:
        if self._journal is not None:
            try:
                self._write(self._collect())
            except OSError as error:
                _logger.error("The last of the token budgets could not be written: %s", error)
            self._journal.close()

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

    def _prune(self) -> None:
        now_s = self._unix_time()
        if now_s - self._pruned_s < PRUNE_S:
            return
        self._pruned_s = now_s
        self._ledger.prune(now_s)
        gone = self._written.keys() - set(self._ledger.tenants())
        for tenant in gone:
            del self._written[tenant]
        if self._journal is not None:
            self._journal.forget(gone)
