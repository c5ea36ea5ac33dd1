"""What a Tenant's status says of the tokens of this month, from what gateways tell. Pure.

Each process of a gateway counts for itself since it began, and tells its sums each second:

    sum in status  +=  what it tells now  -  what of it the sum contains already

Status keeps both the sums and how far they contain each process, in one write. So nothing is counted twice, however
often an operator begins anew, and what a gateway counted while there was none is not lost. Lost is what a gateway
counted in the last second before its end, or before the turn of the month.

Status has room for `MOST_GATEWAYS` processes. One of which nobody can say that it is gone is never left out, or its
whole count would be added again when it tells the next time; as long as there is no room, what a new one tells waits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final

from llmos.api.load import MonthTokens
from llmos.api.tenant import GatewayTokens, MonthlyUsage

MOST_GATEWAYS: Final = 64
"""Processes that status remembers; of those that are gone the ones that told longest ago are forgotten first."""
_COUNTS: Final = ("input_tokens", "cached_tokens", "output_tokens")


def find_month(now: datetime) -> str:
    """Return the calendar month (UTC), for example 2026-11."""
    return now.astimezone(UTC).strftime("%Y-%m")


def add_tokens(
    before: MonthlyUsage, told: Mapping[str, MonthTokens], now: datetime, alive: Collection[str] | None = ()
) -> MonthlyUsage:
    """Return the sums with what gateways told.

    Args:
        before: as status has them.
        told: what each process told last of the tenant, by `boot`. None of them is forgotten, or its whole count
            would be added again.
        now: the current time.
        alive: processes that may still tell: they are not forgotten, either. None = nobody knows yet, and any may.
    """
    month = find_month(now)
    usage = before if before.month == month else MonthlyUsage(month=month)
    known = {each.boot: each for each in usage.gateways}
    sums = {name: getattr(usage, name) for name in _COUNTS}
    kept = known.keys() if alive is None else {*alive, *told}
    for boot, tokens in told.items():
        seen = known.get(boot) or GatewayTokens(boot=boot)
        grown = {name: getattr(tokens, name) - getattr(seen, name) for name in _COUNTS}
        if tokens.month == month and any(more > 0 for more in grown.values()):
            if known.pop(boot, None) is None and not _make_room(known, kept):
                continue
            # Whoever told last stands at the end.
            known[boot] = GatewayTokens(boot=boot, **{name: getattr(tokens, name) for name in _COUNTS})
            sums = {name: sums[name] + max(0, grown[name]) for name in _COUNTS}
    if sums == {name: getattr(usage, name) for name in _COUNTS}:
        return before
    return usage.model_copy(update={**sums, "gateways": tuple(known.values())})


def _make_room(known: dict[str, GatewayTokens], kept: Collection[str]) -> bool:
    """Forget the process that told longest ago of those that are gone, if there has to be room for another one.

    Returns:
        Whether there is room.
    """
    if len(known) < MOST_GATEWAYS:
        return True
    gone = next((boot for boot in known if boot not in kept), None)
    return gone is not None and known.pop(gone) is not None
