"""Draining as the engine's web server sees it: while the drain file exists, every response closes its connection.

The engine and `serve` are two processes, and vLLM takes only the name of a middleware, so a file carries the word.
Clients that keep connections open would otherwise send request after request to a pod that has already left the
Service; `Connection: close` makes them connect anew, and so to another replica. Requests are answered as before.

This module is imported into the engine's process: it needs nothing but the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

DRAIN_FILE_VARIABLE: Final = "LLMOS_DRAIN_FILE"
DEFAULT_DRAIN_FILE: Final = "/tmp/llmos/draining"  # noqa: S108 - an emptyDir of the pod, shared by its processes only

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def find_drain_file() -> Path:
    """Where the drain file is, or would be."""
    return Path(os.environ.get(DRAIN_FILE_VARIABLE) or DEFAULT_DRAIN_FILE)


class DrainMiddleware:
    """ASGI middleware that adds `Connection: close` to responses while the drain file exists."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._file = str(find_drain_file())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass everything on; look for the file when a response starts, not when its request came."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_closing(message: Message) -> None:
            # One stat of a file in memory: about a microsecond.
            if message["type"] == "http.response.start" and os.path.exists(self._file):  # noqa: ASYNC240, PTH110
                headers = [item for item in message.get("headers", ()) if item[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_closing)
