"""A pod's place in its gang, and the leader as the others see it: by its name once, by its address from then on.

The leader answers `/load` on its control port as long as its `serve` lives, whether its engine is ready or not, and
with a word (`boot`) that no later life of it repeats. Who answers with another word at the same address is another pod.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout
from pydantic import ValidationError

from llmos.api.load import EngineLoad

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_LOOK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class GangPlace:
    """Which pod of a gang this is, and where its pods meet."""

    size: int
    rank: int
    leader: str
    """Host name or address of the leader."""
    control_port: int
    """The leader's control port."""
    port: int
    """Where the leader's engine waits for the others."""


@dataclass(frozen=True, slots=True)
class FoundLeader:
    """A life of the leader."""

    address: str
    boot: str


class LeaderProbe:
    """Asks one leader. Use it as an async context manager."""

    def __init__(self, place: GangPlace, watchdog_s: float) -> None:
        self._place = place
        self._look_s = min(_LOOK_S, watchdog_s / 2)
        self._clock = asyncio.get_running_loop().time
        self._session: ClientSession | None = None

    async def __aenter__(self) -> LeaderProbe:
        self._session = ClientSession(timeout=ClientTimeout(total=self._look_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    async def find(self, timeout_s: float) -> FoundLeader | None:
        """Wait until the leader answers; None if it does not in time."""
        deadline_s, pause_s = self._clock() + timeout_s, _FIRST_PAUSE_S
        while (left_s := deadline_s - self._clock()) > 0:
            address = await self._resolve()
            load = await self._ask(address) if address else None
            if load is not None:
                return FoundLeader(address, load.boot)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None

    async def look(self, found: FoundLeader) -> EngineLoad | None:
        """What the leader says of its load; None if it does not answer, or is not the one that was found."""
        load = await self._ask(found.address)
        return load if load is not None and load.boot == found.boot else None

    async def _resolve(self) -> str:
        """The leader's address; empty while its name has none."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._place.leader, None, type=socket.SOCK_STREAM)
        except OSError:
            return ""
        return str(found[0][4][0]) if found else ""

    async def _ask(self, address: str) -> EngineLoad | None:
        if self._session is None:
            raise RuntimeError("LeaderProbe is used outside its context")
        host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
        try:
            async with self._session.get(f"http://{host}:{self._place.control_port}/load") as response:
                return EngineLoad.model_validate_json(await response.read())
        except (TimeoutError, ClientError, OSError, ValidationError):
            return None
