"""How the ranks of an attempt find each other, and how each learns at once that another one has ended.

    leader   listens until every other rank has come, then says go
    others   look the leader up by its name until it answers, and stay with that address

The connections then stay open, with a beat a second both ways. What comes over one:

    bye           the other one is done, or stopped in order: nothing is wrong
    failed        it failed by itself: all end with its reason, so that whichever pod is looked at first tells the cause
    the end       it was killed
    30 s nothing  its node or the network between is gone

The leader passes on what it learns. torch.distributed alone would not do: a rank that waits in NCCL for one that is
gone waits for as long as the slowest step may take, and none can say why another one ended.

Nothing here is encrypted or authenticated, as with NCCL and gloo: only pods of gangs may reach the port.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from llmos.api import Reason
from llmos.api.names import GANG_PORT
from llmos_workers.train.errors import PeerLostError

log = logging.getLogger(__name__)

BEAT_S: Final = 1.0
SILENCE_S: Final = 30.0
"""Silence after which another rank counts as gone."""
PART_S: Final = 60.0
"""Longest wait of a rank that is done for the leader's leave to go."""
_HELLO_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 5.0
_LONGEST_NAME: Final = 63
_LONGEST_WORDS: Final = 1200
_LONGEST_LINE: Final = 16384


@dataclass(frozen=True)
class Place:
    """Which rank this is, and where the leader listens."""

    size: int = 1
    rank: int = 0
    leader: str = ""
    port: int = GANG_PORT
    timeout_s: float = 1800.0
    """Longest wait for the others to come."""
    silence_s: float = SILENCE_S


@dataclass(frozen=True)
class Loss:
    """Why the attempt cannot go on."""

    reason: Reason
    message: str


class Meeting:
    """The open lines of one rank to the others. `on_loss` is called once, in a thread, when one of them is lost."""

    def __init__(
        self, place: Place, on_loss: Callable[[Loss], None], on_wait: Callable[[], None] = lambda: None
    ) -> None:
        """Nobody is there yet. `on_wait` is called each second while the others are waited for."""
        self.place, self._on_loss, self._on_wait = place, on_loss, on_wait
        self._lines: dict[int, _Line] = {}
        self._lock = threading.Lock()
        self._closed, self._lost = threading.Event(), threading.Event()
        self._is_over = False
        self._loss: Loss | None = None

    @property
    def is_leader(self) -> bool:
        """Whether the others look for this one."""
        return self.place.rank == 0

    def meet(self, prepare: Callable[[str], int]) -> tuple[str, int]:
        """Wait until all ranks are here; return the leader's address, and the port that it prepared there.

        Args:
            prepare: makes, at the leader, what listens at the port; gets the address that the others see.

        Raises:
            PeerLostError: some did not come in time.
        """
        deadline_s = time.monotonic() + self.place.timeout_s
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        return self._lead(deadline_s, prepare) if self.is_leader else self._follow(deadline_s)

    def fail(self, reason: Reason, message: str) -> None:
        """Tell the others that this rank failed, and why."""
        with self._lock:
            self._is_over = True
        words = f"Rank {self.place.rank} ({socket.gethostname()}): {message[:_LONGEST_WORDS]}"
        self._send_to_all({"failed": {"reason": str(reason), "message": words}})

    def find_loss(self, within_s: float) -> Loss | None:
        """Why another rank ended, as soon as that is known; None if it is not known in time."""
        self._lost.wait(within_s)
        return self._loss

    def part(self) -> None:
        """Say that nothing is wrong if this rank ends. Others than the leader wait for it to say the same."""
        with self._lock:
            self._is_over = True
        self._send_to_all({"bye": True})
        if not self.is_leader:
            for line in tuple(self._lines.values()):
                line.parted.wait(PART_S)

    def close(self) -> None:
        """Close the lines."""
        with self._lock:
            self._is_over = True
        self._closed.set()
        for line in tuple(self._lines.values()):
            line.close()

    def _lead(self, deadline_s: float, prepare: Callable[[str], int]) -> tuple[str, int]:
        wanted = set(range(1, self.place.size))
        with _listen(self.place.port) as listener:
            while missing := sorted(wanted - self._lines.keys()):
                self._on_wait()
                if time.monotonic() >= deadline_s:
                    raise PeerLostError(
                        f"Of {self.place.size} ranks these did not come within {self.place.timeout_s:g} s: "
                        f"{', '.join(map(str, missing))}",
                        "See what keeps their pods from running, and that pods of one gang may reach port "
                        f"{self.place.port} of each other.",
                    )
                self._accept(listener)
                self._forget_closed()
        address = next(iter(self._lines.values())).own_address
        port = prepare(address)
        self._send_to_all({"go": port})
        return address, port

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            line = _Line(connection, _HELLO_S)
            hello = line.receive_first()
            rank = hello.get("rank")
            if hello.get("size") != self.place.size or not isinstance(rank, int) or not 0 < rank < self.place.size:
                line.close()
                return
            line.name = f"Rank {rank} ({str(hello.get('name', ''))[:_LONGEST_NAME]})"
            log.info("%s has come", line.name)
            self._add(rank, line)

    def _forget_closed(self) -> None:
        for rank, line in tuple(self._lines.items()):
            if line.is_closed:
                del self._lines[rank]

    def _follow(self, deadline_s: float) -> tuple[str, int]:
        pause_s = 0.1
        while (left_s := deadline_s - time.monotonic()) > 0:
            self._on_wait()
            with contextlib.suppress(OSError):
                connection = socket.create_connection((self.place.leader, self.place.port), min(_HELLO_S, left_s))
                line = _Line(connection, self.place.silence_s)
                line.name = f"The leader ({self.place.leader})"
                if (port := self._join(line, deadline_s)) is not None:
                    return line.peer_address, port
            time.sleep(min(pause_s, max(0.0, left_s)))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        raise PeerLostError(
            f"The leader {self.place.leader} did not say go within {self.place.timeout_s:g} s: it is not there, or "
            "other ranks are missing",
            f"See what keeps the pods of the attempt from running, and that they may reach port {self.place.port} of "
            "each other.",
        )

    def _join(self, line: _Line, deadline_s: float) -> int | None:
        """Wait for the leader to say go; None if it ends before, or the time is over."""
        line.send({"rank": self.place.rank, "size": self.place.size, "name": socket.gethostname()})
        # Not yet among the lines whose end is a loss: a leader that ends now may be followed by another one.
        with contextlib.suppress(OSError, ValueError):
            for message in line.receive():
                if isinstance(port := message.get("go"), int):
                    self._add(0, line)
                    return port
                if time.monotonic() >= deadline_s:
                    break
                self._on_wait()
                line.send({})
        line.close()
        return None

    def _add(self, rank: int, line: _Line) -> None:
        line.set_timeout(self.place.silence_s)
        former = self._lines.get(rank)
        self._lines[rank] = line
        if former is not None:
            former.close()
        threading.Thread(target=self._read, args=(rank, line), name=f"rank-{rank}", daemon=True).start()

    def _read(self, rank: int, line: _Line) -> None:
        last, words = {}, "ended without a word"
        try:
            last = next((message for message in line.receive() if message.keys() & {"bye", "failed"}), {})
        except TimeoutError:
            words = f"has not been heard of for {self.place.silence_s:g} s"
        except (OSError, ValueError):
            pass
        line.parted.set()
        if "bye" in last:
            # The line stays open: the other one waits for what is said here.
            return
        line.close()
        is_expected = self.is_leader and self._lines.keys() != set(range(1, self.place.size))
        if "failed" in last:
            self._lose(_parse_loss(last["failed"]), but=rank)
        elif self._lines.get(rank) is line and not is_expected:
            self._lose(Loss(Reason.PeerLost, str(PeerLostError(f"{line.name} {words}"))), but=rank)

    def _lose(self, loss: Loss, *, but: int) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over, self._loss = True, loss
        log.error("%s: %s", loss.reason, loss.message)
        self._lost.set()
        if self.is_leader:
            self._send_to_all({"failed": {"reason": str(loss.reason), "message": loss.message}}, but=but)
        self._on_loss(loss)

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            self._send_to_all({})

    def _send_to_all(self, message: dict[str, Any], *, but: int | None = None) -> None:
        for rank, line in tuple(self._lines.items()):
            if rank != but:
                line.send(message)


class _Line:
    """A connection that carries JSON, one object in a line."""

    def __init__(self, connection: socket.socket, timeout_s: float) -> None:
        connection.settimeout(timeout_s)
        self._connection, self._lock = connection, threading.Lock()
        self._file = connection.makefile("rb")
        self.peer_address = str(connection.getpeername()[0]).removeprefix("::ffff:")
        self.own_address = str(connection.getsockname()[0]).removeprefix("::ffff:")
        self.parted = threading.Event()
        self.is_closed = False
        self.name = ""

    def set_timeout(self, timeout_s: float) -> None:
        """Change how long nothing may come."""
        self._connection.settimeout(timeout_s)

    def send(self, message: dict[str, Any]) -> None:
        """Send; that the other one is gone is told by what is received."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield what comes until the other one ends.

        Raises:
            TimeoutError: nothing came for too long.
            OSError: the connection broke.
            ValueError: what came is none of ours.
        """
        while text := self._file.readline(_LONGEST_LINE):
            yield _parse(text)

    def receive_first(self) -> dict[str, Any]:
        """What comes first; nothing if that is none of ours, or nothing comes."""
        try:
            return next(self.receive(), {})
        except (OSError, ValueError):
            return {}

    def close(self) -> None:
        """End it, and whoever reads from it."""
        self.is_closed = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for end in (self._file, self._connection):
            with contextlib.suppress(OSError):
                end.close()


def _listen(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    listener.settimeout(BEAT_S)
    return listener


def _parse(text: bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def _parse_loss(said: Any) -> Loss:
    try:
        return Loss(Reason(said["reason"]), str(said["message"]))
    except (KeyError, TypeError, ValueError):
        return Loss(Reason.PeerLost, str(PeerLostError("Another rank failed and did not say why")))
