"""Fetches listed files into a folder: in parallel, resumable, verified. Knows nothing of schemes or models.

Each file is written to `NAME.part`; its length is the offset from which a later attempt, or a later run after a crash,
goes on. Only a file that is complete and whose checksum is right gets its name, so whatever bears a name needs no
second look. The checksum is computed while the bytes pass; only what an earlier run left is read again.

A failed attempt that still brought `_PROGRESS_BYTES` does not count against the bound on attempts, for a flaky line
must be able to bring a 100 GB file over; the number of such attempts is bounded by the size of the file.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from llmos_workers.fetch.errors import (
    ChecksumMismatchError,
    DiskFullError,
    FetchError,
    SourceUnavailableError,
    TemporaryError,
)
from llmos_workers.fetch.progress import Progress
from llmos_workers.fetch.retry import DEFAULT_RETRY, RetryPolicy
from llmos_workers.fetch.sources.base import CHUNK_BYTES, RemoteFile, Source

log = logging.getLogger(__name__)

PART_SUFFIX: Final = ".part"
_PROGRESS_BYTES: Final = 8 << 20


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True)
class Downloader:
    """How files are fetched. `parallel` bounds connections and, with them, memory."""

    source: Source
    progress: Progress
    retry: RetryPolicy = DEFAULT_RETRY
    parallel: int = 4

    def fetch_all(self, files: Sequence[RemoteFile], folder: Path) -> None:
        """Fetch all files into the folder; the first failure stops the others and is raised."""
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=self.parallel, thread_name_prefix="fetch") as pool:
            jobs = [pool.submit(_Transfer(self, file, folder, stop).run) for file in files]
            done, waiting = wait(jobs, return_when=FIRST_EXCEPTION)
            stop.set()
            for job in waiting:
                job.cancel()
        errors = [error for job in done if (error := job.exception()) is not None]
        if errors:
            raise errors[0]


class _Transfer:
    """One file on its way."""

    def __init__(self, downloader: Downloader, file: RemoteFile, folder: Path, stop: threading.Event) -> None:
        self._downloader, self._file, self._stop = downloader, file, stop
        self._target = folder / file.path
        self._part = self._target.with_name(self._target.name + PART_SUFFIX)

    def run(self) -> None:
        with translate_disk_errors():
            self._target.parent.mkdir(parents=True, exist_ok=True)
            if self._target.is_file() and self._target.stat().st_size == self._file.size_bytes:
                self._downloader.progress.skip(self._file.size_bytes)
                return
            self._downloader.progress.skip(self._size_of_part())
            try:
                self._fetch()
            except ChecksumMismatchError as error:
                # Once more from the start, for the fault may lie in what an earlier run left; then it is the source's.
                log.warning("%s Fetching it once more.", error.cause)
                self._fetch()

    def _fetch(self) -> None:
        while not self._downloader.retry.call(self._attempt, self._stop):
            pass

    def _attempt(self) -> bool:
        """Go on where the part ends. Returns whether the file is complete; False after a failure that brought much."""
        self._check_stop()
        start_bytes = self._size_of_part()
        try:
            self._receive(start_bytes)
        except TemporaryError:
            if self._size_of_part() - start_bytes >= _PROGRESS_BYTES:
                return False
            raise
        return True

    def _receive(self, offset: int) -> None:
        checksum = _build_hash(self._file)
        with self._part.open("r+b" if offset else "wb") as out:
            for known in iter(lambda: out.read(CHUNK_BYTES) if offset else b"", b""):
                checksum.update(known)
            if offset < self._file.size_bytes:
                with self._downloader.source.open_stream(self._file, offset) as chunks:
                    for chunk in chunks:
                        self._check_stop()
                        offset += len(chunk)
                        if offset > self._file.size_bytes:
                            break
                        out.write(chunk)
                        checksum.update(chunk)
                        self._downloader.progress.add(len(chunk))
            out.flush()
            os.fsync(out.fileno())
        self._finish(offset, checksum)

    def _finish(self, received_bytes: int, checksum: _Hash) -> None:
        file = self._file
        if received_bytes < file.size_bytes:
            raise SourceUnavailableError(f"{file.path} broke off after {received_bytes} of {file.size_bytes} bytes")
        expected = file.checksum.partition(":")[2]
        if received_bytes > file.size_bytes or (expected and checksum.hexdigest() != expected):
            self._downloader.progress.skip(-self._size_of_part())
            self._part.unlink()
            raise ChecksumMismatchError(
                f"{file.path} is not the file that the source announced ({file.checksum or 'size'})"
            )
        self._part.replace(self._target)

    def _size_of_part(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise FetchError(f"{self._file.path} was given up because another file failed", "See the other file.")


def _build_hash(file: RemoteFile) -> _Hash:
    if file.checksum.startswith("git-sha1:"):
        # git hashes a header before the content. Not a defence against attackers, but against broken transfers.
        return hashlib.sha1(f"blob {file.size_bytes}\0".encode(), usedforsecurity=False)
    return hashlib.sha256()


@contextmanager
def translate_disk_errors() -> Iterator[None]:
    """Turn a full disk inside the block into `DiskFullError`."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError("The volume became full while files were written") from error
        raise
