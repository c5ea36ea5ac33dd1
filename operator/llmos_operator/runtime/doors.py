"""Tries whether ports of replicas open: what NetworkPolicies close must not, and that is seen only by trying."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from llmos.api.names import CONTROL_PORT, ENGINE_PORT
from llmos_operator.planning.isolation import Doors

TIMEOUT_S: Final = 0.5
"""A closed port mostly does not answer at all; within a cluster an open one does in milliseconds."""
CONCURRENCY: Final = 64


class DoorProber:
    """Opens connections, sends nothing, and closes them."""

    def __init__(self, *, control_port: int = CONTROL_PORT, engine_port: int = ENGINE_PORT) -> None:
        self._ports = control_port, engine_port
        self._places = asyncio.Semaphore(CONCURRENCY)

    async def probe(self, addresses: Mapping[str, str]) -> dict[str, Doors]:
        """Return which ports of each replica (pod name -> pod IP) open."""
        doors = await asyncio.gather(*(self._probe_one(address) for address in addresses.values()))
        return dict(zip(addresses, doors, strict=True))

    async def _probe_one(self, address: str) -> Doors:
        return Doors(*await asyncio.gather(*(self._opens(address, port) for port in self._ports)))

    async def _opens(self, address: str, port: int) -> bool:
        try:
            async with self._places, asyncio.timeout(TIMEOUT_S):
                _, writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True
