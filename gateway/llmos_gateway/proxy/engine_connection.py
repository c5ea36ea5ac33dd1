"""One connection to a replica: HTTP/1.1 over a bare protocol, one request after the other.

llhttp (`httptools`, as in uvicorn) finds the answer's head, the frames of its body and its end. What stands here is
what is left of a client then: a request is written at once, head and body in one packet where they are small; an answer
is handed on as it comes, and not read on while nobody takes it.

An answer ends as its head says: after so many bytes, with the last chunk, or with the connection where it says neither.
Anything else that ends it is a BrokenError, raised once what came before it has been read. What comes before the answer
(1xx) is skipped; a replica that sends more than one answer to a request is not asked again on this connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

ONE_PACKET_BYTES: Final = 48 * 1024
"""Up to here a body goes out together with its head; both fit into the buffer of a connection."""
PIECE_BYTES: Final = 64 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024
"""Of what comes without any body: a head with what goes before it, or chunks that hold nothing, and trailers."""
MAX_UNREAD_BYTES: Final = 128 * 1024
"""Beyond this nothing is read from a replica until somebody takes what has come."""
_FIRST_FINAL_STATUS: Final = 200
_UPGRADED_STATUS: Final = 101
_FIRST_REFUSAL: Final = 300
_KNOWN: Final[Mapping[bytes, str]] = {
    name.lower().encode(): name for name in ("Content-Type", "Content-Length", "Retry-After", "Transfer-Encoding")
}
"""Headers of answers that somebody reads."""


class BrokenError(Exception):
    """The connection ended before the answer did, or what came is no HTTP."""


class EngineConnection(asyncio.Protocol):
    """One connection, once it is open. `ask`, `read` to the end, `renew`, and again.

    Args:
        address: of the replica.
        on_lost: told when it has ended, however that came.
    """

    __slots__ = (
        "_broken",
        "_bytes_without_body",
        "_ends_with_connection",
        "_has_ended",
        "_is_asked",
        "_is_complete",
        "_is_interim",
        "_is_paused",
        "_is_stuck",
        "_keeps",
        "_loop",
        "_on_lost",
        "_parser",
        "_pieces",
        "_transport",
        "_unread_bytes",
        "_unsent",
        "_waiter",
        "address",
        "headers",
        "idle_since_s",
        "status",
    )

    def __init__(self, address: str, on_lost: Callable[[EngineConnection], None]) -> None:
        self.address = address
        self.idle_since_s = 0.0
        """Since when nobody uses it."""
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._has_ended = False
        self._is_stuck = False
        """Whether more must not be written now."""
        self._is_paused = False
        """Whether nothing is read."""
        self._is_asked = False
        self._start()

    def _start(self) -> None:
        self.status = 0
        """Of the answer; 0 before its head is here."""
        self.headers: dict[str, str] = {}
        """Of the answer, those that are known here, by the names that they have here."""
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._bytes_without_body = 0
        self._broken: str | None = None
        self._is_interim = False
        self._is_complete = False
        self._unsent = memoryview(b"")
        self._ends_with_connection = False
        self._keeps = True

    @property
    def is_open(self) -> bool:
        """Return whether it may be used, as far as is known."""
        return not self._has_ended and self._transport is not None and not self._transport.is_closing()

    async def ask(self, head: bytes, body: bytes) -> None:
        """Send a request, and return when the head of its answer is here.

        Raises:
            BrokenError: it does not come.
        """
        self._is_asked = True
        if self._transport is None or self._has_ended:
            raise BrokenError("the connection was closed")
        if len(body) <= ONE_PACKET_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._unsent = memoryview(body)
            self._write_on()
        while not self.status:
            if self._broken is not None:
                raise BrokenError(self._broken)
            await self._wait()

    async def read(self) -> bytes:
        """Return what has come of the body, at least one byte; nothing at its end.

        Raises:
            BrokenError: there is no end.
        """
        while not self._pieces:
            if self._is_complete:
                return b""
            if self._broken is not None:
                raise BrokenError(self._broken)
            await self._wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._unread_bytes = 0
        self._go_on()
        return data

    def renew(self) -> bool:
        """Make it ready for another request; False if it must not be used again."""
        if not (self._is_complete and self._keeps and not self._unsent and self.is_open):
            return False
        self._go_on()
        self._is_asked = False
        self._start()
        return True

    def abort(self) -> None:
        """Close it now, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is not complete."""
        self._has_ended = True
        if self._ends_with_connection and exc is None and self._broken is None:
            self._is_complete = True
        elif not self._is_complete:
            self._break(str(exc) if exc is not None else "the connection was closed")
        self._wake()
        self._unsent = memoryview(b"")
        # It holds this protocol as this protocol holds it.
        del self._parser
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The replica reads too slowly."""
        self._is_stuck = True

    def resume_writing(self) -> None:
        """The replica has read."""
        self._is_stuck = False
        self._write_on()

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer in."""
        if not self._is_asked or self._broken is not None:
            self.abort()
            return
        self._bytes_without_body += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            # Nobody asked for another protocol. What is left is an answer without a body.
            self._is_complete, self._keeps = True, False
        except HttpParserError as error:
            self._break(f"the answer is no HTTP: {error}")
        if self._bytes_without_body > MAX_HEAD_BYTES and not self._is_complete:
            self._break("the head of the answer is too large")
        if self.status or self._broken is not None:
            self._wake()
        if self._unread_bytes > MAX_UNREAD_BYTES and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_begin(self) -> None:
        """See `HttpResponseParser`."""
        if self._is_complete:
            self._keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `HttpResponseParser`."""
        known = _KNOWN.get(name.lower())
        # After the head these are trailers, which nobody reads.
        if known is None or self.status:
            return
        text = value.decode("utf-8", "surrogateescape")
        if known == "Transfer-Encoding" and known in self.headers:
            # Which of them comes last decides where the answer ends.
            text = f"{self.headers.pop(known)}, {text}"
        self.headers.setdefault(known, text)

    def on_headers_complete(self) -> None:
        """See `HttpResponseParser`."""
        if self._is_complete or self._broken is not None:
            return
        status = self._parser.get_status_code()
        if status < _FIRST_FINAL_STATUS and status != _UPGRADED_STATUS:
            self._is_interim = True
            return
        self.status = status
        self._keeps = self._parser.should_keep_alive()
        self._ends_with_connection = "Content-Length" not in self.headers and not self._is_chunked()

    def on_body(self, data: bytes) -> None:
        """See `HttpResponseParser`."""
        if self._is_complete:
            return
        if self._is_interim:
            self._break("what comes before the answer has a body")
            return
        self._bytes_without_body = 0
        self._pieces.append(data)
        self._unread_bytes += len(data)

    def on_message_complete(self) -> None:
        """See `HttpResponseParser`."""
        if self._is_interim:
            self._is_interim = False
            self.headers.clear()
        else:
            self._is_complete = True

    def _is_chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding", "").lower().rpartition(",")[2].strip() == "chunked"

    def _write_on(self) -> None:
        """Write of a large body what the replica takes; the answer may begin meanwhile. Of what it has refused, or has
        answered as a whole already, not the rest."""
        while self._unsent and not self._is_stuck and self._transport is not None:
            if self._has_ended or self._is_complete or self._broken is not None or self.status >= _FIRST_REFUSAL:
                return
            piece, self._unsent = self._unsent[:PIECE_BYTES], self._unsent[PIECE_BYTES:]
            self._transport.write(piece)

    def _break(self, why: str) -> None:
        self._keeps = False
        if not self._is_complete:
            self._broken = self._broken or why
        if not self._has_ended:
            self.abort()

    def _go_on(self) -> None:
        if self._is_paused and self.is_open and self._transport is not None:
            self._transport.resume_reading()
        self._is_paused = False

    async def _wait(self) -> None:
        """Return when something has changed. Only who asks and reads waits, which is one."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
