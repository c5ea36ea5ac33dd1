"""`GET /load` of the admin port: the book as JSON, held back for a while if the reader has seen all that is urgent."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from llmos.api.load import GatewayLoad, MonthTokens, TokenUse
from llmos_gateway.load.book import LoadBook
from llmos_gateway.load.canaries import CanaryBook
from llmos_gateway.load.placements import Told

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
    read_conversations: Callable[[float], Told] | None = None,
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler of `GET /load?wait_s=SECONDS&seen=SEQUENCE&conversations_s=SECONDS`.

    Args:
        book: what is counted.
        gateway: the name of this gateway's pod.
        boot: a word that no other process of this name ever had.
        read_tenants: what tenants with limits have used.
        read_months: what all tenants have used this month, counted by this gateway alone.
        shares_budgets: whether what tenants with limits have used is the account of all gateways.
        canaries: adapters that have a share of others' requests.
        read_conversations: where conversations were sent within so many last seconds; told to whom asks for them.
    """

    async def answer(request: web.Request) -> web.Response:
        try:
            wait_s = float(request.query.get("wait_s", "0"))
            seen = int(request.query.get("seen", "-1"))
            within_s = float(request.query.get("conversations_s", "0"))
        except ValueError:
            return _refuse()
        if not math.isfinite(wait_s) or not math.isfinite(within_s):
            return _refuse()
        await book.wait_beyond(seen, min(wait_s, MAX_WAIT_S))
        load = book.build(gateway, boot)
        if canaries is not None:
            load = _with_canaries(load, canaries)
        if read_conversations is not None and within_s > 0:
            load = _with_conversations(load, read_conversations(within_s))
        tenants = {"tenants": dict(read_tenants()), "months": dict(read_months()), "shares_budgets": shares_budgets}
        load = load.model_copy(update=tenants)
        body = load.model_dump_json(by_alias=True, exclude_defaults=True)
        return web.Response(text=body, content_type="application/json")

    return answer


def _with_canaries(load: GatewayLoad, canaries: CanaryBook) -> GatewayLoad:
    told = {pool_id: found for pool_id in load.pools if (found := canaries.read(pool_id))}
    changed = {pool_id: load.pools[pool_id].model_copy(update={"canaries": found}) for pool_id, found in told.items()}
    return load.model_copy(update={"pools": {**load.pools, **changed}}) if changed else load


def _with_conversations(load: GatewayLoad, told: Told) -> GatewayLoad:
    changed = {
        pool_id: load.pools[pool_id].model_copy(update={"conversations": conversations})
        for pool_id, conversations in told.items()
        if pool_id in load.pools
    }
    return load.model_copy(update={"pools": {**load.pools, **changed}, "tells_conversations": True})


def _refuse() -> web.Response:
    text = "wait_s and conversations_s are numbers of seconds, seen is a whole number.\n"
    return web.Response(status=400, text=text)
