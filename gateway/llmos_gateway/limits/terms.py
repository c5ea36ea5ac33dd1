"""What a tenant may use, in the units of the ledger: thousandths of a weighted token."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Final

from llmos_gateway.protocol.usage import Usage
from llmos_gateway.tenants import Budget

MILLI: Final = 1000
MAX_AMOUNT: Final = 2**50
"""More is no limit: 10^12 tokens, and sums stay exact in Lua's numbers."""
_MAX_TOKENS: Final = 2**32
"""Of one request, whatever it asks for and an engine says."""


@dataclass(frozen=True, slots=True)
class Terms:
    """A tenant's budget; None = no limit."""

    minute: int | None = None
    day: int | None = None
    month: int | None = None
    concurrency: int | None = None
    """Requests at the same time."""
    input_cost: int = MILLI
    """What a token counts: of a prompt,"""
    cached_cost: int = MILLI
    """of a prompt, found in the engine's cache,"""
    output_cost: int = MILLI
    """generated."""
    is_enforced: bool = True
    """Otherwise everything is counted and nothing refused."""

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """Return the limits in the order of the windows."""
        return self.minute, self.day, self.month

    @property
    def is_limited(self) -> bool:
        """Return whether there is anything to count."""
        return self.concurrency is not None or any(limit is not None for limit in self.limits)

    def weigh(self, usage: Usage) -> int:
        """Return what an answer counts."""
        computed, output = min(usage.prompt_tokens, _MAX_TOKENS), min(usage.completion_tokens, _MAX_TOKENS)
        cached = min(usage.cached_tokens, computed)
        return (computed - cached) * self.input_cost + cached * self.cached_cost + output * self.output_cost

    def weigh_ahead(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return what an answer counts at most, when nobody knows what the cache holds."""
        prompt = min(prompt_tokens, _MAX_TOKENS) * max(self.input_cost, self.cached_cost)
        return prompt + min(output_tokens, _MAX_TOKENS) * self.output_cost

    def share(self, number: int) -> Terms:
        """Return the part for each of `number` gateways that know nothing of each other."""
        if number <= 1:
            return self
        minute, day, month = (None if limit is None else limit // number for limit in self.limits)
        requests = None if self.concurrency is None else max(1, self.concurrency // number)
        return replace(self, minute=minute, day=day, month=month, concurrency=requests)


@lru_cache(maxsize=4096)
def build_terms(budget: Budget) -> Terms:
    """Return a budget in the ledger's units. A cost finer than a thousandth is rounded up."""
    return Terms(
        minute=_scale(budget.per_minute_tokens),
        day=_scale(budget.per_day_tokens),
        month=_scale(budget.per_month_tokens),
        concurrency=budget.max_concurrency,
        input_cost=_scale_cost(budget.cost.input),
        cached_cost=_scale_cost(budget.cost.cached),
        output_cost=_scale_cost(budget.cost.output),
        is_enforced=budget.mode == "enforce",
    )


def _scale(tokens: int | None) -> int | None:
    return None if tokens is None or tokens * MILLI >= MAX_AMOUNT else tokens * MILLI


def _scale_cost(cost: float) -> int:
    # By its shortest decimal, so that 0.1 is a tenth and not a little more.
    return math.ceil(Decimal(str(cost)) * MILLI)
