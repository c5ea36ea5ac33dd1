"""The public server: which paths there are, and where each goes. Nothing else of an engine can be reached.

A dispatcher of a dictionary and two prefixes does here what a web framework would, at a fraction of its time: it is
called for every request, and there are few paths.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import web

from llmos_gateway.http.connections import Connection, ConnectionLimits, ConnectionServer
from llmos_gateway.http.listener import Listener
from llmos_gateway.protocol.errors import MethodNotAllowedError, NotFoundError
from llmos_gateway.protocol.headers import find_request_id
from llmos_gateway.protocol.requests import ApiPart
from llmos_gateway.proxy.call import Call
from llmos_gateway.proxy.road import Road

PARTS: Final = {
    "/v1/chat/completions": ApiPart.CHAT,
    "/v1/completions": ApiPart.COMPLETIONS,
    "/v1/embeddings": ApiPart.EMBEDDINGS,
    "/v1/responses": ApiPart.RESPONSES,
    "/v1/classify": ApiPart.CLASSIFY,
    "/v1/pooling": ApiPart.POOLING,
}
ENGINE_PATHS: Final = {"/v1/classify": "/classify", "/v1/pooling": "/pooling"}
"""Where the engine has another path than the gateway, whose callers all begin with /v1."""
MODELS: Final = "/v1/models"
SWEEP_S: Final = 1.0
DRAIN_POLL_S: Final = 0.1


class PublicServer:
    """Listens for callers and sends them on the road.

    Args:
        road: where requests go.
        limits: of connections.
        clock: seconds that only grow.
        on_begin: called for each request before anything else; tracing begins here.
        on_refused: called for each connection beyond the limit.
    """

    def __init__(
        self,
        road: Road,
        limits: ConnectionLimits,
        *,
        clock: Callable[[], float],
        on_begin: Callable[[Call, str], None] | None = None,
        on_refused: Callable[[], None],
    ) -> None:
        self._road = road
        self._clock = clock
        self._on_begin = on_begin
        self._server = ConnectionServer(self._handle, limits, on_refused=on_refused)
        self._listener: Listener | None = None

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._server.connections)

    async def start(self, host: str | None, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen; return the port (0 lets the system choose)."""
        self._listener = Listener(self._server, tls)
        return await self._listener.start(host, port)

    def sweep(self) -> None:
        """Close connections that do not move."""
        self._server.sweep()

    async def drain(self, idle_s: float, timeout_s: float) -> None:
        """Take no more connections, and wait until none is left, at most `timeout_s`.

        One that was idle for `idle_s` is closed. Not at once: a stream whose head was sent before the end began said
        that its connection stays, and a caller that takes it at its word must get an answer, which says otherwise.
        """
        self._stop_listening()
        until_s = self._clock() + timeout_s
        while self.connections and self._clock() < until_s:
            self._server.close_idle(idle_s)
            await asyncio.sleep(DRAIN_POLL_S)

    async def stop(self, timeout_s: float) -> None:
        """Close everything."""
        if self._listener is not None:
            await self._listener.stop()
        self._server.close_idle(0.0)
        await self._server.shutdown(timeout_s)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        path = http.raw_path.partition("?")[0]
        part = PARTS.get(path)
        call = Call(http, part, find_request_id(http.headers) or _build_request_id(), self._clock())
        if self._on_begin is not None:
            self._on_begin(call, path)
        connection = http.protocol
        if isinstance(connection, Connection):
            connection.begin()
        try:
            return await self._dispatch(call, path)
        finally:
            if isinstance(connection, Connection):
                connection.end()

    async def _dispatch(self, call: Call, path: str) -> web.StreamResponse:
        road, method = self._road, call.http.method
        if call.part is not None:
            if method != "POST":
                return await road.refuse(call, MethodNotAllowedError("POST"))
            return await road.ask_model(call, ENGINE_PATHS.get(path, path))
        if path == MODELS or path.startswith(f"{MODELS}/"):
            if method != "GET":
                return await road.refuse(call, MethodNotAllowedError("GET"))
            if path == MODELS:
                return await road.list_models(call)
            return await road.show_model(call, path[len(MODELS) + 1 :])
        return await road.refuse(call, NotFoundError("There is no such URL here. See GET /v1/models.", "unknown_url"))


def _build_request_id() -> str:
    # It must be new, not secret; the system's source of randomness costs a system call each time.
    return f"{random.getrandbits(128):032x}"
