"""The engine as a child process: its own process group, its output, its end, and every orphan it leaves.

PID 1 of a container must reap processes that it never started (a worker of vLLM whose parent died becomes its child),
so the exit of the engine is not awaited through asyncio's child watcher, which reaps one known process only: each
SIGCHLD reaps all that have ended. What is left of the engine's group is killed before its leader is reaped, for only
until then nobody else can get the group's number.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36
_MAX_LINES: Final = 400
_MAX_LINE: Final = 2000
_READ_BYTES: Final = 65536
_JOIN_S: Final = 2.0
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class LastLines:
    """The last lines of a stream of bytes, bounded in number and length, without colours and progress bars."""

    def __init__(self, max_lines: int = _MAX_LINES) -> None:
        self._lines: deque[str] = deque(maxlen=max_lines)
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(_clean(line) for line in whole)
        # A progress bar rewrites one line for ever; only what it shows last is kept.
        self._rest = self._rest.rsplit(b"\r", 1)[-1][-_MAX_LINE:]

    def get(self) -> tuple[str, ...]:
        """The lines so far, the unfinished one included."""
        return (*self._lines, _clean(self._rest)) if self._rest else tuple(self._lines)


def _clean(line: bytes) -> str:
    shown = line.rstrip(b"\r").rsplit(b"\r", 1)[-1]
    return _COLOUR.sub("", shown.decode(errors="replace"))[:_MAX_LINE]


class EngineProcess:
    """One run of the engine. Create it inside a running event loop; it takes over SIGCHLD."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines = LastLines()
        self.exit_status: asyncio.Future[int] = self._loop.create_future()
        """Exit status, or the negative number of the signal, once the engine has ended."""
        _adopt_orphans()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._child = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._copy_output, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the engine, which is its process group too."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether the engine has not ended."""
        return not self.exit_status.done()

    def send(self, signal_number: int) -> None:
        """Send a signal to the engine; its own children are its business."""
        if self.is_running:
            os.kill(self.pid, signal_number)

    async def stop(self, patience_s: float) -> None:
        """End the engine: politely, and after `patience_s` by force, with all that it started."""
        self.send(signal.SIGTERM)
        await asyncio.wait([self.exit_status], timeout=patience_s)
        await self.kill()

    async def kill(self) -> None:
        """End the engine and all that it started, at once."""
        if self.is_running:
            self._kill_group()
            await self.exit_status

    def collect_lines(self) -> tuple[str, ...]:
        """The engine's last lines; after its end, all that it wrote has been read."""
        if not self.is_running:
            self._reader.join(_JOIN_S)
        return self._lines.get()

    def _copy_output(self) -> None:
        # A thread, so that a slow reader of our output slows the engine's logging, but never the control port.
        output = self._child.stdout
        if output is None:
            raise RuntimeError("the engine was started without a pipe for its output")
        with output:
            while data := os.read(output.fileno(), _READ_BYTES):
                self._lines.feed(data)
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()

    def _reap(self) -> None:
        if self.is_running and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._kill_group()
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    status = os.waitstatus_to_exitcode(ended[1])
                    self._child.returncode = status
                    self.exit_status.set_result(status)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def _adopt_orphans() -> None:
    """Become the parent of the engine's orphans also where this is not PID 1 (a shared process namespace, a test)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")
