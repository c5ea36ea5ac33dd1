"""What a gateway grants while the shared store is away: its part of what was left when it heard of it last.

Each outage has an account of its own that begins with what was known. Every gateway grants at most its part of what was
left, by the number of gateways, so that all of them together stay within the limits if what they knew was true. What
was used is charged to the store when it is back, each charge once.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from llmos_gateway.budget_store.steps import Step, build_charge
from llmos_gateway.budget_store.store import Tab
from llmos_gateway.limits import WINDOWS, Granted, Ledger, Refused, Terms, Use, find_starts


class Outage:
    """One outage.

    Args:
        known: what the store said last, by tenant.
        gateways: how many share what is left.
        unix_time: by which windows begin.
    """

    def __init__(self, known: Mapping[str, tuple[Use, ...]], gateways: int, unix_time: Callable[[], float]) -> None:
        self._known = dict(known)
        self._gateways = gateways
        self._unix_time = unix_time
        self._ledger = Ledger()
        self._starts: dict[str, tuple[int, ...]] = {}
        self._id = secrets.token_hex(8)
        self._numbers = itertools.count()

    def open(self, tenant: str, terms: Terms, least: int, most: int) -> tuple[Tab, Granted] | Refused:
        """Grant a new request, or refuse it."""
        self._begin(tenant)
        part = self._share(tenant, terms)
        number, now_s = self._build_number(), self._unix_time()
        outcome = self._ledger.reserve(now_s, tenant, part, number, least, most)
        if isinstance(outcome, Refused):
            return outcome
        self._starts[number] = find_starts(now_s)
        return Tab(number, tenant, terms, outcome.amount), outcome

    def take_over(self, tab: Tab, least: int, most: int) -> Refused | None:
        """Go on with a request that the store has granted; what it has used there is settled there."""
        outcome = self.open(tab.tenant, replace(tab.terms, concurrency=None), least, most)
        if isinstance(outcome, Refused):
            tab.turn(0)
            return outcome
        granted, _ = outcome
        tab.number = granted.number
        tab.turn(granted.amount)
        return None

    def grow(self, tab: Tab, least: int, most: int) -> tuple[Refused | None, Step]:
        """Grant more, and return what to charge for what was used until here."""
        charge = self._charge(tab, tab.unsettled)
        part, now_s = self._share(tab.tenant, replace(tab.terms, concurrency=None)), self._unix_time()
        outcome = self._ledger.grow(now_s, tab.tenant, part, tab.number, tab.unsettled, least, most)
        tab.turn(outcome.amount if isinstance(outcome, Granted) else 0)
        self._starts[tab.number] = find_starts(now_s)
        return outcome if isinstance(outcome, Refused) else None, charge

    def leave(self, tab: Tab) -> Step:
        """Let the store have a request again, and return what to charge for what it has used here."""
        return self.settle(tab, tab.before + tab.unsettled)

    def settle(self, tab: Tab, used: int) -> Step:
        """End a request, and return what to charge."""
        charge = self._charge(tab, used - tab.before)
        self._ledger.settle(tab.tenant, tab.number, used - tab.before)
        del self._starts[tab.number]
        return charge

    def _begin(self, tenant: str) -> None:
        if (uses := self._known.get(tenant)) is not None:
            starts = {use.window: use.start_s for use in uses}
            self._ledger.load(tenant, starts, {use.window: use.used for use in uses})

    def _share(self, tenant: str, terms: Terms) -> Terms:
        known = dict.fromkeys(WINDOWS, 0)
        for use, start_s in zip(self._known.get(tenant, ()), find_starts(self._unix_time()), strict=False):
            known[use.window] = use.used if use.start_s >= start_s else 0
        minute, day, month = (
            None if limit is None else known[window] + (limit - known[window]) // self._gateways
            for window, limit in zip(WINDOWS, terms.limits, strict=True)
        )
        return replace(terms.share(self._gateways), minute=minute, day=day, month=month)

    def _charge(self, tab: Tab, used: int) -> Step:
        return build_charge(tab.tenant, self._build_number(), self._starts[tab.number], used)

    def _build_number(self) -> str:
        return f"{self._id}-{next(self._numbers)}"
