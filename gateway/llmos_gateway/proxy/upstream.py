"""Connections to replicas: one pool of them for the whole process, and what their failures mean.

A failure is one of four, and only these are ever tried again:

    ReplicaError
    +-- UnreachableError  nothing was sent; another try costs nothing
    +-- LostError         the connection broke before anything came back that the caller could have seen
    +-- MissingError      the replica has not loaded the adapter, or not any more; another try costs nothing
    +-- DeclinedError     502, 503 or 504: the replica did not take the request

Whether an idle connection still works is known only by using it. It is closed before the engine would close it (see
`Limits.engine_keepalive_s`), and one that breaks nevertheless is a LostError.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from llmos_gateway.proxy.limits import Limits

_DECLINED: Final = frozenset({502, 503, 504})
_LARGE_BODY_BYTES: Final = 1024 * 1024
"""From here on aiohttp wants something of which it writes a part at a time."""
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


class Upstream:
    """Sends requests to replicas. Use it as an async context manager."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=limits.pool_timeout_s, sock_connect=limits.connect_timeout_s
        )
        self._session: aiohttp.ClientSession | None = None
        self._telling: aiohttp.ClientSession | None = None
        """The same connections; tells when a request has one. It costs more, so that most go without."""

    async def __aenter__(self) -> Upstream:
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._limits.max_connections_per_replica,
            keepalive_timeout=self._limits.engine_keepalive_s,
        )
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
    ) -> aiohttp.ClientResponse:
        """Send a request and return the answer as soon as its head is here; the caller closes it.

        `on_connected` is called when there is a connection, long before an answer.

        Raises:
            UnreachableError, LostError: see there.
        """
        session = self._session if on_connected is None else self._telling
        if session is None:
            raise RuntimeError("Upstream is used outside its context")
        is_large = len(body) > _LARGE_BODY_BYTES
        if is_large:
            headers["Content-Length"] = str(len(body))
        try:
            return await session.post(
                _build_url(address, path),
                data=_Pieces(body) if is_large else body,
                headers=headers,
                allow_redirects=False,
                trace_request_ctx=on_connected,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnreachableError(str(error)) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise LostError(str(error)) from error


async def read_some(answer: aiohttp.ClientResponse) -> bytes:
    """Return what has come, at least one byte; nothing if the answer has ended.

    Raises:
        LostError: the connection broke.
    """
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise LostError(str(error)) from error


async def read_up_to(answer: aiohttp.ClientResponse, limit_bytes: int) -> tuple[bytes, bool]:
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


@lru_cache(maxsize=8192)
def _build_url(address: str, path: str) -> URL:
    return URL(f"http://{address}{path}", encoded=True)
