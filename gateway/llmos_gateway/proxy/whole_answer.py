"""An answer to a caller that is here as a whole, head and body in one packet.

aiohttp's own `Response` builds its head from a dictionary that it copies and completes in many steps. What has to be in
a head is known here: the length, the date, and whether the connection stays, which is told in the words of the caller's
version of HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from llmos_gateway.protocol.headers import join_head

_HTTP_10: Final = (1, 0)


class WholeAnswer(web.StreamResponse):
    """A status, a body, and headers that say what the body is.

    Args:
        status: one that has a body.
        body: all of it.
        headers: all but Content-Length, Date and Connection.
    """

    def __init__(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__(status=status)
        self._whole = body
        self._lines = headers
        self._writer: AbstractStreamWriter | None = None

    @property
    def prepared(self) -> bool:
        """Whether it is sent."""
        return self._writer is not None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it."""
        if self._writer is not None:
            return self._writer
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        head = self._build_head(request.version)
        self._writer = request.writer
        await self._writer.write(head if request.method == "HEAD" else head + self._whole)
        # A caller who asks again and again and reads nothing must not fill the memory with small answers.
        await self._writer.drain()
        return self._writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is sent already."""
        if data:
            raise RuntimeError("the answer is whole")

    def _build_head(self, version: tuple[int, int]) -> bytes:
        lines = [f"HTTP/{version[0]}.{version[1]} {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self._lines.items()]
        lines.append(f"Content-Length: {len(self._whole)}")
        lines.append(f"Date: {_format_date(int(time.time()))}")
        if version == _HTTP_10:
            if self._keep_alive:
                lines.append("Connection: keep-alive")
        elif not self._keep_alive:
            lines.append("Connection: close")
        return join_head(lines)


@lru_cache(maxsize=1)
def _format_date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)
