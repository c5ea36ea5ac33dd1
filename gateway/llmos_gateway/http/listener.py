"""Takes callers' connections, as many at once as have come.

libuv, on which uvloop stands, takes one connection in each turn of its loop. Over a thousand streams a turn takes tens
of milliseconds, so that at most some dozen new callers a second get in: each waits for seconds behind those who came
before it, while the processor has time left. Here one turn takes up to `AT_A_TIME`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

AT_A_TIME: Final = 64
"""Connections of one turn: those that are there already must not wait long either."""
BACKLOG: Final = 2048
MAX_OPENING: Final = 8192
"""Connections whose TLS handshake is not over, for `HANDSHAKE_S` at most; while there are so many none is taken."""
PAUSE_S: Final = 0.2
"""After the system had no room for another one."""
HANDSHAKE_S: Final = 10.0
OPENING_S: Final = 0.1
"""Without TLS a connection is open in the next turn."""

_logger = logging.getLogger(__name__)


class Listener:
    """Listening sockets of one port.

    Args:
        make: returns the protocol of a new connection.
        tls: for HTTPS.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None = None) -> None:
        self._make = make
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}

    async def start(self, host: str | None, port: int) -> int:
        """Listen; return the port (0 lets the system choose).

        Raises:
            OSError: the address is taken, or is none of this machine's.
        """
        self._sockets = await _open_sockets(host, port)
        for listening in self._sockets:
            self._loop.add_reader(listening, self._take, listening)
        return _port_of(self._sockets[0])

    def close(self) -> None:
        """Take no more. Connections that were taken stay."""
        for listening in self._sockets:
            if (pause := self._pauses.pop(listening, None)) is not None:
                pause.cancel()
            else:
                self._loop.remove_reader(listening)
            listening.close()
        self._sockets = []

    async def stop(self) -> None:
        """Take no more, and give up those whose handshake is not over."""
        self.close()
        late: set[asyncio.Task[None]] = set()
        if self._opening:
            _, late = await asyncio.wait(self._opening, timeout=OPENING_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _take(self, listening: socket.socket) -> None:
        for _ in range(AT_A_TIME):
            if len(self._opening) >= MAX_OPENING:
                self._pause(listening)
                return
            try:
                taken, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                _logger.warning("No connection can be taken: %s. The limit of open files may be too low.", error)
                self._pause(listening)
                return
            taken.setblocking(False)
            task = self._loop.create_task(self._open(taken))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, taken: socket.socket) -> None:
        timeout_s = HANDSHAKE_S if self._tls is not None else None
        try:
            await self._loop.connect_accepted_socket(self._make, taken, ssl=self._tls, ssl_handshake_timeout=timeout_s)
        except OSError as error:
            # Whoever speaks no TLS, or goes away, could fill the log.
            _logger.debug("A connection did not open: %s.", error)
            with suppress(OSError):
                taken.close()

    def _pause(self, listening: socket.socket) -> None:
        self._loop.remove_reader(listening)
        self._pauses[listening] = self._loop.call_later(PAUSE_S, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        self._loop.add_reader(listening, self._take, listening)


async def _open_sockets(host: str | None, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of the host; without one for all of this machine's."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                listening = socket.socket(family, kind, protocol)
            except OSError:
                continue  # The system has no IPv6.
            opened.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            same_port = port or (_port_of(opened[0]) if len(opened) > 1 else 0)
            listening.bind((address[0], same_port, *address[2:]))
            listening.listen(BACKLOG)
    except OSError:
        for listening in opened:
            listening.close()
        raise
    if not opened:
        raise OSError(f"no address to listen on for host {host}")
    return opened


def _port_of(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])
