"""`GET /load` of the admin port: the book as JSON, held back for a while if the reader has seen all that is urgent."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from llmos.api.load import GatewayLoad, MonthTokens, TokenUse
from llmos_gateway.load.book import LoadBook
from llmos_gateway.load.canaries import CanaryBook

MAX_WAIT_S: Final = 30.0


def build_load_handler(
    book: LoadBook,
    *,
    gateway: str,
    boot: str,
    read_tenants: Callable[[], Mapping[str, tuple[TokenUse, ...]]] = dict,
    read_months: Callable[[], Mapping[str, MonthTokens]] = dict,
    shares_budgets: bool = False,
    canaries: CanaryBook | None = None,
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler of `GET /load?wait_s=SECONDS&seen=SEQUENCE`.

    Args:
        book: what is counted.
        gateway: the name of this gateway's pod.
        boot: a word that no other process of this name ever had.
        read_tenants: what tenants with limits have used.
        read_months: what all tenants have used this month, counted by this gateway alone.
        shares_budgets: whether what tenants with limits have used is the account of all gateways.
        canaries: adapters that have a share of others' requests.
    """

    async def answer(request: web.Request) -> web.Response:
        try:
            wait_s = float(request.query.get("wait_s", "0"))
            seen = int(request.query.get("seen", "-1"))
        except ValueError:
            return _refuse()
        if not math.isfinite(wait_s):
            return _refuse()
        await book.wait_beyond(seen, min(wait_s, MAX_WAIT_S))
        load = book.build(gateway, boot)
        if canaries is not None:
            load = _with_canaries(load, canaries)
        tenants = {"tenants": dict(read_tenants()), "months": dict(read_months()), "shares_budgets": shares_budgets}
        load = load.model_copy(update=tenants)
        body = load.model_dump_json(by_alias=True, exclude_defaults=True)
        return web.Response(text=body, content_type="application/json")

    return answer


def _with_canaries(load: GatewayLoad, canaries: CanaryBook) -> GatewayLoad:
    told = {pool_id: found for pool_id in load.pools if (found := canaries.read(pool_id))}
    changed = {pool_id: load.pools[pool_id].model_copy(update={"canaries": found}) for pool_id, found in told.items()}
    return load.model_copy(update={"pools": {**load.pools, **changed}}) if changed else load


def _refuse() -> web.Response:
    return web.Response(status=400, text="wait_s is a number of seconds, seen a whole number.\n")
