"""Connections to replicas: one pool of them for the whole process, and what their failures mean.

A failure is one of four, and only these are ever tried again:

    ReplicaError
    +-- UnreachableError  nothing was sent; another try costs nothing
    +-- LostError         the connection broke before anything came back that the caller could have seen
    +-- MissingError      the replica has not loaded the adapter, or not any more; another try costs nothing
    +-- DeclinedError     502, 503 or 504: the replica did not take the request

Whether an idle connection still works is known only by using it. It is closed before the engine would close it (see
`Limits.engine_keepalive_s`), and one that breaks nevertheless is a LostError.

Most requests do without aiohttp's session, whose cookies, redirects, proxies and traces, and a task for each body, cost
about a seventh of the CPU time of a request. The connections, their limits, the parser and the flow control are
aiohttp's. A large body, and a request of which somebody is told when it has a connection, go the long way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError, StreamWriter
from multidict import CIMultiDict
from yarl import URL

from llmos_gateway.proxy.limits import Limits

_DECLINED: Final = frozenset({502, 503, 504})
_SMALL_BODY_BYTES: Final = 48 * 1024
"""Up to here a body and its head fit into the buffer of a connection, so that nobody waits for their being sent."""
_PIECE_BYTES: Final = 64 * 1024


class ReplicaError(Exception):
    """A replica did not answer; the caller has seen nothing of it."""

    kind = "failed"


class UnreachableError(ReplicaError):
    """No connection."""

    kind = "unreachable"


class LostError(ReplicaError):
    """The connection broke."""

    kind = "lost"


class MissingError(ReplicaError):
    """The replica does not have the adapter."""

    kind = "missing"


class DeclinedError(ReplicaError):
    """The replica did not take the request."""

    kind = "declined"

    def __init__(self, status: int, body: bytes, retry_after: str | None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of which the head is here."""

    status: int
    headers: Mapping[str, str]
    content: aiohttp.StreamReader
    close: Callable[[], None]
    """Lets go of the connection, which is closed if the answer has not been read to its end."""

    @property
    def content_length(self) -> int | None:
        """Bytes of the body, where the head says it."""
        announced = self.headers.get("Content-Length")
        return None if announced is None else int(announced)


class _Pieces:
    """A body in pieces. aiohttp copies a whole file in memory to find its size; of this nothing is copied."""

    def __init__(self, body: bytes) -> None:
        self._rest = memoryview(body)

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> memoryview:
        if not self._rest:
            raise StopAsyncIteration
        piece, self._rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
        return piece

    def drop(self) -> None:
        """Let go of the body: a failed request of aiohttp's stays until the collector of cycles comes."""
        self._rest = memoryview(b"")


class Upstream:
    """Sends requests to replicas. Use it as an async context manager."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=limits.pool_timeout_s, sock_connect=limits.connect_timeout_s
        )
        self._connector: aiohttp.TCPConnector | None = None
        self._build_route = lru_cache(maxsize=8192)(_build_route)
        self._session: aiohttp.ClientSession | None = None
        self._telling: aiohttp.ClientSession | None = None
        """The same connections; tells when a request has one. It costs more, so that most go without."""

    async def __aenter__(self) -> Upstream:
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._limits.max_connections_per_replica,
            keepalive_timeout=self._limits.engine_keepalive_s,
        )
        self._connector = connector
        self._session = self._open_session(connector)
        self._telling = self._open_session(connector, _build_trace())
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (self._telling, self._session):
            if session is not None:
                await session.close()

    def _open_session(self, connector: aiohttp.TCPConnector, *traces: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=not traces,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            skip_auto_headers=("User-Agent", "Accept-Encoding"),
            auto_decompress=False,
            trust_env=False,
            trace_configs=list(traces),
        )

    async def send(
        self,
        address: str,
        path: str,
        body: bytes,
        headers: CIMultiDict[str],
        on_connected: Callable[[], None] | None = None,
    ) -> Answer:
        """Send a request and return the answer as soon as its head is here; the caller closes it.

        `on_connected` is called when there is a connection, long before an answer.

        Raises:
            UnreachableError, LostError: see there.
        """
        session = self._session if on_connected is None else self._telling
        if session is None or self._connector is None:
            raise RuntimeError("Upstream is used outside its context")
        if on_connected is None and len(body) <= _SMALL_BODY_BYTES:
            return await self._send_small(self._connector, address, path, body, headers)
        headers["Content-Length"] = str(len(body))
        pieces = _Pieces(body)
        try:
            answer = await session.post(
                _build_url(address, path),
                data=pieces,
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=on_connected,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            pieces.drop()
            raise UnreachableError(str(error)) from error.with_traceback(None)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            pieces.drop()
            raise LostError(str(error)) from error.with_traceback(None)
        return Answer(answer.status, answer.headers, answer.content, answer.close)

    async def _send_small(
        self, connector: aiohttp.TCPConnector, address: str, path: str, body: bytes, headers: CIMultiDict[str]
    ) -> Answer:
        try:
            connection = await connector.connect(self._build_route(address), [], self._timeout)
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            raise UnreachableError(str(error)) from error.with_traceback(None)
        except (aiohttp.ClientError, OSError) as error:
            raise LostError(str(error)) from error.with_traceback(None)
        head = CIMultiDict({"Host": address, "Content-Length": str(len(body))})
        head.extend(headers)
        try:
            return await _ask(connection, f"POST {path} HTTP/1.1", head, body)
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            connection.close()
            raise LostError(str(error)) from error.with_traceback(None)
        except BaseException:
            connection.close()
            raise


async def _ask(connection: Connection, line: str, head: CIMultiDict[str], body: bytes) -> Answer:
    """Send a request and read the head of its answer."""
    protocol = connection.protocol
    if protocol is None:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(read_until_eof=True, auto_decompress=False)
    writer = StreamWriter(protocol, asyncio.get_running_loop())
    await writer.write_headers(line, head)
    await writer.write_eof(body)
    message, content = await protocol.read()
    while 100 <= message.code < 200 and message.code != 101:
        message, content = await protocol.read()
    content.on_eof(connection.release)
    return Answer(message.code, message.headers, content, connection.close)


async def read_some(answer: Answer) -> bytes:
    """Return what has come, at least one byte; nothing if the answer has ended.

    Raises:
        LostError: the connection broke.
    """
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise LostError(str(error)) from error


async def read_up_to(answer: Answer, limit_bytes: int) -> tuple[bytes, bool]:
    """Return the answer's beginning, about `limit_bytes` or less, and whether that is all of it.

    Raises:
        LostError: the connection broke.
    """
    pieces: list[bytes] = []
    size = 0
    while size <= limit_bytes:
        piece = await read_some(answer)
        if not piece:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces), True
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces), False


def is_declined(status: int) -> bool:
    """Return whether a status says that the replica did not take the request."""
    return status in _DECLINED


def is_refused(status: int) -> bool:
    """Return whether a status says that nothing was computed for the request."""
    return status in _DECLINED or 400 <= status < 500


def _build_trace() -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(_tell)
    trace.on_connection_reuseconn.append(_tell)
    return trace


async def _tell(_: aiohttp.ClientSession, context: SimpleNamespace, event: object) -> None:
    del event
    context.trace_request_ctx()


def _build_route(address: str) -> aiohttp.ClientRequest:
    """Return what aiohttp needs to find or open a connection to a replica."""
    return aiohttp.ClientRequest("POST", _build_url(address, "/"), loop=asyncio.get_running_loop())


@lru_cache(maxsize=8192)
def _build_url(address: str, path: str) -> URL:
    return URL(f"http://{address}{path}", encoded=True)
