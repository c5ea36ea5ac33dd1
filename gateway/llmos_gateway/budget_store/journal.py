"""A file that outlives this process: what each tenant has used, so that a restart forgets nothing.

One line a tenant says its whole state, `{"tenant": .., "minute": [start, used], "day": .., "month": ..}`; the last one
counts. So a line may be written twice, lost at the end, or cut by a kill, and nothing is counted twice. A file that has
grown beyond `MAX_BYTES` is written anew beside the old one and renamed, so that there is a whole one at any time.

One process writes a file: a lock says so, and ends with the process however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Final

from llmos_gateway.limits import WINDOWS, Use, WindowName

MAX_BYTES: Final = 1024 * 1024
"""Or twice what the state itself takes, if that is more."""
LOCK_WAIT_S: Final = 10.0
"""For the process before this one to end."""
_LOCK_POLL_S: Final = 0.1

State = Mapping[str, Mapping[WindowName, tuple[int, int]]]
"""By tenant: start and use of each window."""

_logger = logging.getLogger(__name__)


class JournalError(Exception):
    """The file cannot be used; `cause` says why without naming it, for callers."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Journal:
    """One journal. `open` it, then `append`; all of it blocks.

    Args:
        path: of the file; its folder must exist.
        max_bytes: from which size on it is written anew.
        lock_wait_s: how long another process may still have it.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock_wait_s = lock_wait_s
        self._file: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._lines: dict[str, bytes] = {}
        self._size = 0

    def open(self, lock_wait_s: float | None = None) -> State:
        """Take the file for this process and return what it says.

        Args:
            lock_wait_s: how long another process may still have it, if not as long as otherwise.

        Raises:
            JournalError: it cannot be written, or another process has it.
        """
        try:
            self._take_lock(self._lock_wait_s if lock_wait_s is None else lock_wait_s)
            state = self._read()
            self._rewrite()
        except OSError as error:
            self.close()
            raise JournalError(
                f"The journal of token budgets, {self._path}, cannot be used: {error}. Give the gateway a folder that "
                "it may write (--budget-journal), or a shared store (--budget-store).",
                error.strerror or str(error),
            ) from error
        return state

    def append(self, changed: Mapping[str, Iterable[Use]]) -> None:
        """Write the state of these tenants, and return when the disk has it.

        Raises:
            OSError: it could not be written; the next call writes it again.
        """
        lines = {tenant: _build_line(tenant, uses) for tenant, uses in changed.items()}
        self._lines |= lines
        data = b"".join(lines.values())
        if self._file is None or self._size + len(data) > max(self._max_bytes, 2 * sum(map(len, self._lines.values()))):
            self._rewrite()
            return
        try:
            self._write(self._file, data)
        except OSError:
            # A part of a line may be there, behind which nothing could be read.
            self._close_file()
            raise

    def close(self) -> None:
        """Give the file back."""
        self._close_file()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def forget(self, tenants: Iterable[str]) -> None:
        """Write the file anew without these tenants.

        Raises:
            OSError: it cannot be written; then they are left out when it is written anew the next time.
        """
        for tenant in tenants:
            self._lines.pop(tenant, None)
        self._rewrite()

    def _take_lock(self, wait_s: float) -> None:
        lock = self._lock = self._path.with_name(self._path.name + ".lock").open("ab")
        until_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    raise OSError(f"another process has had it for {wait_s:g} s") from None
                time.sleep(_LOCK_POLL_S)
            else:
                return

    def _read(self) -> State:
        state: dict[str, Mapping[WindowName, tuple[int, int]]] = {}
        if not self._path.exists():
            return state
        broken = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            try:
                tenant, windows = _read_line(line)
            except (ValueError, KeyError, TypeError):
                broken += 1
                continue
            state[tenant], self._lines[tenant] = windows, line
        if broken:
            # One, the last, is what a kill leaves.
            _logger.warning("%d lines of %s cannot be read; what stands in others counts.", broken, self._path)
        return state

    def _rewrite(self) -> None:
        self._close_file()
        beside = self._path.with_name(self._path.name + ".new")
        with beside.open("wb") as file:
            self._size = 0
            self._write(file, b"".join(self._lines.values()))
        beside.replace(self._path)
        _sync_folder(self._path.parent)
        self._file = self._path.open("ab", buffering=0)

    def _write(self, file: IO[bytes], data: bytes) -> None:
        if file.write(data) != len(data):
            # A disk that is nearly full takes a part, and says nothing.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.flush()
        os.fdatasync(file.fileno())
        self._size += len(data)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _build_line(tenant: str, uses: Iterable[Use]) -> bytes:
    fields: dict[str, Any] = {"tenant": tenant, **{use.window: [use.start_s, use.used] for use in uses}}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _read_line(line: bytes) -> tuple[str, Mapping[WindowName, tuple[int, int]]]:
    if not line.endswith(b"\n"):
        raise ValueError("a line without its end")
    fields = json.loads(line)
    return str(fields["tenant"]), {name: (int(fields[name][0]), int(fields[name][1])) for name in WINDOWS}


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
