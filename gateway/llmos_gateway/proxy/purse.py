"""What one request has reserved of its tenant's tokens, from the reservation to the settlement.

A stream that does not say how long it may be reserves more before it has used up what it has. If there is no more it
goes on to the last token that is reserved, and ends with an error; what came beyond is neither passed on nor charged.
A request that said how long it may be was granted all of that, and is charged what the engine counts: if the engine's
count of the prompt is above the estimate, also beyond what was reserved. What the gateway counted itself is not.
"""

from __future__ import annotations

from collections.abc import Callable

from llmos_gateway.budget_store import BudgetStore, StoreAwayError, Tab
from llmos_gateway.limits import Quote, Refused
from llmos_gateway.protocol.errors import ApiError
from llmos_gateway.protocol.usage import Usage

_MARGIN_PARTS = 4
"""A stream reserves more when it has a quarter of a step left."""


class Purse:
    """One request's tokens.

    Args:
        store: where they are counted.
        tab: what is reserved.
        quote: how it goes on.
        build_error: what the caller is told when there is no more, or nobody can say.
        learn: told what was used at the end.
    """

    __slots__ = ("_build_error", "_is_last", "_is_over", "_learn", "_quote", "_store", "_tab")

    def __init__(
        self,
        store: BudgetStore,
        tab: Tab,
        quote: Quote,
        build_error: Callable[[Refused | StoreAwayError], ApiError],
        learn: Callable[[Usage], None],
    ) -> None:
        self._store = store
        self._tab: Tab | None = tab
        self._quote = quote
        self._build_error = build_error
        self._learn = learn
        self._is_last = tab.amount < quote.most
        """Whether there was less than it asked for."""
        self._is_over = False

    @property
    def is_open(self) -> bool:
        """Return whether it may have to reserve more as the answer goes on."""
        return self._tab is not None and self._quote.step > 0

    def covers(self, usage: Usage) -> bool:
        """Take in what was used so far, and return whether nothing has to be reserved yet for what comes."""
        tab, step = self._tab, self._quote.step
        if tab is None:
            return True
        tab.spent = tab.terms.weigh(usage)
        return not step or tab.spent <= tab.reserved - (0 if self._is_last else step // _MARGIN_PARTS)

    async def advance(self, usage: Usage) -> None:
        """Take in what was used so far, and reserve for what comes.

        Raises:
            ApiError: what came is beyond what is reserved, and there is no more.
        """
        tab, step = self._tab, self._quote.step
        if tab is None or self.covers(usage):
            return
        beyond = max(0, tab.spent - tab.reserved)
        least = beyond or self._quote.answer_token
        try:
            refusal = await self._store.grow(tab, least, beyond + step)
        except StoreAwayError as error:
            self._is_last = True
            if not beyond or not tab.terms.is_enforced:
                return
            self._is_over = True
            raise self._build_error(error) from None
        self._is_last = tab.amount < beyond + step
        if refusal is not None and beyond:
            self._is_over = True
            raise self._build_error(refusal)

    def settle(self, usage: Usage) -> None:
        """Replace what was reserved by what was used."""
        tab, self._tab = self._tab, None
        if tab is not None:
            self._learn(usage)
            used = tab.terms.weigh(usage)
            is_bounded = self._is_over or not usage.is_exact
            self._store.settle(tab, min(used, tab.reserved) if is_bounded else used)
