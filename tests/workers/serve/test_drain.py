"""While the drain file exists, responses close their connections; nothing else changes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmos_workers.serve.drain import DRAIN_FILE_VARIABLE, DrainMiddleware, Message, Receive, Send


async def app(scope: Message, receive: Receive, send: Send) -> None:
    del receive
    if scope["type"] != "http":
        return
    headers = [(b"content-type", b"text/plain"), (b"Connection", b"keep-alive")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


async def call(middleware: DrainMiddleware, kind: str = "http") -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the middleware reads no request")

    async def send(message: Message) -> None:
        sent.append(message)

    await middleware({"type": kind}, receive, send)
    return sent


@pytest.fixture
def drain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "draining"
    monkeypatch.setenv(DRAIN_FILE_VARIABLE, str(path))
    return path


def connection(messages: list[Message]) -> list[Any]:
    return [value for name, value in messages[0]["headers"] if name.lower() == b"connection"]


def test_connections_close_exactly_while_the_file_exists(drain_file: Path) -> None:
    middleware = DrainMiddleware(app)
    assert connection(asyncio.run(call(middleware))) == [b"keep-alive"]
    drain_file.touch()
    messages = asyncio.run(call(middleware))
    assert connection(messages) == [b"close"]
    assert messages[1]["body"] == b"hello"
    drain_file.unlink()
    assert connection(asyncio.run(call(middleware))) == [b"keep-alive"]


def test_what_is_not_http_passes_untouched(drain_file: Path) -> None:
    drain_file.touch()
    assert asyncio.run(call(DrainMiddleware(app), "lifespan")) == []
