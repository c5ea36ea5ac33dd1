"""Folders that are there completely or not at all: written aside, synced, renamed.

    NAME.tmp/ -> files, fsync each -> manifest.json, fsync -> fsync the folder -> rename to NAME -> fsync the parent

A crash leaves NAME.tmp, which the next attempt removes, or NAME, which is complete. What happens to it later (a disk
that rots, a person who copies half of it) is found by the sha256 in its manifest.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

MANIFEST: Final = "manifest.json"
TEMPORARY: Final = ".tmp"


class Entry(BaseModel):
    """Base of what stands in manifests: frozen, camelCase outside."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class FileEntry(Entry):
    """One file of a folder."""

    size_bytes: int
    sha256: str


class HashingFile:
    """A file to write to that knows the size and the sha256 of what was written; for torch.save, too.

    `error` is the first error of a write: torch's writer says no more than that there was one.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        """Write through to an unbuffered file."""
        self._file, self._hash, self._size_bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it. The kernel may take less at once, and does so when the disk is nearly full."""
        left = memoryview(data).cast("B")
        self._hash.update(left)
        self._size_bytes += left.nbytes
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            self.error = self.error or error
            raise
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing is kept back."""

    @property
    def entry(self) -> FileEntry:
        """What the manifest says about it."""
        return FileEntry(size_bytes=self._size_bytes, sha256=self._hash.hexdigest())


@contextmanager
def open_hashing(path: Path) -> Iterator[HashingFile]:
    """Write a file; it is on the disk when the block ends."""
    with path.open("wb", buffering=0) as file:
        yield HashingFile(file)
        os.fsync(file.fileno())


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes `target` when the block ends well, and goes when it does not."""
    temporary = target.with_name(target.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        publish(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def publish(temporary: Path, target: Path) -> None:
    """Sync a folder and give it its name. What had the name before goes, after the new one is there."""
    for path in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
        sync(path)
    former = target.with_name(f"{target.name}-former{TEMPORARY}")
    if target.exists():
        target.rename(former)
    temporary.rename(target)
    sync(target.parent)
    shutil.rmtree(former, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_file(path: Path) -> FileEntry:
    """Read a file and say its size and sha256."""
    with path.open("rb") as file:
        return FileEntry(size_bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def find_damage(folder: Path, files: Mapping[str, FileEntry], *, read: bool = True) -> str:
    """Which file is missing or not what the manifest says; empty = all are right. Without `read` only sizes count."""
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry.size_bytes or (read and describe_file(path) != entry):
            return f"{name} is not what its manifest says"
    return ""


def write_text(path: Path, text: str) -> FileEntry:
    """Write a small file and wait until it is on the disk."""
    with open_hashing(path) as file:
        file.write(text.encode())
    return file.entry
