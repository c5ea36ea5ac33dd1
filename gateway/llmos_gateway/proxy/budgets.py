"""Budgets on the road: what a request reserves, and what its caller is told of what is left.

The headers are OpenAI's and tell the window of which least is left; a reservation counts as used. Where nothing is
enforced the caller is told nothing. What refuses, and what the caller can do:

    minute, concurrency            429 rate_limit_exceeded   Retry-After: until the window ends; a second
    day, month                     429 insufficient_quota    Retry-After: until the window ends
    running requests hold it       429 rate_limit_exceeded   Retry-After: a second
    more than the limit itself     429 rate_limit_exceeded   never fits, so there is no Retry-After
    the account cannot be reached  503 budget_store_unavailable; where nothing is enforced it is not counted

`x-should-retry: false` keeps OpenAI's clients, which take no Retry-After beyond a minute, from trying again at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from llmos_gateway.budget_store import BudgetStore, StoreAwayError
from llmos_gateway.catalog import ApiKey, Catalog, Pool
from llmos_gateway.limits import MILLI, Granted, PromptFactors, Refused, Use, build_quote, build_terms
from llmos_gateway.limits.ledger import find_reset_s
from llmos_gateway.metrics import Metrics
from llmos_gateway.protocol.errors import ApiError, TooManyRequestsError, UnavailableError
from llmos_gateway.protocol.requests import ModelRequest
from llmos_gateway.protocol.usage import Usage
from llmos_gateway.proxy.call import Call
from llmos_gateway.proxy.purse import Purse

BRIEF_S: Final = 1.0
"""After which running requests may have given something back."""
_LONGEST_RETRY_S: Final = 60
"""OpenAI's clients take no longer Retry-After."""
_NO_RETRY: Final = {"x-should-retry": "false"}


class Budgets:
    """The tokens of tenants.

    Args:
        catalog: what each tenant may use.
        store: the account.
        metrics: where refusals are counted.
        unix_time: by which windows end.
    """

    def __init__(
        self, catalog: Catalog, store: BudgetStore, metrics: Metrics, *, unix_time: Callable[[], float] = time.time
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._metrics = metrics
        self._unix_time = unix_time
        self._factors = PromptFactors()

    async def reserve(self, call: Call, key: ApiKey, request: ModelRequest, pool: Pool) -> int | None:
        """Reserve for a request, and return how long its answers may be if the engine has to be told.

        Raises:
            ApiError: there is not enough left, or nobody can say.
        """
        tenant = self._catalog.get_tenant(key.tenant) if key.tenant else None
        if tenant is None or not (terms := build_terms(tenant.budget)).is_limited:
            return None
        quote = build_quote(
            terms,
            prompt_tokens=self._factors.scale(pool.id, call.prompt_tokens),
            choices=request.answers,
            answer_tokens=request.answer_tokens,
            is_stream=request.is_stream,
            context_tokens=pool.context_length,
        )
        build_error = partial(self._build_error, call, key.tenant)
        try:
            outcome = await self._store.open(tenant.account, terms, quote)
        except StoreAwayError as error:
            if not terms.is_enforced:
                return None
            raise build_error(error) from None
        if isinstance(outcome, Refused):
            raise build_error(outcome)
        tab, granted = outcome
        call.purse = Purse(self._store, tab, quote, build_error, partial(self._learn, pool.id, call.prompt_tokens))
        if granted.exceeded is not None:
            self._metrics.count_budget_refusal(key.tenant, granted.exceeded, is_enforced=False)
        if not terms.is_enforced:
            return None
        call.budget_headers = build_headers(granted, self._unix_time())
        return quote.find_cap(granted.amount)

    def _learn(self, pool_id: str, estimate: int, usage: Usage) -> None:
        if usage.is_exact:
            self._factors.learn(pool_id, estimate, usage.prompt_tokens)

    def _build_error(self, call: Call, tenant: str, refusal: Refused | StoreAwayError) -> ApiError:
        if isinstance(refusal, StoreAwayError):
            return UnavailableError(str(refusal), "budget_store_unavailable", retry_after_s=BRIEF_S)
        self._metrics.count_budget_refusal(tenant, refusal.by, is_enforced=True)
        now_s = self._unix_time()
        call.budget_headers = build_headers(refusal, now_s)
        error = build_refusal(tenant, refusal, now_s)
        if error.retry_after_s is None or error.retry_after_s > _LONGEST_RETRY_S:
            call.budget_headers |= _NO_RETRY
        return error


def build_headers(outcome: Granted | Refused, now_s: float) -> dict[str, str]:
    """Return what a caller is told of its tenant's budget."""
    headers: dict[str, str] = {}
    limited = [(limit - use.used, limit, use) for use, limit in _pair(outcome)]
    if limited:
        left, limit, use = min(limited, key=lambda entry: (entry[0], -entry[2].end_s))
        headers["x-ratelimit-limit-tokens"] = str(limit // MILLI)
        headers["x-ratelimit-remaining-tokens"] = str(max(0, left) // MILLI)
        headers["x-ratelimit-reset-tokens"] = format_duration(find_reset_s(use, now_s))
    if outcome.terms.concurrency is not None:
        headers["x-ratelimit-limit-requests"] = str(outcome.terms.concurrency)
        headers["x-ratelimit-remaining-requests"] = str(max(0, outcome.terms.concurrency - outcome.running))
    return headers


def build_refusal(tenant: str, refusal: Refused, now_s: float) -> ApiError:
    """Return what a caller is told that gets nothing."""
    if refusal.by == "concurrency":
        message = (
            f"{refusal.running} requests of the tenant {tenant!r} run at the same time, its limit. Try again when one "
            "of them has ended."
        )
        return TooManyRequestsError(message, "rate_limit_exceeded", retry_after_s=BRIEF_S)
    use, limit = next((use, limit) for use, limit in _pair(refusal) if use.window == refusal.by)
    need, left = -(-refusal.least // MILLI), max(0, limit - use.used) // MILLI
    budget = f"{limit // MILLI} weighted tokens of the tenant {tenant!r} for a {refusal.by} (UTC)"
    if refusal.is_never:
        message = (
            f"The request may use {need}, more than the {budget}. Ask for a shorter answer or send a shorter prompt."
        )
        return TooManyRequestsError(message, "rate_limit_exceeded")
    told = f"Of the {budget} {left} are left, and the request may use {need}."
    if refusal.is_brief:
        message = f"{told} Running requests have reserved the rest: try again when one of them has ended."
        return TooManyRequestsError(message, "rate_limit_exceeded", retry_after_s=BRIEF_S)
    reset_s = find_reset_s(use, now_s)
    message = f"{told} Try again in {format_duration(reset_s)}, or ask your administrator for more."
    code = "rate_limit_exceeded" if refusal.by == "minute" else "insufficient_quota"
    return TooManyRequestsError(message, code, retry_after_s=float(reset_s))


def format_duration(seconds: int) -> str:
    """Return a time as OpenAI writes it, for example 6m0s."""
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def _pair(outcome: Granted | Refused) -> list[tuple[Use, int]]:
    pairs = zip(outcome.uses, outcome.terms.limits, strict=True)
    return [(use, limit) for use, limit in pairs if limit is not None]
