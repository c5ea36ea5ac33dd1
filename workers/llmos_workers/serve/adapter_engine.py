"""What is asked of an engine about adapters, over loopback: which it has, load one, unload one, which are in use."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout
from prometheus_client.parser import text_string_to_metric_families

from llmos_workers.serve.guard import KEY_HEADER

LOOK_S: Final = 5.0
LOAD_S: Final = 120.0
"""Longest wait for an engine that loads one; its requests go on meanwhile."""
_IN_USE: Final = "vllm:lora_requests_info"
_USES: Final = ("running_lora_adapters", "waiting_lora_adapters")
_MAX_ANSWER: Final = 400


class EngineRefusedError(Exception):
    """The engine said no, or nothing; the text is what it said."""


class AdapterEngine:
    """Asks one engine.

    Args:
        session: to be closed by whoever opened it.
        key: what the engine's guard wants to see.
    """

    def __init__(self, session: ClientSession, port: int, key: str) -> None:
        self._session = session
        self._base = f"http://127.0.0.1:{port}"
        self._headers = {KEY_HEADER: key}

    async def observe_loaded(self) -> dict[str, str]:
        """Return the adapters that the engine serves, as name -> folder.

        Raises:
            EngineRefusedError: it does not tell.
        """
        data = json.loads(await self._ask("GET", "/v1/models", None, LOOK_S))
        return {card["id"]: card["root"] for card in data["data"] if card.get("parent")}

    async def observe_used(self) -> frozenset[str]:
        """Return the adapters that requests in the engine use.

        Raises:
            EngineRefusedError: it does not tell.
        """
        return parse_used(await self._ask("GET", "/metrics", None, LOOK_S))

    async def load(self, name: str, folder: str) -> None:
        """Load an adapter that is not loaded.

        Raises:
            EngineRefusedError: it does not load.
        """
        await self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder}, LOAD_S)

    async def unload(self, name: str) -> None:
        """Let new requests no longer use an adapter.

        Raises:
            EngineRefusedError: it is not loaded.
        """
        await self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, LOAD_S)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> str:
        timeout = ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, f"{self._base}{path}", json=body, headers=self._headers, timeout=timeout
            ) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise EngineRefusedError(_read_error(text) or f"{path} answered {answer.status}")
                return text
        except TimeoutError:
            raise EngineRefusedError(f"{path} did not answer within {timeout_s:g} s") from None
        except (ClientError, OSError, asyncio.IncompleteReadError) as error:
            raise EngineRefusedError(f"{path}: {error or type(error).__name__}") from error


def parse_used(metrics: str) -> frozenset[str]:
    """Return the adapters in use by Prometheus text. Of vLLM's gauge the newest sample counts: its value is a time."""
    lines = [line for line in metrics.splitlines() if line.startswith(f"{_IN_USE}{{")]
    families = text_string_to_metric_families("\n".join([*lines, ""]))
    samples = [sample for family in families for sample in family.samples]
    if not samples:
        return frozenset()
    newest = max(samples, key=lambda sample: sample.value)
    return frozenset(name for label in _USES for name in newest.labels.get(label, "").split(",") if name)


def _read_error(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])[:_MAX_ANSWER]
    except (ValueError, KeyError, TypeError):
        return text[:_MAX_ANSWER]
