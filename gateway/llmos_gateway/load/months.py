"""What each tenant used in the month, for accounting: told to the operator, who keeps it.

Counted is what stands in the lines of the audit log, of tenants with and without limits alike. A process that ends
takes with it what it counted since it was asked last, which is a second. Accounts bear the uid of the Tenant, so that
one made anew under the same name is charged nothing of the old one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from llmos.api.load import MonthTokens
from llmos_gateway.limits.windows import find_end, find_starts
from llmos_gateway.protocol.usage import Usage


@dataclass(slots=True)
class _Sums:
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class MonthBook:
    """Tokens by account (`llmos.api.tenancy.build_account`), since the month or the process began.

    Args:
        unix_time: by which months begin (UTC).
    """

    def __init__(self, *, unix_time: Callable[[], float] = time.time) -> None:
        self._unix_time = unix_time
        self._ends_s = 0.0
        self._month = ""
        self._sums: dict[str, _Sums] = {}

    def count(self, account: str, usage: Usage) -> None:
        """Count the tokens of one request; nothing if it is of no tenant."""
        if not account or not (usage.prompt_tokens or usage.completion_tokens):
            return
        self._turn()
        sums = self._sums.setdefault(account, _Sums())
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        sums.input_tokens += usage.prompt_tokens - cached
        sums.cached_tokens += cached
        sums.output_tokens += usage.completion_tokens

    def read(self) -> Mapping[str, MonthTokens]:
        """Return what is counted of the month of now, by account."""
        self._turn()
        return {
            account: MonthTokens.model_construct(
                month=self._month,
                input_tokens=sums.input_tokens,
                cached_tokens=sums.cached_tokens,
                output_tokens=sums.output_tokens,
            )
            for account, sums in self._sums.items()
        }

    def forget(self, account: str) -> None:
        """A Tenant is gone."""
        self._sums.pop(account, None)

    def _turn(self) -> None:
        """Begin anew when the month is over; a clock that steps back a little does not open the last one again."""
        now_s = self._unix_time()
        if now_s >= self._ends_s:
            start_s = find_starts(now_s)[2]
            self._ends_s = find_end("month", start_s)
            self._month = datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m")
            self._sums = {}
