"""What a Tenant's status says of the tokens of this month, from what gateways tell. Pure.

Each process of a gateway counts for itself since it began, and tells its sums each second:

    sum in status  +=  what it tells now  -  what of it the sum contains already

Status keeps both the sums and how far they contain each process, in one write. So nothing is counted twice, however
often an operator begins anew, and what a gateway counted while there was none is not lost. Lost is what a gateway
counted in the last second before its end, or before the turn of the month.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final

from llmos.api.load import MonthTokens
from llmos.api.tenant import GatewayTokens, MonthlyUsage

MOST_GATEWAYS: Final = 64
"""Processes that status remembers; those that told longest ago are forgotten first."""
_COUNTS: Final = ("input_tokens", "cached_tokens", "output_tokens")


def find_month(now: datetime) -> str:
    """Return the calendar month (UTC), for example 2026-11."""
    return now.astimezone(UTC).strftime("%Y-%m")


def add_tokens(
    before: MonthlyUsage, told: Mapping[str, MonthTokens], now: datetime, alive: Collection[str] = ()
) -> MonthlyUsage:
    """Return the sums with what gateways told.

    Args:
        before: as status has them.
        told: what each process told last of the tenant, by `boot`, at most `MOST_GATEWAYS`. None of them is
            forgotten, or its whole count would be added again.
        now: the current time.
        alive: processes that may still tell: they are not forgotten.
    """
    month = find_month(now)
    usage = before if before.month == month else MonthlyUsage(month=month)
    known = {each.boot: each for each in usage.gateways}
    sums = {name: getattr(usage, name) for name in _COUNTS}
    for boot, tokens in told.items():
        seen = known.get(boot) or GatewayTokens(boot=boot)
        grown = {name: getattr(tokens, name) - getattr(seen, name) for name in _COUNTS}
        if tokens.month == month and any(more > 0 for more in grown.values()):
            known.pop(boot, None)  # Whoever told last stands at the end.
            known[boot] = GatewayTokens(boot=boot, **{name: getattr(tokens, name) for name in _COUNTS})
            sums = {name: sums[name] + max(0, grown[name]) for name in _COUNTS}
    if sums == {name: getattr(usage, name) for name in _COUNTS}:
        return before
    return usage.model_copy(update={**sums, "gateways": _forget(known, {*alive, *told})})


def _forget(known: Mapping[str, GatewayTokens], alive: Collection[str]) -> tuple[GatewayTokens, ...]:
    """Leave out the processes that told longest ago, first those that are gone."""
    too_many = len(known) - MOST_GATEWAYS
    order = sorted(known, key=lambda boot: boot in alive)
    gone = set(order[: max(0, too_many)])
    return tuple(each for boot, each in known.items() if boot not in gone)
