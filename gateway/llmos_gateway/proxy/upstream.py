"""Connections to replicas: one pool of them for the whole process, and what their failures mean.

A failure is one of four, and only these are ever tried again:

    ReplicaError
    +-- UnreachableError  nothing was sent; another try costs nothing
    +-- LostError         the connection broke before anything came back that the caller could have seen
    +-- MissingError      the replica has not loaded the adapter, or not any more; another try costs nothing
    +-- DeclinedError     502, 503 or 504: the replica did not take the request

Whether an idle connection still works is known only by using it. It is closed before the engine would close it (see
`Limits.engine_keepalive_s`), and one that breaks nevertheless is a LostError.

How bytes become answers stands in `engine_connection`, which connection a request gets in `engine_pool`. Why neither is
aiohttp's: docs/decisions/0024-an-http-client-of-the-gateways-own.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from llmos_gateway.protocol.headers import join_head
from llmos_gateway.proxy.engine_connection import BrokenError, EngineConnection
from llmos_gateway.proxy.engine_pool import EnginePool
from llmos_gateway.proxy.limits import Limits

_DECLINED: Final = frozenset({502, 503, 504})


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


class Answer:
    """An answer of which the head is here."""

    __slots__ = ("_connection", "_pool", "headers", "status")

    def __init__(self, connection: EngineConnection, pool: EnginePool) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers
        """Content-Type, Content-Length and Retry-After, where it has them."""
        self._connection: EngineConnection | None = connection
        self._pool = pool

    @property
    def content_length(self) -> int | None:
        """Bytes of the body, where the head says it."""
        announced = self.headers.get("Content-Length")
        return None if announced is None else int(announced)

    async def read(self) -> bytes:
        """Return what has come, at least one byte; nothing if the answer has ended.

        Raises:
            LostError: the connection broke.
        """
        if self._connection is None:
            raise RuntimeError("the answer is closed")
        try:
            return await self._connection.read()
        except BrokenError as error:
            raise LostError(str(error)) from error

    def close(self) -> None:
        """Let go of the connection, which is closed if the answer has not been read to its end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


class Upstream:
    """Sends requests to replicas. Use it as an async context manager."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool: EnginePool | None = None

    async def __aenter__(self) -> Upstream:
        limits = self._limits
        self._pool = EnginePool(
            max_per_address=limits.max_connections_per_replica,
            keepalive_s=limits.engine_keepalive_s,
            connect_timeout_s=limits.connect_timeout_s,
            timeout_s=limits.pool_timeout_s,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    async def send(
        self,
        address: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        on_connected: Callable[[], None] | None = None,
    ) -> Answer:
        """Send a request and return the answer as soon as its head is here; the caller closes it.

        `on_connected` is called when there is a connection, long before an answer.

        Raises:
            UnreachableError, LostError: see there.
        """
        pool = self._pool
        if pool is None:
            raise RuntimeError("Upstream is used outside its context")
        head = build_head(address, path, len(body), headers)
        try:
            connection = await pool.acquire(address)
        except OSError as error:
            # Its traceback holds this frame, and so the body, until the collector comes.
            raise UnreachableError(str(error)) from error.with_traceback(None)
        try:
            if on_connected is not None:
                on_connected()
            await connection.ask(head, body)
        except BrokenError as error:
            pool.release(connection)
            raise LostError(str(error)) from error.with_traceback(None)
        except BaseException:
            connection.abort()
            raise
        return Answer(connection, pool)


def build_head(address: str, path: str, size: int, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request with a body of so many bytes.

    Raises:
        ValueError: something in it would end a line.
    """
    lines = [f"POST {path} HTTP/1.1", f"Host: {address}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return join_head(lines)


async def read_up_to(answer: Answer, limit_bytes: int) -> tuple[bytes, bool]:
    """Return the answer's beginning, about `limit_bytes` or less, and whether that is all of it.

    Raises:
        LostError: the connection broke.
    """
    pieces: list[bytes] = []
    size = 0
    while size <= limit_bytes:
        piece = await answer.read()
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
