"""The one protocol that every source of models fulfils, and the values that it speaks in.

A source lists files and opens streams; it decides neither which files are wanted (selection.py), nor how often to try
(retry.py), nor where bytes go (download.py). It raises only what fetch/errors.py draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from llmos_workers.fetch.errors import InvalidSourceError, SourceNotFoundError, SourceUnavailableError

MAX_FILES: Final = 20_000
MAX_FILE_BYTES: Final = 1 << 44  # 16 TiB: beyond any single weights file, small enough that sums never surprise
MAX_PATH_CHARS: Final = 512
CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """One file of a model.

    `path` is relative to the model's folder. `checksum` is `sha256:HEX` or `git-sha1:HEX` where the source gives one;
    `version` (an ETag or a time) tells two states of a file apart that has no checksum.
    """

    path: str
    size_bytes: int
    checksum: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        """Refuse names that could leave the model's folder and sizes that no file has.

        Raises:
            InvalidSourceError: the name is absolute, climbs, or holds characters that no model file has.
        """
        parts = PurePosixPath(self.path).parts
        unsafe = (
            not parts
            or len(self.path) > MAX_PATH_CHARS
            or self.path != "/".join(parts)
            or ".." in parts
            or self.path.startswith("/")
            or "\\" in self.path
            or not self.path.isprintable()
        )
        if unsafe:
            raise InvalidSourceError(
                f"The source lists the unsafe file name {self.path[:80]!r}", "Use a source you trust."
            )
        if not 0 <= self.size_bytes <= MAX_FILE_BYTES:
            raise InvalidSourceError(
                f"The source gives {self.path} the size {self.size_bytes}", "Use a source you trust."
            )

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Listing:
    """The files of a model at one revision.

    `archive` is set where the files travel inside one zip file that has a checksum as a whole: it is fetched instead,
    and `members` gives the path in it of each file. `local_folder` is set where the files need no fetching.
    """

    files: tuple[RemoteFile, ...]
    revision: str = ""
    archive: RemoteFile | None = None
    members: tuple[tuple[str, str], ...] = ()
    local_folder: Path | None = None

    def __post_init__(self) -> None:
        """Refuse listings that no model has.

        Raises:
            InvalidSourceError: too many files, or one name twice.
        """
        if len(self.files) > MAX_FILES:
            raise InvalidSourceError(
                f"The source lists {len(self.files)} files, more than {MAX_FILES}", "Name one model."
            )
        if len({file.path for file in self.files}) != len(self.files):
            raise InvalidSourceError("The source lists the same file twice", "Use a source you trust.")

    def find(self, path: str) -> RemoteFile | None:
        """Return the file of that path, if it is listed."""
        return next((file for file in self.files if file.path == path), None)


class Source(Protocol):
    """Where a model's files are."""

    def observe_listing(self) -> Listing:
        """Resolve the revision and list the files. Does not download weights."""
        ...

    def open_stream(
        self, file: RemoteFile, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Open the bytes `offset` up to `offset + length` (or the end) of a listed file as chunks."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


def read_range(source: Source, file: RemoteFile, offset: int, length: int) -> bytes:
    """Read exactly `length` bytes, fewer only where the file ends.

    Raises:
        SourceUnavailableError: the stream ended early.
    """
    wanted = max(0, min(length, file.size_bytes - offset))
    data = bytearray()
    if wanted:
        with source.open_stream(file, offset, wanted) as chunks:
            for chunk in chunks:
                data += chunk
                if len(data) >= wanted:
                    break
    if len(data) < wanted:
        raise SourceUnavailableError(f"{file.path} broke off after {offset + len(data)} bytes")
    return bytes(data[:wanted])


def guard_chunks(chunks: Iterator[bytes], guard: Callable[[], AbstractContextManager[None]]) -> Iterator[bytes]:
    """Read each chunk inside the guard, which translates errors of the source.

    The guard may not simply enclose the `yield` of `open_stream`: it would then also catch what the reader of the
    stream raises, and call the reader's full disk a failure of the source.
    """
    while True:
        with guard():
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def compute_digest(files: Iterable[RemoteFile]) -> str:
    """Sha256 over names, sizes and checksums (or versions): equal digests mean equal models."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"{file.path}\0{file.size_bytes}\0{file.checksum or file.version}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def narrow(files: Iterable[RemoteFile], path: str) -> tuple[tuple[RemoteFile, ...], str]:
    """Keep what lies below `path` (a folder, or one file) and return it with the prefix that was cut off the names.

    Raises:
        SourceNotFoundError: nothing lies there.
    """
    path = path.strip("/")
    exact = [file for file in files if file.path == path]
    prefix = path[: len(path) - len(PurePosixPath(path).name)] if exact else f"{path}/" if path else ""
    kept = exact or [file for file in files if file.path.startswith(prefix)]
    if not kept:
        raise SourceNotFoundError(
            f"The source has no files{f' below {path}' if path else ''}", "Correct spec.source.uri."
        )
    return tuple(replace(file, path=file.path[len(prefix) :]) for file in kept), prefix
