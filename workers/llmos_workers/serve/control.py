"""The control port: answers about the engine, for kubelet, operator and gateways. Traffic never passes here.

Only one request changes anything, `PUT /adapters`, and for that the operator bears a token of which this side knows the
sha256 alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from pydantic import ValidationError

from llmos.api.adapters import WantedAdapters, is_token
from llmos.api.load import EngineLoad
from llmos_workers.serve.adapters import AdapterKeeper
from llmos_workers.serve.state import ServeState

REFRESH_S: Final = 0.25
"""Older figures are read anew before they are told: whoever takes differences sees even seconds, and an engine is not
asked more often however many ask for its load."""


MAX_LIST_BYTES: Final = 256 << 10


def build_control_app(
    state: ServeState,
    *,
    clock: Callable[[], float],
    refresh: Callable[[float], Awaitable[None]],
    keeper: AdapterKeeper | None = None,
    token_hash: str = "",
) -> web.Application:
    """Routes that read `state` at each request.

    Args:
        state: what is known about the engine.
        clock: seconds, the clock of `state.load_at_s`.
        refresh: reads the engine's load unless it is younger than so many seconds; returns soon in any case.
        keeper: of the adapters; None where none can be loaded.
        token_hash: of the token that whoever says which adapters to load has to bear.
    """

    async def healthz(_: web.Request) -> web.Response:
        return _answer(state.unhealthy_reason)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(state.unready_reason)

    async def load(_: web.Request) -> web.Response:
        await refresh(REFRESH_S)
        body = build_engine_load(state, clock()).model_dump_json(by_alias=True)
        return web.Response(text=body, content_type="application/json")

    async def adapters(_: web.Request) -> web.Response:
        return _describe(keeper)

    async def want(request: web.Request) -> web.Response:
        if not is_token(request.headers.get("Authorization", ""), token_hash):
            return web.Response(status=401, text="only the operator says which adapters to load\n")
        if keeper is None:
            return _describe(keeper)
        try:
            wanted = WantedAdapters.model_validate_json(await request.read())
        except ValidationError as error:
            return web.Response(status=400, text=f"not a list of adapters: {error.error_count()} errors\n")
        keeper.want(wanted.adapters)
        return _describe(keeper)

    app = web.Application(client_max_size=MAX_LIST_BYTES)
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/load", load)])
    app.add_routes([web.get("/adapters", adapters), web.put("/adapters", want)])
    return app


def _describe(keeper: AdapterKeeper | None) -> web.Response:
    if keeper is None:
        return web.Response(status=409, text="adapters cannot be loaded here: set spec.adapters of the pool\n")
    return web.Response(text=keeper.describe().model_dump_json(by_alias=True), content_type="application/json")


def build_engine_load(state: ServeState, now_s: float) -> EngineLoad:
    """What the replica says of its load."""
    load = state.load
    return EngineLoad(
        running=load.running,
        waiting=load.waiting,
        ready=state.unready_reason is None,
        draining=state.is_draining,
        boot=state.boot,
        age_s=max(0.0, now_s - state.load_at_s),
        prompt_tokens_total=max(0, load.prompt_tokens - load.cached_tokens),
        generation_tokens_total=load.generation_tokens,
        cached_tokens_total=load.cached_tokens,
        steps_total=load.steps,
        preemptions_total=load.preemptions,
        kv_usage=load.kv_usage,
    )


def _answer(problem: str | None) -> web.Response:
    return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")
