"""A gateway with a tenant that has a budget, and what is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.gateway.engines import (
    Engine,
    begin_stream,
    build_event,
)
from tests.gateway.stage import CHAT, Stage, open_gateway
from tests.gateway.values import api_key, key_text, tenant

EVEN = {"input": 1, "cached": 1, "output": 1}
HEADERS = {"Authorization": f"Bearer {key_text(1)}"}
PROMPT = 9
"""Estimated tokens of the prompt of `CHAT`,"""
RESERVED = 32
"""and what is reserved for it at first."""


@asynccontextmanager
async def open_tenant(engine: Engine, *, options: dict[str, Any] | None = None, **tokens: Any) -> AsyncIterator[Stage]:
    """A gateway with a tenant that has this budget."""
    async with open_gateway(engine.address, **(options or {})) as stage:
        stage.catalog.put_tenant(tenant("acme", "team", tokens={"cost": EVEN, **tokens}))
        stage.catalog.keys.put(api_key(1, tenant="acme"))
        yield stage


def ask(stage: Stage, **fields: Any) -> Any:
    return stage.post({**CHAT, **fields}, headers=HEADERS)


async def read_used(stage: Stage, window: str = "day") -> tuple[float, float]:
    """Tokens used, and of them reserved."""
    text = await stage.scrape()
    return read_gauge(text, "used", window), read_gauge(text, "reserved", window)


def read_gauge(text: str, name: str, window: str) -> float:
    start = f'llmos_gateway_budget_{name}_tokens{{tenant="acme",window="{window}"}} '
    return next(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))


async def wait_for_used(stage: Stage, used: float, reserved: float = 0.0) -> None:
    async with asyncio.timeout(10):
        while (seen := await read_used(stage)) != (used, reserved):
            await asyncio.sleep(0.01)
            assert seen[0] >= 0


async def endless(engine: Engine, request: web.Request) -> web.StreamResponse:
    """Stream one token an event for ever, and count them as vLLM does."""
    response = await begin_stream(request)
    for number in range(100_000):
        await response.write(build_token(number))
        await asyncio.sleep(0)
    return response


def build_token(number: int) -> bytes:
    """Return the event of an answer's next token, with the count that it ends with."""
    usage = {"prompt_tokens": PROMPT, "total_tokens": PROMPT + number, "completion_tokens": number}
    return build_event({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": usage})


async def read_status(request: Any) -> int:
    async with request as response:
        await response.read()
        return int(response.status)
