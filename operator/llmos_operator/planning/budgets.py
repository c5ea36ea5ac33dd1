"""What a Tenant's status says of its tokens, from what gateways tell. Pure.

Gateways that count in one store all tell the same account, each as it heard of it last: the most of them is the newest.
Gateways that count alone each tell their own: the sum counts. A window that has ended since says nothing any more.

The minute's window tells no end: it would be another one each minute, and a tenant at rest would be written for ever.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Final, Literal

from llmos.api.load import GatewayLoad
from llmos.api.tenancy import parse_tokens
from llmos.api.tenant import TokenBudget, TokenWindow

Window = Literal["minute", "day", "month"]
_MONTHS: Final = 12


def build_token_windows(
    budget: TokenBudget, tenant: str, loads: Collection[GatewayLoad], now: datetime
) -> tuple[TokenWindow, ...]:
    """Return one entry for each limit in tokens.

    Args:
        budget: the limits.
        tenant: whose they are, by account (`llmos.api.tenancy.build_account`).
        loads: what each gateway told last.
        now: the current time.
    """
    limits: tuple[tuple[Window, str | None], ...] = (
        ("minute", budget.per_minute),
        ("day", budget.per_day),
        ("month", budget.per_month),
    )
    return tuple(
        TokenWindow(
            window=window,
            used=_sum_used(window, tenant, loads, now),
            limit=parse_tokens(limit),
            resets_at=None if window == "minute" else _find_end(window, now),
        )
        for window, limit in limits
        if limit is not None
    )


def _sum_used(window: Window, tenant: str, loads: Collection[GatewayLoad], now: datetime) -> int:
    since_s = _find_start(window, now).timestamp()
    told = [
        (load.shares_budgets, use.used)
        for load in loads
        for use in load.tenants.get(tenant, ())
        # The clock of a gateway, or of its store, may be ahead.
        if use.window == window and use.start_s >= since_s
    ]
    shared = max((used for is_shared, used in told if is_shared), default=0)
    return shared + sum(used for is_shared, used in told if not is_shared)


def _find_start(window: Window, now: datetime) -> datetime:
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    if window == "minute":
        return minute
    day = minute.replace(hour=0, minute=0)
    return day if window == "day" else day.replace(day=1)


def _find_end(window: Window, now: datetime) -> datetime:
    start = _find_start(window, now)
    if window == "day":
        return datetime.fromordinal(start.toordinal() + 1).replace(tzinfo=UTC)
    year, month = divmod(start.year * _MONTHS + start.month, _MONTHS)
    return start.replace(year=year, month=month + 1)
