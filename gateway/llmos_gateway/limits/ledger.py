"""The account of all tenants: reserve -> (grow) -> settle.

For each tenant and window there is one counter

    used = what ended requests have used  +  what running requests have reserved (`held`)

and a reservation is granted only if no limited window goes beyond its limit with it. So whatever comes at the same
time, what was used never goes beyond a limit by more than what requests used beyond their own reservations.

- A reservation belongs to the windows that it was made in, and is settled there, however late.
- A reservation that grows is settled up to here in its windows, and what comes is reserved in those of now.
- Settling twice is settling once: an id that is not open is left alone.
- What a request used beyond its reservation is charged all the same; then a counter stands beyond its limit, and
  nothing is granted until the window ends.
- Where nothing is enforced everything is granted, and the answer says which limit it would have failed.
- The clock may step back: a window that was reached is not left for an earlier one, unless it begins more than an hour
  from now: a clock that was years ahead for a moment would stop all windows from ending.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from llmos_gateway.limits.terms import Terms
from llmos_gateway.limits.windows import MAX_AHEAD_S, WINDOWS, Starts, WindowName, find_end, find_starts

Bound: TypeAlias = WindowName | Literal["concurrency"]


@dataclass(frozen=True, slots=True)
class Use:
    """One window of one tenant."""

    window: WindowName
    start_s: int
    used: int
    """Reserved by running requests, or used by ended ones."""
    held: int
    """The former."""

    @property
    def end_s(self) -> int:
        """Return when it ends, in unix time."""
        return find_end(self.window, self.start_s)


@dataclass(frozen=True, slots=True)
class Granted:
    """A request may go on."""

    amount: int
    uses: tuple[Use, ...]
    """After it."""
    running: int
    """Requests of the tenant, this one included."""
    terms: Terms
    """By which it was granted."""
    exceeded: Bound | None = None
    """What would have refused it, were it enforced."""


@dataclass(frozen=True, slots=True)
class Refused:
    """It may not."""

    by: Bound
    uses: tuple[Use, ...]
    running: int
    terms: Terms
    least: int
    """What it asked for."""
    is_brief: bool = False
    """Whether it may fit as soon as requests that run have used less than they reserved."""
    is_never: bool = False
    """Whether it is more than the whole limit."""


@dataclass(slots=True)
class _Counter:
    start_s: int
    used: int = 0
    held: int = 0


@dataclass(slots=True)
class _Open:
    starts: Starts
    amount: int
    spent: int = 0


@dataclass(slots=True)
class _Account:
    counters: tuple[_Counter, ...] = field(default_factory=lambda: tuple(_Counter(0) for _ in WINDOWS))
    open: dict[str, _Open] = field(default_factory=dict)

    def turn(self, now_s: float) -> Starts:
        """Begin the windows of now."""
        for counter, start_s in zip(self.counters, find_starts(now_s), strict=True):
            if start_s > counter.start_s or counter.start_s > now_s + MAX_AHEAD_S:
                counter.start_s, counter.used, counter.held = start_s, 0, 0
        minute, day, month = self.counters
        return minute.start_s, day.start_s, month.start_s

    def add(self, starts: Starts, used: int, held: int) -> None:
        """Change the counters of these windows; those that are over are not kept."""
        for counter, start_s in zip(self.counters, starts, strict=True):
            if counter.start_s == start_s:
                counter.used += used
                counter.held += held

    def read(self) -> tuple[Use, ...]:
        pairs = zip(WINDOWS, self.counters, strict=True)
        return tuple(Use(window, counter.start_s, counter.used, counter.held) for window, counter in pairs)


_NOTHING: Final = _Account()


class Ledger:
    """What tenants have used and reserved."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def reserve(self, now_s: float, tenant: str, terms: Terms, number: str, least: int, most: int) -> Granted | Refused:
        """Reserve between `least` and `most` for a new request, all limits at once.

        Args:
            now_s: unix time.
            tenant: whose budget.
            terms: what it may use.
            number: the request's own, for `grow`, `report` and `settle`.
            least: with less it is refused.
            most: it gets as much of this as there is.
        """
        account = self._accounts.setdefault(tenant, _Account())
        account.turn(now_s)
        running = len(account.open)
        is_full = terms.concurrency is not None and running >= terms.concurrency
        if is_full and terms.is_enforced:
            return Refused("concurrency", account.read(), running, terms, least, is_brief=True)
        outcome = self._take(account, now_s, terms, number, least, most)
        if is_full and isinstance(outcome, Granted) and outcome.exceeded is None:
            return replace(outcome, exceeded="concurrency")
        return outcome

    def grow(
        self, now_s: float, tenant: str, terms: Terms, number: str, spent: int, least: int, most: int
    ) -> Granted | Refused:
        """Settle what a request has spent, and reserve anew for what comes. If that is refused, what it has spent is
        all that it holds."""
        account = self._accounts.setdefault(tenant, _Account())
        account.turn(now_s)
        self._settle(account, number, spent)
        outcome = self._take(account, now_s, terms, number, least, most)
        if isinstance(outcome, Refused):
            account.open[number] = _Open(self._starts(account), 0)
        return outcome

    def report(self, tenant: str, number: str, spent: int) -> None:
        """Note how much of its reservation a request has used."""
        entry = self._accounts.get(tenant, _NOTHING).open.get(number)
        if entry is not None:
            entry.spent = spent

    def settle(self, tenant: str, number: str, used: int) -> None:
        """Replace a reservation by what was used of it, and beyond it."""
        account = self._accounts.get(tenant)
        if account is not None:
            self._settle(account, number, used)

    def load(self, tenant: str, starts: Mapping[WindowName, int], used: Mapping[WindowName, int]) -> None:
        """Say what was used before this ledger began."""
        account = self._accounts.setdefault(tenant, _Account())
        for window, counter in zip(WINDOWS, account.counters, strict=True):
            start_s = starts.get(window, 0)
            if start_s > counter.start_s:
                counter.start_s, counter.used, counter.held = start_s, used.get(window, 0), 0

    def read(self, now_s: float) -> dict[str, tuple[Use, ...]]:
        """Return the windows of now of every tenant."""
        for account in self._accounts.values():
            account.turn(now_s)
        return {tenant: account.read() for tenant, account in self._accounts.items()}

    def read_spent(self, tenant: str) -> tuple[Use, ...]:
        """Return what a tenant has really used, running requests included as far as they have reported."""
        account = self._accounts.get(tenant, _NOTHING)
        uses = []
        for index, use in enumerate(account.read()):
            spent = sum(entry.spent for entry in account.open.values() if entry.starts[index] == use.start_s)
            uses.append(Use(use.window, use.start_s, use.used - use.held + spent, 0))
        return tuple(uses)

    def tenants(self) -> Iterable[str]:
        """Return the tenants that have an account."""
        return self._accounts.keys()

    def running(self, tenant: str) -> int:
        """Return how many requests of a tenant are open."""
        return len(self._accounts.get(tenant, _NOTHING).open)

    def forget(self, tenant: str) -> None:
        """Drop the account of a tenant of which nothing runs."""
        if tenant in self._accounts and not self._accounts[tenant].open:
            del self._accounts[tenant]

    def prune(self, now_s: float) -> None:
        """Forget tenants of which nothing runs and nothing counts any more."""
        starts = find_starts(now_s)
        self._accounts = {
            tenant: account
            for tenant, account in self._accounts.items()
            if account.open or any(c.start_s >= s and c.used for c, s in zip(account.counters, starts, strict=True))
        }

    def _take(
        self, account: _Account, now_s: float, terms: Terms, number: str, least: int, most: int
    ) -> Granted | Refused:
        refused = find_refusal(account.read(), len(account.open), terms, least)
        if refused is not None and terms.is_enforced:
            return refused
        amount = min(most, find_room(account.read(), terms)) if terms.is_enforced else most
        starts = self._starts(account)
        account.open[number] = _Open(starts, amount)
        account.add(starts, amount, amount)
        exceeded = refused.by if refused is not None else None
        return Granted(amount, account.read(), len(account.open), terms, exceeded)

    def _settle(self, account: _Account, number: str, used: int) -> None:
        entry = account.open.pop(number, None)
        if entry is not None:
            account.add(entry.starts, used - entry.amount, -entry.amount)

    def _starts(self, account: _Account) -> Starts:
        minute, day, month = account.counters
        return minute.start_s, day.start_s, month.start_s


def find_room(uses: Iterable[Use], terms: Terms) -> int:
    """Return how much may still be reserved."""
    pairs = zip(uses, terms.limits, strict=True)
    return min((limit - use.used for use, limit in pairs if limit is not None), default=2**53)


def find_refusal(uses: tuple[Use, ...], running: int, terms: Terms, least: int) -> Refused | None:
    """Return why `least` cannot be reserved: the window that is over last, of those that have no room."""
    pairs = list(zip(uses, terms.limits, strict=True))
    full = [(use, limit) for use, limit in pairs if limit is not None and limit - use.used < least]
    if not full:
        return None
    return Refused(
        full[-1][0].window,
        uses,
        running,
        terms,
        least,
        is_brief=all(limit - (use.used - use.held) >= least for use, limit in full),
        is_never=any(least > limit for _, limit in full),
    )


def find_reset_s(use: Use, now_s: float) -> int:
    """Return the whole seconds until a window ends, at least one."""
    return max(1, math.ceil(use.end_s - now_s))
