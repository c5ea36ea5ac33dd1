"""Takes a request's body in, within size and time, and within what all bodies together may hold.

What a head announces is held at once, so whoever announces much and sends nothing could shut the gateway to others: one
caller may hold half of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from llmos_gateway.catalog import ANONYMOUS
from llmos_gateway.protocol.errors import (
    BadRequestError,
    SlowRequestError,
    TooLargeError,
    TooManyRequestsError,
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
        self._held_by: Counter[str] = Counter()
        """The same by caller."""
        self._most_of_one = max(limits.max_body_bytes, limits.max_bodies_bytes // 2)

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
        caller = _name_caller(call)
        self._held_by[caller] -= call.body_bytes
        if not self._held_by[caller]:
            del self._held_by[caller]
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
        caller = _name_caller(call)
        if caller and self._held_by[caller] + more > self._most_of_one:
            limit = f"{self._most_of_one} bytes of bodies that wait for their answer"
            message = f"This tenant or API key has {limit} here already, or sends them. Try again later."
            raise TooManyRequestsError(message, "too_many_bodies", retry_after_s=1.0)
        self._held_bytes += more
        self._held_by[caller] += more
        call.body_bytes += more

    async def _say_continue(self, http: web.BaseRequest) -> None:
        if http.headers["Expect"].lower() != "100-continue":
            raise BadRequestError("The only expectation that is met is 100-continue.", "invalid_http")
        if not http.content.is_eof():
            await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Or it would be taken for the beginning of the answer.
            http.writer.output_size = 0


def _name_caller(call: Call) -> str:
    """Return whose a body is; empty where nobody is told apart."""
    return "" if call.key is None or call.key is ANONYMOUS else call.key.identity
