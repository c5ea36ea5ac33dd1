"""What every store of budgets can do, and the tab that a running request has with it.

A tenant is named by its account here, `llmos.api.tenancy.build_account`: one made anew under the same name is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from llmos_gateway.limits import Granted, Quote, Refused, Terms, Use


class StoreAwayError(Exception):
    """The account cannot be reached, and has not been for longer than requests may go on without it."""


@dataclass(slots=True, eq=False)
class Tab:
    """The reservation of one running request."""

    number: str
    """Its own in the store."""
    tenant: str
    terms: Terms
    amount: int
    """What is reserved for what comes, since it grew last."""
    before: int = 0
    """What was settled until then."""
    spent: int = 0
    """What the request has used so far. Written as the answer goes on, read by the store now and then."""

    @property
    def reserved(self) -> int:
        """Return how far the request may go."""
        return self.before + self.amount

    @property
    def unsettled(self) -> int:
        """Return what was spent since it grew last, as far as it was reserved: what is beyond has to be granted yet."""
        return min(self.spent, self.reserved) - self.before

    def turn(self, amount: int) -> None:
        """Begin anew with what was granted now; what was unsettled is settled."""
        self.before += self.unsettled
        self.amount = amount


class BudgetStore(Protocol):
    """Keeps the account. Only `open` and `grow` wait for anything."""

    gateways: int
    """How many gateways there are, this one included."""

    is_shared: bool
    """Whether all gateways see the same account."""

    async def open(self, tenant: str, terms: Terms, quote: Quote) -> tuple[Tab, Granted] | Refused:
        """Reserve for a new request.

        Raises:
            StoreAwayError: nobody can say whether it may go on.
        """
        ...

    async def grow(self, tab: Tab, least: int, most: int) -> Refused | None:
        """Reserve more for what comes after `tab.spent`; None if it was granted, and `tab` says how much.

        Raises:
            StoreAwayError: nobody can say whether it may go on.
        """
        ...

    def settle(self, tab: Tab, used: int) -> None:
        """End a tab with what the whole request has used. Never waits and never fails; once for each tab."""
        ...

    def read(self) -> Mapping[str, tuple[Use, ...]]:
        """Return what is known of the windows of now, by account."""
        ...

    def forget(self, tenant: str) -> None:
        """Drop what is kept of a tenant that is gone, unless one of its requests still runs. Never waits.

        Asked again and again, also of tenants of which this process knows nothing.
        """
        ...

    async def run(self) -> None:
        """Do what has to be done beside requests, until cancelled."""
        ...

    async def close(self) -> None:
        """Leave the account as it must be found by the next process."""
        ...
