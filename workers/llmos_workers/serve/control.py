"""The control port: three answers about the engine, for kubelet, operator and gateways. Traffic never passes here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from llmos.api.load import EngineLoad
from llmos_workers.serve.state import ServeState

REFRESH_S: Final = 0.25
"""Older figures are read anew before they are told: whoever takes differences sees even seconds, and an engine is not
asked more often however many ask for its load."""


def build_control_app(
    state: ServeState, *, clock: Callable[[], float], refresh: Callable[[float], Awaitable[None]]
) -> web.Application:
    """Routes that read `state` at each request.

    Args:
        state: what is known about the engine.
        clock: seconds, the clock of `state.load_at_s`.
        refresh: reads the engine's load unless it is younger than so many seconds; returns soon in any case.
    """

    async def healthz(_: web.Request) -> web.Response:
        return _answer(state.unhealthy_reason)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(state.unready_reason)

    async def load(_: web.Request) -> web.Response:
        await refresh(REFRESH_S)
        body = build_engine_load(state, clock()).model_dump_json(by_alias=True)
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/load", load)])
    return app


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
