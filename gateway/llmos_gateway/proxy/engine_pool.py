"""Connections to replicas, by address: those that are idle, how many are open, and who waits for one.

The connection that was used last is taken first, so that those that are not needed grow old and are closed. Where as
many are open as may be, requests wait in the order in which they came, and each gets the next one that is free.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from llmos_gateway.proxy.engine_connection import EngineConnection

_TICK_S: Final = 0.01
"""Timers may come too early by less than this."""


@dataclass(slots=True)
class _Lane:
    """One address."""

    idle: list[EngineConnection] = field(default_factory=list)
    """Who was used last stands at the end."""
    taken: int = 0
    """Connections that are open or being opened."""
    waiters: deque[asyncio.Future[EngineConnection | None]] = field(default_factory=deque)
    """Each gets a connection, or None: the right to open one."""


class EnginePool:
    """All connections to replicas.

    Args:
        max_per_address: connections to one replica.
        keepalive_s: after which an idle one is closed.
        connect_timeout_s: to open one.
        timeout_s: to get one at all.
    """

    def __init__(self, *, max_per_address: int, keepalive_s: float, connect_timeout_s: float, timeout_s: float) -> None:
        self._max = max_per_address
        self._keepalive_s = keepalive_s
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[str, _Lane] = {}
        self._open: set[EngineConnection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def open_connections(self) -> int:
        """Return how many connections there are."""
        return len(self._open)

    @property
    def addresses(self) -> int:
        """Return for how many addresses something is remembered."""
        return len(self._lanes)

    async def acquire(self, address: str) -> EngineConnection:
        """Return a connection that nobody else has until `release`.

        Raises:
            OSError: none can be opened; TimeoutError where it takes too long.
        """
        lane = self._lanes.get(address)
        if lane is not None:
            oldest_s = self._loop.time() - self._keepalive_s
            while lane.idle:
                connection = lane.idle.pop()
                if connection.is_open and connection.idle_since_s >= oldest_s:
                    return connection
                connection.abort()
        async with asyncio.timeout(self._timeout_s):
            while True:
                # One that was handed over may have broken before it is used.
                if (connection := await self._wait(address)).is_open:
                    return connection

    def release(self, connection: EngineConnection) -> None:
        """Take a connection back. It is closed if its answer has not been read to its end."""
        if self._is_closed or not connection.renew():
            connection.abort()
            return
        lane = self._lanes[connection.address]
        connection.idle_since_s = self._loop.time()
        self._hand_over(lane, connection)

    def close(self) -> None:
        """Close all of them, for good."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._open):
            connection.abort()

    async def _wait(self, address: str) -> EngineConnection:
        if self._is_closed:
            raise ConnectionAbortedError("the gateway ends")
        lane = self._lanes.get(address)
        if lane is None:
            lane = self._lanes[address] = _Lane()
        if lane.taken < self._max:
            lane.taken += 1
        else:
            waiter: asyncio.Future[EngineConnection | None] = self._loop.create_future()
            lane.waiters.append(waiter)
            try:
                given = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._give_back(lane, address, waiter.result())
                elif waiter in lane.waiters:
                    # Otherwise whoever looked for one that waits has taken it out.
                    lane.waiters.remove(waiter)
                raise
            if given is not None:
                return given
        try:
            return await self._connect(address)
        except BaseException:
            self._free(lane, address)
            raise

    async def _connect(self, address: str) -> EngineConnection:
        if self._is_closed:
            raise ConnectionAbortedError("the gateway ends")
        host, _, port = address.rpartition(":")
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await self._loop.create_connection(
                lambda: EngineConnection(address, self._forget), host.strip("[]"), int(port)
            )
        self._open.add(connection)
        if self._is_closed:
            connection.abort()
        if not connection.is_open:
            # It broke before it was known here.
            self._open.discard(connection)
            raise ConnectionResetError("the connection was closed at once")
        return connection

    def _forget(self, connection: EngineConnection) -> None:
        """Take note that a connection has ended."""
        if connection not in self._open:
            return
        self._open.discard(connection)
        lane = self._lanes[connection.address]
        if connection in lane.idle:
            lane.idle.remove(connection)
        self._free(lane, connection.address)

    def _free(self, lane: _Lane, address: str) -> None:
        """Let another one be opened in the place of one that is gone."""
        if (waiter := _find_waiter(lane)) is not None:
            waiter.set_result(None)
            return
        lane.taken -= 1
        if not lane.taken:
            del self._lanes[address]

    def _give_back(self, lane: _Lane, address: str, given: EngineConnection | None) -> None:
        """Take back what came for somebody who is gone."""
        if given is None:
            self._free(lane, address)
        elif given.is_open:
            self._hand_over(lane, given)

    def _hand_over(self, lane: _Lane, connection: EngineConnection) -> None:
        if (waiter := _find_waiter(lane)) is not None:
            waiter.set_result(connection)
            return
        lane.idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._keepalive_s, self._close_idle)

    def _close_idle(self) -> None:
        """Close what has been idle for too long. One timer does it for all; what is too old is not taken before it."""
        self._sweep = None
        oldest_s = self._loop.time() - self._keepalive_s + _TICK_S
        for lane in self._lanes.values():
            kept = [connection for connection in lane.idle if connection.idle_since_s > oldest_s]
            for connection in lane.idle[: len(lane.idle) - len(kept)]:
                connection.abort()
            lane.idle = kept
        left = [lane.idle[0].idle_since_s for lane in self._lanes.values() if lane.idle]
        if left:
            self._sweep = self._loop.call_at(min(left) + self._keepalive_s, self._close_idle)


def _find_waiter(lane: _Lane) -> asyncio.Future[EngineConnection | None] | None:
    """Take out the first that still waits."""
    while lane.waiters:
        waiter = lane.waiters.popleft()
        if not waiter.done():
            return waiter
    return None
