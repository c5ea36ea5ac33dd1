"""Tokens in a Tenant's status, from what gateways tell."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from llmos.api.load import GatewayLoad, TokenUse
from llmos.api.tenant import TokenBudget
from llmos_operator.planning.budgets import build_token_windows

NOW = datetime(2026, 12, 31, 23, 59, 30, tzinfo=UTC)
BUDGET = TokenBudget(per_minute="1k", per_day="20k", per_month="2M")
STARTS = {"minute": datetime(2026, 12, 31, 23, 59, tzinfo=UTC), "day": datetime(2026, 12, 31, tzinfo=UTC)}


def build_load(used: int, *, shares: bool = False, late_s: int = 0) -> GatewayLoad:
    starts = {**STARTS, "month": datetime(2026, 12, 1, tzinfo=UTC)}
    uses = [
        TokenUse(window=window, start_s=int(start.timestamp()) - late_s, used=used) for window, start in starts.items()
    ]
    return GatewayLoad(gateway="g", boot="b", tenants={"acme": tuple(uses)}, shares_budgets=shares)


def read(*loads: GatewayLoad, tenant: str = "acme") -> dict[str, tuple[int, int]]:
    windows = build_token_windows(BUDGET, tenant, loads, NOW)
    return {window.window: (window.used, window.limit) for window in windows}


def test_gateways_that_count_alone_are_added_up() -> None:
    assert read(build_load(5), build_load(7)) == {
        "minute": (12, 1000),
        "day": (12, 20_000),
        "month": (12, 2_000_000),
    }


def test_of_gateways_that_share_an_account_the_newest_counts() -> None:
    assert read(build_load(5, shares=True), build_load(7, shares=True))["day"] == (7, 20_000)


def test_a_window_that_is_over_says_nothing() -> None:
    told = read(build_load(5, late_s=60))
    assert {window: used for window, (used, _) in told.items()} == {"minute": 0, "day": 0, "month": 0}


def test_who_has_used_nothing_has_used_nothing() -> None:
    assert read(build_load(5), tenant="other")["month"] == (0, 2_000_000)


def test_days_and_months_tell_when_they_end_and_minutes_do_not() -> None:
    ends = {window.window: window.resets_at for window in build_token_windows(BUDGET, "acme", (), NOW)}
    assert ends == {
        "minute": None,
        "day": datetime(2027, 1, 1, tzinfo=UTC),
        "month": datetime(2027, 1, 1, tzinfo=UTC),
    }


@pytest.mark.parametrize(("month", "end"), [(1, (2026, 2)), (2, (2026, 3)), (11, (2026, 12))])
def test_a_month_ends_where_the_next_begins(month: int, end: tuple[int, int]) -> None:
    budget = TokenBudget(per_month="1k")
    (window,) = build_token_windows(budget, "acme", (), datetime(2026, month, 28, tzinfo=UTC))
    assert window.resets_at == datetime(*end, 1, tzinfo=UTC)


def test_no_limit_in_tokens_tells_nothing() -> None:
    assert build_token_windows(TokenBudget(max_concurrency=3), "acme", (), NOW) == ()
