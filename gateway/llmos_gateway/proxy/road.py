"""The road of every request: authenticate -> parse -> find the pool -> reserve -> deliver -> settle -> record.

Deliver is hold -> route -> forward -> stream, in `delivery`. Each step is one function; a step that refuses raises an
`ApiError`, and every request, however it ends, is settled and recorded once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol, TypeAlias
from urllib.parse import unquote

import orjson
from aiohttp import web

from llmos_gateway.catalog import ANONYMOUS, ApiKey, Pool
from llmos_gateway.load.canaries import Outcome
from llmos_gateway.protocol.answers import build_model_card, build_model_list
from llmos_gateway.protocol.errors import (
    ApiError,
    ForbiddenError,
    InternalError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from llmos_gateway.protocol.headers import build_caller_headers, find_bearer
from llmos_gateway.protocol.requests import build_upstream_body, parse_request
from llmos_gateway.proxy.budgets import Budgets
from llmos_gateway.proxy.call import CALLER_GONE_STATUS, Call
from llmos_gateway.proxy.crowd import Crowd
from llmos_gateway.proxy.delivery import Delivery
from llmos_gateway.proxy.intake import Intake
from llmos_gateway.proxy.order import Order, Tools
from llmos_gateway.proxy.prompts import build_prompt
from llmos_gateway.proxy.whole_answer import WholeAnswer
from llmos_gateway.salts import CacheSalts

MAX_NAMES: Final = 5
"""That are proposed for a name that means several models."""
_FAULT: Final = 500
Visit: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]

_logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Takes what became of a request."""

    def record(self, call: Call) -> None:
        """Note a request that has ended."""


class Road:
    """The steps, and what they need.

    Args:
        tools: what deliveries need.
        recorder: takes every request's end.
        salts: keep the cached prompts of callers apart.
        asks_for_key: whether callers must present a key.
        budgets: tokens of tenants; None counts nothing.
        unix_time: for the expiry of keys.
        draw: a number from 0 to below 1, by chance.
    """

    def __init__(
        self,
        tools: Tools,
        recorder: Recorder,
        salts: CacheSalts,
        *,
        asks_for_key: bool = True,
        budgets: Budgets | None = None,
        unix_time: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.is_closing = False
        """Whether every answer that begins closes its connection, because this process is about to end."""
        self._tools = tools
        self._recorder = recorder
        self._salts = salts
        self._asks_for_key = asks_for_key
        self._budgets = budgets
        self._unix_time = unix_time
        self._draw = draw
        self._intake = Intake(tools.limits)
        self._crowd = Crowd(tools.limits.max_in_flight)

    @property
    def calls(self) -> set[Call]:
        """Return what is on the road."""
        return self._crowd.calls

    async def ask_model(self, call: Call, path: str) -> web.StreamResponse:
        """Answer a request for a model."""
        return await self._travel(call, partial(self._ask_model, path=path))

    async def list_models(self, call: Call) -> web.StreamResponse:
        """Answer `GET /v1/models`."""
        return await self._travel(call, self._list_models)

    async def show_model(self, call: Call, quoted_id: str) -> web.StreamResponse:
        """Answer `GET /v1/models/ID`; the id may hold a slash."""
        return await self._travel(call, partial(self._show_model, quoted_id=quoted_id))

    async def refuse(self, call: Call, error: ApiError) -> web.StreamResponse:
        """Answer what is no part of the API."""
        return await self._travel(call, partial(_raise, error=error))

    def end_calls(self) -> None:
        """Tell whoever is still on the road that the gateway ends."""
        for call in tuple(self.calls):
            message = "The gateway ends. Try again: another one answers."
            call.interrupt(UnavailableError(message, "shutting_down", retry_after_s=1.0))

    async def _travel(self, call: Call, visit: Visit) -> web.StreamResponse:
        """Go one road from arrival to record."""
        try:
            self._crowd.enter(call)
            response = await visit(call)
        except ApiError as error:
            response = self._build_failure(call, error)
        except (asyncio.CancelledError, ConnectionError):
            call.status, call.code = CALLER_GONE_STATUS, "caller_gone"
            response = self._build_failure(call, call.take_interruption())
        except Exception:
            _logger.exception("Request %s failed by a fault of the gateway.", call.request_id)
            response = self._build_failure(call, InternalError("The gateway failed.", "internal_error"))
        finally:
            self._crowd.leave(call)
            self._intake.release(call)
            if call.purse is not None:
                call.purse.settle(call.compute_usage())
            self._compare(call)
            self._recorder.record(call)
        if self.is_closing and not response.prepared:
            response.force_close()
        return response

    def _compare(self, call: Call) -> None:
        """Count a request for or beside a canary."""
        if call.asked is None or call.pool is None or not call.attempts:
            return
        if call.status != CALLER_GONE_STATUS:
            outcome = Outcome(call.status >= _FAULT, call.compute_ttft_s(), call.compute_tpot_s())
        elif call.first_s is None:
            outcome = Outcome(is_failed=False, is_given_up=True)
        else:
            return
        self._tools.canaries.ended(call.asked, call.pool, outcome)

    async def _ask_model(self, call: Call, path: str) -> web.StreamResponse:
        key = self._authenticate(call)
        # The body is no one's but the delivery's, which lets go of it when the answer begins.
        delivery = await self._prepare(call, key, await self._intake.read(call), path)
        try:
            return await delivery.run()
        finally:
            self._tools.accounts.left(call)

    async def _list_models(self, call: Call) -> web.StreamResponse:
        key = self._authenticate(call)
        catalog = self._tools.catalog
        return self._build_answer(call, build_model_list(catalog.list_visible(key), partial(catalog.find_base, key)))

    async def _show_model(self, call: Call, quoted_id: str) -> web.StreamResponse:
        key = self._authenticate(call)
        model_id = unquote(quoted_id)
        pool = self._find_pool(key, model_id)
        card = build_model_card(model_id, pool, self._tools.catalog.find_base(key, pool))
        return self._build_answer(call, orjson.dumps(card))

    def _authenticate(self, call: Call) -> ApiKey:
        key = self._find_key(call)
        call.key = key
        if key.tenant:
            call.account = self._find_account(key)
        if call.part is not None and not key.may_use(call.part):
            raise ForbiddenError(f"This API key may not use {call.part}.", "endpoint_not_allowed")
        self._crowd.identify(call, key)
        return key

    def _find_account(self, key: ApiKey) -> str:
        if (tenant := self._tools.catalog.get_tenant(key.tenant)) is None:
            # Without its Tenant none of the key's limits would hold.
            message = (
                f"The tenant {key.tenant!r} of this API key does not exist, or this gateway cannot read it. "
                "Ask your administrator."
            )
            raise ForbiddenError(message, "tenant_not_found")
        return tenant.account

    def _find_key(self, call: Call) -> ApiKey:
        if not self._tools.catalog.is_synced:
            # A key may still come, and so may a tenant that shuts a pool.
            raise UnavailableError("This gateway has just begun. Try again.", "starting", retry_after_s=1.0)
        if not self._asks_for_key:
            return ANONYMOUS
        presented = find_bearer(call.http.headers)
        if presented is None:
            raise UnauthenticatedError("Send your API key: 'Authorization: Bearer KEY'.", "missing_api_key")
        key = self._tools.catalog.authenticate(presented, self._unix_time())
        if key is None:
            raise UnauthenticatedError("This API key is not valid: unknown, revoked or expired.", "invalid_api_key")
        return key

    async def _prepare(self, call: Call, key: ApiKey, body: bytes, path: str) -> Delivery:
        """Parse, find the pool, reserve, and tell the book that a request came."""
        if call.part is None:
            raise RuntimeError("only a part of the API has a body")
        request = parse_request(call.part, body)
        call.is_stream = request.is_stream
        call.asked = self._find_pool(key, request.model)
        pool = self._tools.catalog.deal_out(call.asked, 100 * self._draw())
        salt = self._salts.compute(key, pool.adapter.identity if pool.adapter is not None else "")
        call.pool, call.prompt = pool, build_prompt(request, salt)
        cap = None if self._budgets is None else await self._budgets.reserve(call, key, request, pool)
        body_sent = build_upstream_body(request, pool.model, salt, answer_cap=cap)
        self._tools.accounts.arrived(call, pool)
        order = Order(
            key=key,
            pool=pool,
            path=path,
            prompt=call.prompt,
            body=body_sent,
            is_stream=request.is_stream,
            hides_usage=request.hides_usage,
            hides_counts=request.hides_counts,
            choices=request.choices,
        )
        return Delivery(self._tools, call, order, on_answer=self._intake.release, closes=self.is_closing)

    def _find_pool(self, key: ApiKey, model: str) -> Pool:
        meant = self._tools.catalog.find_meant(key, model)
        if len(meant) == 1:
            return meant[0]
        if meant:
            names = ", ".join(pool.full_name for pool in meant[:MAX_NAMES]) + (", ..." if meant[MAX_NAMES:] else "")
            message = f"The model {model!r} may be any of {names}. Ask for one of them by this name."
        else:
            # What the caller may not see is told in the same words as what does not exist.
            message = f"The model {model!r} does not exist, or this API key may not use it. See GET /v1/models."
        raise NotFoundError(message, "model_not_found", param="model")

    def _build_answer(self, call: Call, body: bytes) -> web.StreamResponse:
        call.status = 200
        headers = build_caller_headers({"Content-Type": "application/json"}, call.request_id)
        return WholeAnswer(200, body, headers)

    def _build_failure(self, call: Call, error: ApiError) -> web.StreamResponse:
        call.status, call.code = error.status, error.code
        if call.http.writer.output_size > 0:
            # A part of an answer is sent that cannot be taken back; a broken connection says that it is not whole.
            transport = call.http.transport
            if transport is not None:
                transport.abort()
            raise ConnectionResetError(error.message)
        headers = build_caller_headers({"Content-Type": "application/json"}, call.request_id, call.budget_headers)
        headers.update(error.build_headers())
        return WholeAnswer(error.status, error.build_body(), headers)


async def _raise(_: Call, error: ApiError) -> web.StreamResponse:
    raise error
