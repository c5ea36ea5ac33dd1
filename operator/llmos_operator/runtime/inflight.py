"""Ask replicas how busy they are, so that the least busy one is stopped first. An answer is a hint: none is fine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Final

import aiohttp

from llmos.api.names import CONTROL_PORT

ASK_TIMEOUT_S: Final = 1.0
MAX_ANSWER_BYTES: Final = 4096


class InFlightObserver:
    """Reads `GET /load` on the control port of pods."""

    def __init__(self, session: aiohttp.ClientSession, *, port: int = CONTROL_PORT) -> None:
        self._session = session
        self._port = port
        self._timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)

    async def observe(self, replicas: Mapping[str, str]) -> dict[str, int]:
        """Return requests running and waiting by pod name, for the pods (name -> IP) that answered in time."""
        counts = await asyncio.gather(*(self._ask(address) for address in replicas.values()))
        return {name: count for name, count in zip(replicas, counts, strict=True) if count is not None}

    async def _ask(self, address: str) -> int | None:
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._session.get(f"http://{host}:{self._port}/load", timeout=self._timeout) as response:
                load = json.loads(await response.content.read(MAX_ANSWER_BYTES))
                return int(load["running"]) + int(load["waiting"])
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
            return None
