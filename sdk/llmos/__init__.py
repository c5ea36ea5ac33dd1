"""LLMOS for people and programs: the resource models, a typed client, and the `llmos` command.

    from llmos import Client

    with Client() as client:
        pool = client.pools.wait_ready("smollm2", timeout_s=600)
        for chunk in client.pools.chat("smollm2", [ChatMessage(role="user", content="Hello")]):
            print(chunk.text, end="")

The client is imported on first use, because every program of LLMOS imports this package on its way to `llmos.api`, and
most of them need neither httpx nor the Kubernetes configuration loader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmos.client import AsyncClient, ChatMessage, Client, LlmosError

__all__ = ["AsyncClient", "ChatMessage", "Client", "LlmosError"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmos import client  # noqa: PLC0415  (on first use: see above)

    return getattr(client, name)
