"""The simulator's gang: members connect to the leader, and whoever loses the other dies, as NCCL's processes do.

Nothing is sent: an open connection says that the other one lives.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the engines of a gang meet, and which one this is."""

    nodes: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def lead(meeting: Meeting, lost: Callable[[], None]) -> None:
    """Wait until all members have connected; from then on call `lost` when one goes. The caller bounds the wait."""
    family = socket.AF_INET6 if ":" in meeting.address else socket.AF_INET
    listener = socket.create_server(("", meeting.port), family=family)
    members = [listener.accept()[0] for _ in range(meeting.nodes - 1)]
    threading.Thread(target=_watch, args=(listener, members, lost), daemon=True).start()


def _watch(listener: socket.socket, members: list[socket.socket], lost: Callable[[], None]) -> None:
    with listener:
        select.select(members, [], [])
        lost()


def follow(meeting: Meeting) -> int:
    """Stay with the leader until it goes. Returns the exit status."""
    while True:
        try:
            connection = socket.create_connection((meeting.address, meeting.port))
            break
        except OSError:
            time.sleep(_PAUSE_S)
    with connection:
        connection.recv(1)
    print("RuntimeError: Connection closed by peer: the leader is gone.", flush=True)
    return 1
