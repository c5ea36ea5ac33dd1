"""Connections of callers: how many there may be, and which are closed because they do not move.

aiohttp bounds the size of heads and lines. What it leaves open is closed by one sweep a second over all connections,
which costs requests nothing:

- a head that does not come: more than `header_timeout_s` after the connection opened or the head began;
- a caller that does not read: its answers wait in the write buffer, and the buffer has not become smaller for
  `write_timeout_s`. The buffer itself is bounded, for a stream stops reading from the engine while it is full;
- an idle connection, by aiohttp's own keep-alive timer.

Bytes that are no HTTP get an answer in the API's shape and a closed connection, and no line in the log: whoever sends
them could fill it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from llmos_gateway.protocol.errors import ApiError, BadRequestError, InternalError, UnavailableError
from llmos_gateway.protocol.headers import SERVER

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may take."""

    max_connections: int = 10_000
    header_timeout_s: float = 20.0
    write_timeout_s: float = 60.0
    """Without any progress."""
    keepalive_timeout_s: float = 75.0
    max_line_bytes: int = 8190
    max_header_bytes: int = 8190
    """Of one header."""
    max_headers: int = 100


def build_whole_refusal(error: ApiError) -> bytes:
    """Return an answer for a connection that gets no more than this."""
    body = error.build_body()
    lines = [
        f"HTTP/1.1 {error.status} {web.Response(status=error.status).reason}",
        f"Server: {SERVER}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in error.build_headers().items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_FULL = build_whole_refusal(
    UnavailableError("The gateway has as many connections as it may.", "overloaded", retry_after_s=1.0)
)


class Connection(RequestHandler):
    """One connection of a caller."""

    __slots__ = ("_is_refused", "buffered_bytes", "head_since_s", "idle_since_s", "is_busy", "stuck_since_s")

    def __init__(self, manager: ConnectionServer, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(manager, loop=loop, **options)
        self._is_refused = False
        self.is_busy = False
        """Whether one of its requests is being answered."""
        self.head_since_s: float | None = None
        """Since when a head is awaited or coming in."""
        self.idle_since_s = self._loop.time()
        """Since when nothing was asked or answered, if it is not busy."""
        self.stuck_since_s: float | None = None
        self.buffered_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse it."""
        server = cast("ConnectionServer", self._manager)
        if server.is_full():
            self._is_refused = True
            cast("asyncio.Transport", transport).write(_FULL)
            cast("asyncio.Transport", transport).close()
            return
        self.head_since_s = self._loop.time()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if not self._is_refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and note when a head begins."""
        if self._is_refused:
            return
        if not self.is_busy and self.head_since_s is None:
            self.head_since_s = self.idle_since_s = self._loop.time()
        super().data_received(data)

    def begin(self) -> None:
        """Note that a request is being answered."""
        self.is_busy, self.head_since_s = True, None

    def end(self) -> None:
        """Note that nothing is being answered any more; the last of an answer may still be on its way out."""
        self.is_busy, self.idle_since_s = False, self._loop.time()

    def abort(self) -> None:
        """End the connection with what is in its buffer."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp could not parse, or what failed outside of the road."""
        del message
        if request.writer.output_size > 0 or isinstance(exc, ConnectionError):
            raise ConnectionError("the answer has begun, or nobody is there to get one") from exc
        error: ApiError
        if status < 500:
            error = BadRequestError("The request is not valid HTTP.", "invalid_http")
        else:
            _logger.error("A request failed outside of the road.", exc_info=exc)
            error = InternalError("The gateway failed.", "internal_error")
        headers = {"Server": SERVER, "Content-Type": "application/json"}
        response = web.Response(status=error.status, body=error.build_body(), headers=headers)
        response.force_close()
        return response


class ConnectionServer(web.Server):
    """Makes connections for a listening socket, and watches over them."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        limits: ConnectionLimits,
        *,
        on_refused: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(handler, handler_cancellation=True, loop=loop)
        self._limits = limits
        self._on_refused = on_refused
        self._running_loop = loop
        self._options = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": limits.keepalive_timeout_s,
            "lingering_time": 2.0,
            "max_field_size": limits.max_header_bytes,
            "max_headers": limits.max_headers,
            "max_line_size": limits.max_line_bytes,
        }

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, self._running_loop, **self._options)

    def is_full(self) -> bool:
        """Return whether there may be no further connection, and count the one that is refused."""
        if len(self._connections) < self._limits.max_connections:
            return False
        self._on_refused()
        return True

    def sweep(self) -> None:
        """Close what does not move. To be called about once a second."""
        now_s = self._running_loop.time()
        for connection in self.connections:
            if isinstance(connection, Connection):
                self._sweep(connection, now_s)

    def close_idle(self, for_s: float) -> None:
        """Close connections on which nothing has been asked or answered for so long."""
        since_s = self._running_loop.time() - for_s
        for connection in self.connections:
            if not isinstance(connection, Connection) or connection.transport is None:
                continue
            if not connection.is_busy and connection.idle_since_s <= since_s:
                connection.force_close()

    def _sweep(self, connection: Connection, now_s: float) -> None:
        since_s = connection.head_since_s
        if since_s is not None and not connection.is_busy and now_s - since_s > self._limits.header_timeout_s:
            connection.abort()
            return
        transport = connection.transport
        size = transport.get_write_buffer_size() if transport is not None else 0
        if not size or size < connection.buffered_bytes or connection.stuck_since_s is None:
            connection.stuck_since_s = now_s if size else None
        elif now_s - connection.stuck_since_s > self._limits.write_timeout_s:
            connection.abort()
        connection.buffered_bytes = size
