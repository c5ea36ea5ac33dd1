"""Real servers on loopback for the fetch tests: files (with faults), a model hub, a registry, a package index."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import re
import ssl
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(handler: Handler, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a handler for all paths on a free loopback port in a thread of its own; yields the base URL."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    ports: list[int] = []

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        ports.append(runner.addresses[0][1])
        started.set()
        return runner

    async def stop(runner: web.AppRunner) -> None:
        await runner.cleanup()
        # A closed transport gives its socket back some rounds of the loop later, after the farewell of TLS.
        for _ in range(20):
            await asyncio.sleep(0.005 if tls else 0)

    runner = loop.create_task(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{ports[0]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(runner.result()), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@dataclass
class Fault:
    """What goes wrong with one GET: a status instead of the file, or a connection that breaks after some bytes."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    pause_s: float = 0.0


@dataclass
class FileServer:
    """Files by path. `faults` are used up, one for each GET of that path; `requests` records method, path and range."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    knows_ranges: bool = True
    knows_head: bool = True
    etags: dict[str, str] = field(default_factory=dict)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.lstrip("/")
        self.requests.append((request.method, path, request.headers.get("Range", "")))
        self.headers.append(dict(request.headers))
        if request.method == "HEAD" and not self.knows_head:
            return web.Response(status=405)
        waiting = self.faults.get(path, [])
        fault = waiting.pop(0) if waiting and request.method == "GET" else Fault()
        if fault.status:
            return web.Response(status=fault.status, headers=fault.headers)
        if path not in self.files:
            return web.Response(status=404)
        return await self._send(request, self.files[path], fault)

    async def _send(self, request: web.Request, data: bytes, fault: Fault) -> web.StreamResponse:
        path = request.path.lstrip("/")
        headers = {"ETag": f'"{self.etags.get(path, hashlib.md5(data, usedforsecurity=False).hexdigest())}"'}
        status = 200
        match = re.match(r"bytes=(\d+)-(\d*)$", request.headers.get("Range", ""))
        body = data
        if match and self.knows_ranges:
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            body, status = data[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(data)}"
        if path.endswith("/"):
            headers["Content-Type"] = "text/html"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if fault.cut_after_bytes is not None:
            await response.write(body[: fault.cut_after_bytes])
            await asyncio.sleep(0.05)  # lets what was written leave before the connection breaks
            assert request.transport is not None
            request.transport.abort()
            return response
        await self._write_slowly(response, body, fault.pause_s)
        return response

    @staticmethod
    async def _write_slowly(response: web.StreamResponse, body: bytes, pause_s: float) -> None:
        step = 1 << 18
        try:
            for start in range(0, len(body), step):
                await response.write(body[start : start + step])
                if pause_s:
                    await asyncio.sleep(pause_s)
            await response.write_eof()
        except ConnectionError:
            return  # the reader had enough

    def count(self, method: str, path: str) -> int:
        """How often a file was asked for."""
        return sum(1 for seen in self.requests if seen[:2] == (method, path))


@dataclass
class Hub:
    """As much of a model hub as huggingface_hub needs to resolve, list and fetch one repository."""

    files: FileServer
    repository: str = "org/tiny"
    content: str = "models"
    needed_token: str = ""
    gated: bool = False
    statuses: list[Fault] = field(default_factory=list)
    url: str = ""
    cdn_headers: list[dict[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/cdn/"):
            self.cdn_headers.append(dict(request.headers))
            return await self.files.handle(request.clone(rel_url=request.path.removeprefix("/cdn")))
        if self.statuses:
            fault = self.statuses.pop(0)
            return web.Response(status=fault.status, headers=fault.headers)
        if self.needed_token and request.headers.get("Authorization") != f"Bearer {self.needed_token}":
            return self._refuse(401, "GatedRepo" if self.gated else "RepoNotFound")
        if request.path.startswith(f"/api/{self.content}/"):
            return self._describe(request.path.removeprefix(f"/api/{self.content}/"))
        folder = "" if self.content == "models" else f"/{self.content}"
        match = re.match(rf"{folder}/{self.repository}/resolve/{COMMIT}/(.+)$", request.path)
        if match is None:
            return self._refuse(404, "EntryNotFound")
        # To another name of the same machine: clients must not take the token there.
        return web.Response(
            status=302, headers={"Location": f"{self.url.replace('127.0.0.1', 'localhost')}/cdn/{match[1]}"}
        )

    def _describe(self, path: str) -> web.Response:
        repository, _, revision = path.partition("/revision/")
        if repository != self.repository:
            return self._refuse(404, "RepoNotFound")
        if revision not in {"main", "v1", COMMIT}:
            return self._refuse(404, "RevisionNotFound")
        siblings = [self._sibling(name, data) for name, data in self.files.files.items()]
        return web.json_response({"id": repository, "sha": COMMIT, "siblings": siblings})

    @staticmethod
    def _sibling(name: str, data: bytes) -> dict[str, Any]:
        git_sha1 = hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
        sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_sha1}
        if name.endswith((".safetensors", ".gguf")):
            sha256 = hashlib.sha256(data).hexdigest()
            sibling |= {"blobId": "f" * 40, "lfs": {"sha256": sha256, "size": len(data), "pointerSize": 130}}
        return sibling

    @staticmethod
    def _refuse(status: int, code: str) -> web.Response:
        return web.Response(status=status, headers={"X-Error-Code": code, "X-Error-Message": code})


@dataclass
class Registry:
    """The three end points of an OCI registry that reading needs, with the token dance in front of them."""

    files: dict[str, bytes]
    user: str = ""
    password: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def manifest(self) -> bytes:
        layers = [
            {
                "mediaType": "application/octet-stream",
                "digest": _digest(data),
                "size": len(data),
                "annotations": {"org.opencontainers.image.title": name},
            }
            for name, data in self.files.items()
        ]
        return json.dumps({"schemaVersion": 2, "layers": layers}).encode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Range", "")))
        if request.path == "/token":
            return self._give_token(request)
        if self.user and request.headers.get("Authorization") != "Bearer granted":
            realm = f'Bearer realm="http://{request.host}/token",service="test",scope="repository:models/tiny:pull"'
            return web.Response(status=401, headers={"Www-Authenticate": realm})
        known = {f"/v2/models/tiny/blobs/{_digest(data)}": data for data in self.files.values()}
        for reference in ("v1", _digest(self.manifest)):
            known[f"/v2/models/tiny/manifests/{reference}"] = self.manifest
        if request.path not in known:
            return web.Response(status=404)
        data = known[request.path]
        match = re.match(r"bytes=(\d+)-(\d*)$", request.headers.get("Range", ""))
        if match is None:
            return web.Response(body=data, headers={"Docker-Content-Digest": _digest(data)})
        first, last = int(match[1]), int(match[2] or len(data) - 1)
        return web.Response(
            status=206, body=data[first : last + 1], headers={"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        )

    def _give_token(self, request: web.Request) -> web.Response:
        expected = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if request.headers.get("Authorization") != expected:
            return web.Response(status=401)
        return web.json_response({"token": "granted"})


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def build_wheel(members: dict[str, bytes]) -> bytes:
    """A deflated wheel with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return buffer.getvalue()


def add_to_index(server: FileServer, name: str, version: str, wheel: bytes) -> None:
    """Put a wheel and its page (PEP 503) onto a file server."""
    file_name = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    sha256 = hashlib.sha256(wheel).hexdigest()
    server.files[f"packages/{file_name}"] = wheel
    server.files[f"simple/{name}/"] = f'<a href="/packages/{file_name}#sha256={sha256}">{file_name}</a>'.encode()
