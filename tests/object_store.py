"""A real S3 server (moto) behind a door that can be shut."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import httpx
import pytest
from aiohttp import web

from e2e.support.object_store import serve_bucket
from tests.workers.fetch.servers import serve

__all__ = ["KEY", "Door", "open_door", "serve_bucket"]

KEY = "key-of-the-job"


@dataclass
class Door:
    """Lets requests through to the server, as far as it is open. moto knows no wrong credentials, so this does."""

    server: str
    url: str = ""
    holds: Callable[[str], bool] = field(default=lambda _path: False)
    """Which uploads are held, by path; they go on when it says so no more."""
    held: threading.Event = field(default_factory=threading.Event)
    """Something is or was held."""
    is_shut: bool = False
    uploads: list[str] = field(default_factory=list)
    """Paths that were put, in their order."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.is_shut:
            return web.Response(status=503)
        if f"Credential={KEY}/" not in request.headers.get("Authorization", ""):
            return web.Response(status=403, text="<Error><Code>InvalidAccessKeyId</Code></Error>")
        body = await request.content.read()
        if request.method == "PUT":
            while self.holds(request.path):
                self.held.set()
                await asyncio.sleep(0.01)
        headers = {name: value for name, value in request.headers.items() if name not in {"Host", "Content-Length"}}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, f"{self.server}{request.raw_path}", headers=headers, data=body) as answer,
        ):
            if request.method == "PUT" and answer.status == 200:
                self.uploads.append(request.path)
            said = {k: v for k, v in answer.headers.items() if k not in {"Transfer-Encoding", "Content-Encoding"}}
            if request.method == "HEAD":
                return web.Response(status=answer.status, headers=said)
            said.pop("Content-Length", None)
            return web.Response(status=answer.status, headers=said, body=await answer.read())

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process reach the server through the door."""
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)

    def environment(self, key: str = KEY) -> dict[str, str]:
        """What the Secret has."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": "secret-key",
            "AWS_REGION": "us-east-1",
        }

    def names(self, bucket: str) -> list[str]:
        """Names of all objects of a bucket."""
        text = httpx.get(f"{self.server}/{bucket}?list-type=2&max-keys=1000").text
        return sorted(part.partition("</Key>")[0] for part in text.split("<Key>")[1:])


@contextmanager
def open_door(server: str, tls: ssl.SSLContext | None = None) -> Iterator[Door]:
    """A door before a server, perhaps one that speaks TLS."""
    door = Door(server)
    with serve(door.handle, tls) as url:
        door.url = url
        yield door
