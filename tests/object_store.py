"""A real S3 server (moto) in a process of its own, and a door before it that can be shut.

moto cannot be installed beside kubernetes>=37, so uv runs it in an environment of its own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx
from aiohttp import web

from tests.workers.fetch.servers import serve

UV = Path(__file__).resolve().parents[1] / ".venv" / "bin" / "uv"
KEY = "key-of-the-job"


@contextmanager
def run_moto(folder: Path) -> Iterator[str]:
    """Run the server; its log is in `folder`. Yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = ("-H", "127.0.0.1", "-p", str(port))
    command = [str(UV), "run", "--no-project", "--with", "moto[server]>=5", "moto_server", *where]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, "UV_SYSTEM_CERTS": "1"}, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(url, process, log)
        yield url
    finally:
        # On a busy machine its orderly end takes longer than anybody should wait: it has nothing to save.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 240
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            httpx.get(f"{url}/moto-api/")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(log.read_text())


def make_bucket(server: str, name: str) -> None:
    """Make a bucket. The first request takes long where others use the machine: moto imports what it needs then."""
    httpx.put(f"{server}/{name}", timeout=120).raise_for_status()


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
