"""Adapters as the engine's web server sees them: only `serve` loads and unloads them.

vLLM offers that to everybody who reaches its port (VLLM_ALLOW_RUNTIME_LORA_UPDATING), by any path of the pod's file
system. This middleware refuses such requests unless they bear a key that `serve` makes anew at each start and passes on
in the engine's environment: nobody outside of the pod knows it.

While the reload file exists, new requests wait: between the unloading of an adapter and the loading of its next
version the engine does not know its name, and would refuse what callers may well ask.

This module is imported into the engine's process: it needs nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import hmac
import os
from pathlib import Path
from typing import Final

from llmos_workers.serve.drain import Application, Message, Receive, Send, find_drain_file

KEY_VARIABLE: Final = "LLMOS_ADAPTER_KEY"
KEY_HEADER: Final = "x-llmos-adapter-key"
LONGEST_HOLD_S: Final = 10.0
"""Longest wait of a request for an adapter's next version."""
_LOOK_S: Final = 0.02
_BODY: Final = (
    b'{"error": {"message": "Adapters are attached by LLMModels (spec.adapter.attachTo) or by the pool\'s '
    b'spec.adapters, not by requests.", "type": "Forbidden", "param": null, "code": 403}}'
)


def find_reload_file() -> Path:
    """Where the reload file is, or would be."""
    return find_drain_file().with_name("reloading")


def is_guarded(path: str) -> bool:
    """Whether a path loads or unloads adapters, under vLLM's own names or those that Amazon SageMaker gives them."""
    return "lora_adapter" in path or path.startswith("/adapters")


class AdapterMiddleware:
    """ASGI middleware: guards the adapters, and holds requests back while one of them is replaced."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._key = os.environ.get(KEY_VARIABLE, "").encode()
        self._file = str(find_reload_file())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not is_guarded(scope["path"].removeprefix(scope.get("root_path", ""))):
            if scope["method"] == "POST":
                await self._wait_for_reload()
            await self._app(scope, receive, send)
        elif self._key and hmac.compare_digest(dict(scope["headers"]).get(KEY_HEADER.encode(), b""), self._key):
            await self._app(scope, receive, send)
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _BODY})

    async def _wait_for_reload(self) -> None:
        looks = int(LONGEST_HOLD_S / _LOOK_S)
        # One stat of a file in memory: about a microsecond.
        while looks and os.path.exists(self._file):  # noqa: ASYNC240, PTH110
            looks -= 1
            await asyncio.sleep(_LOOK_S)
