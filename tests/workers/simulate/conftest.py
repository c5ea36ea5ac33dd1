"""A simulator under a real uvicorn on loopback, inside the test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

import pytest
import uvicorn
from aiohttp import ClientSession

from llmos_workers.simulate.app import Server
from llmos_workers.simulate.settings import parse_settings

StartSimulator = Callable[..., Awaitable[ClientSession]]

FAST = ("--decode-step-ms", "1", "--decode-step-ms-per-seq", "0", "--served-model-name", "m")


def crash() -> NoReturn:
    raise RuntimeError("the crash fault struck")


@asynccontextmanager
async def serve_on_loopback(*args: str) -> AsyncIterator[ClientSession]:
    app = Server(parse_settings([*FAST, *args]), crash).build_app()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn offers no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with ClientSession(base_url=f"http://127.0.0.1:{port}") as session:
        yield session
    server.should_exit = True
    await serving


@pytest.fixture
async def start_simulator() -> AsyncIterator[StartSimulator]:
    """Start a simulator with further arguments; a session whose base is its address comes back."""
    async with AsyncExitStack() as stack:

        async def start(*args: str) -> ClientSession:
            return await stack.enter_async_context(serve_on_loopback(*args))

        yield start
