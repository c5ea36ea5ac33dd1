"""Small engines on loopback that do as a test tells them: real HTTP, real connections that really break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Behaviour = Callable[["Engine", web.Request], Awaitable[web.StreamResponse]]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "qwen",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": USAGE,
}


@dataclass
class Engine:
    """One engine. `behave` may be replaced at any time."""

    behave: Behaviour
    address: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client goes away while its request is being answered."""
    went_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test, awaited by behaviours that pause."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.bodies.append(json.loads(await request.read()))
        try:
            return await self.behave(self, request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def open_engine(behave: Behaviour | None = None, *, port: int = 0) -> AsyncIterator[Engine]:
    """Serve until the block ends."""
    engine = Engine(behave or answer)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", engine.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        engine.address = f"127.0.0.1:{runner.addresses[0][1]}"
        yield engine
    finally:
        await runner.cleanup()


async def answer(_: Engine, request: web.Request) -> web.StreamResponse:
    """Answer at once, as a stream if that was asked for."""
    body = json.loads(await request.read())
    if not body.get("stream"):
        return web.json_response(ANSWER)
    response = await begin_stream(request)
    for line in build_stream(wants_usage=bool((body.get("stream_options") or {}).get("include_usage"))):
        await response.write(line)
    return response


def build_stream(*, wants_usage: bool, words: tuple[str, ...] = ("Par", "is", ".")) -> list[bytes]:
    """Return the events of a chat."""
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in words)]
    lines = [build_event({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    if wants_usage:
        lines.append(build_event({"choices": [], "usage": USAGE}))
    return [*lines, b"data: [DONE]\n\n"]


def build_event(fields: dict[str, Any]) -> bytes:
    """Return one event as vLLM writes it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "qwen"}
    return b"data: " + json.dumps({**head, **fields}, separators=(",", ":")).encode() + b"\n\n"


async def begin_stream(request: web.Request) -> web.StreamResponse:
    """Send the head of a stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


async def die(_: Engine, request: web.Request) -> web.StreamResponse:
    """Break the connection before anything is answered, as a killed process does."""
    return _break(request)


async def die_after_head(_: Engine, request: web.Request) -> web.StreamResponse:
    """Begin a stream, and break the connection before its first event."""
    await begin_stream(request)
    return _break(request)


async def die_in_stream(engine: Engine, request: web.Request) -> web.StreamResponse:
    """Send two tokens, wait for the test, and break the connection."""
    response = await begin_stream(request)
    for line in build_stream(wants_usage=False)[:3]:
        await response.write(line)
    await engine.went_on.wait()
    return _break(request)


async def end_early(_: Engine, request: web.Request) -> web.StreamResponse:
    """Send two tokens and end the answer as if that were all of it."""
    response = await begin_stream(request)
    for line in build_stream(wants_usage=False)[:3]:
        await response.write(line)
    return response


async def die_in_body(_: Engine, request: web.Request) -> web.StreamResponse:
    """Promise a long answer, send a part of it, and break the connection."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100000"})
    await response.prepare(request)
    await response.write(b'{"choices":[')
    await asyncio.sleep(0.02)
    return _break(request)


async def pause_in_stream(engine: Engine, request: web.Request) -> web.StreamResponse:
    """Send two tokens, wait for the test, and send the rest."""
    body = json.loads(await request.read())
    lines = build_stream(wants_usage=bool((body.get("stream_options") or {}).get("include_usage")))
    response = await begin_stream(request)
    for line in lines[:3]:
        await response.write(line)
    await engine.went_on.wait()
    for line in lines[3:]:
        await response.write(line)
    return response


async def hang(engine: Engine, request: web.Request) -> web.StreamResponse:
    """Answer when the test says so."""
    await engine.went_on.wait()
    return await answer(engine, request)


def fail_with(status: int, body: dict[str, Any] | str, **headers: str) -> Behaviour:
    """Return an engine that answers everything with this."""

    async def behave(_: Engine, request: web.Request) -> web.StreamResponse:
        del request
        if isinstance(body, str):
            return web.Response(status=status, text=body, headers=headers)
        return web.json_response(body, status=status, headers=headers)

    return behave


def _break(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError
