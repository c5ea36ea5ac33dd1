"""The caller's side of a stream: begins as late as it can, is kept alive meanwhile, ends well or says why not.

Until the head is sent a failure can have its own status, and the request can go to another replica. A comment sends the
head but is no answer, so another replica can still be tried; from the first event on it cannot.

A stream that fails ends with an error event and a closed connection, never with `[DONE]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from aiohttp import web
from aiohttp.http import StreamWriter

from llmos_gateway.protocol.errors import ApiError
from llmos_gateway.protocol.events import build_comment, build_error_event
from llmos_gateway.protocol.headers import build_caller_headers
from llmos_gateway.proxy.limits import Limits


class EventStream:
    """One stream of events to a caller."""

    def __init__(
        self,
        http: web.BaseRequest,
        request_id: str,
        limits: Limits,
        *,
        closes: bool,
        budget: Mapping[str, str] | None = None,
    ) -> None:
        self._http = http
        self._writer = cast("StreamWriter", http.writer)
        self._request_id = request_id
        self._limits = limits
        self._closes = closes
        self._budget = budget
        self._response: web.StreamResponse | None = None
        self._comments: asyncio.Task[None] | None = None
        self.has_events = False
        """Whether the caller has seen a part of an answer."""

    @property
    def has_begun(self) -> bool:
        """Whether the head is sent."""
        return self._response is not None

    @contextmanager
    def kept_alive(self, comment: str) -> Iterator[None]:
        """Send comments while the block waits for long."""
        timer = asyncio.get_running_loop().call_later(self._limits.comment_after_s, self._start_comments, comment)
        try:
            yield
        finally:
            timer.cancel()
            if self._comments is not None:
                self._comments.cancel()
                self._comments = None

    async def send(self, data: bytes) -> None:
        """Send whole events. Waits while the caller reads too slowly."""
        if self._response is None:
            await self._begin()
        self.has_events = True
        await self._writer.write(data)

    async def finish(self) -> web.StreamResponse:
        """End the answer."""
        response = self._response or await self._begin()
        await response.write_eof()
        return response

    async def fail(self, error: ApiError) -> web.StreamResponse:
        """Say why there is no more, and close the connection."""
        return await self.fail_with(error.build_body())

    async def fail_with(self, body: bytes) -> web.StreamResponse:
        """Send an error that has OpenAI's shape already, and close the connection."""
        response = self._response or await self._begin()
        response.force_close()
        # Not waiting for a caller that does not read: it may be the reason.
        await self._writer.write(build_error_event(body), drain=False)
        await response.write_eof()
        return response

    async def _begin(self) -> web.StreamResponse:
        headers = build_caller_headers({}, self._request_id, self._budget)
        headers["Content-Type"] = "text/event-stream; charset=utf-8"
        headers["Cache-Control"] = "no-cache"
        headers["X-Accel-Buffering"] = "no"
        response = web.StreamResponse(headers=headers)
        if self._closes:
            response.force_close()
        self._response = response
        await response.prepare(self._http)
        return response

    def _start_comments(self, comment: str) -> None:
        self._comments = asyncio.create_task(self._comment(build_comment(comment)))

    async def _comment(self, line: bytes) -> None:
        while True:
            # A caller that is gone or does not read needs no comment; its connection is watched elsewhere.
            transport = self._http.transport
            if transport is None or transport.is_closing() or transport.get_write_buffer_size():
                return
            if self._response is None:
                await self._begin()
            await self._writer.write(line, drain=False)
            await asyncio.sleep(self._limits.comment_every_s)
