"""Takes a request's body in, within size and time, and within what all bodies together may hold."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from llmos_gateway.protocol.errors import (
    BadRequestError,
    SlowRequestError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
)
from llmos_gateway.proxy.call import Call
from llmos_gateway.proxy.limits import Limits


class Intake:
    """Reads bodies, and knows how many bytes of them are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held_bytes = 0

    async def read(self, call: Call) -> bytes:
        """Return the body; its bytes count as held until `release`.

        Raises:
            ApiError: it is too large, compressed, too slow, broken off, or there is no room for it.
        """
        http = call.http
        if http.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedError("Send the body uncompressed, without Content-Encoding.", "unsupported_encoding")
        self._hold(call, http.content_length or 0)
        if "Expect" in http.headers:
            await self._say_continue(http)
        try:
            if http.content.is_eof():
                return self._take(call, http.content.read_nowait())
            async with asyncio.timeout(self._limits.body_timeout_s):
                return await self._read_on(call)
        except TimeoutError:
            limit = f"within {self._limits.body_timeout_s:g} s"
            raise SlowRequestError(f"The body did not arrive {limit}.", "request_timeout") from None
        except RequestPayloadError:
            raise BadRequestError("The body is not framed as HTTP says.", "invalid_http") from None

    def release(self, call: Call) -> None:
        """Let go of what was held for a call."""
        self._held_bytes -= call.body_bytes
        call.body_bytes = 0

    async def _read_on(self, call: Call) -> bytes:
        pieces = []
        size = 0
        while piece := await call.http.content.readany():
            pieces.append(piece)
            size += len(piece)
            self._hold(call, size)
        return b"".join(pieces)

    def _take(self, call: Call, body: bytes) -> bytes:
        self._hold(call, len(body))
        return body

    def _hold(self, call: Call, size: int) -> None:
        """Count a body as at least `size` bytes."""
        if size > self._limits.max_body_bytes:
            limit = f"{self._limits.max_body_bytes} bytes"
            raise TooLargeError(f"The body is larger than {limit}, the limit of this gateway.", "request_too_large")
        more = size - call.body_bytes
        if more <= 0:
            return
        if self._held_bytes + more > self._limits.max_bodies_bytes:
            raise UnavailableError("The gateway holds as many bodies as it may.", "overloaded", retry_after_s=1.0)
        self._held_bytes += more
        call.body_bytes += more

    async def _say_continue(self, http: web.BaseRequest) -> None:
        if http.headers["Expect"].lower() != "100-continue":
            raise BadRequestError("The only expectation that is met is 100-continue.", "invalid_http")
        if not http.content.is_eof():
            await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Or it would be taken for the beginning of the answer.
            http.writer.output_size = 0
