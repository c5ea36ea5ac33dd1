"""pvc://claim/path: files that already lie in a PersistentVolumeClaim, mounted read-only at --pvc-mount.

Nothing is downloaded. Links are followed only inside the mount, for a link out of it would serve files of the pod.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from llmos_workers.fetch.errors import (
    AccessDeniedError,
    InvalidSourceError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import CHUNK_BYTES, MAX_FILES, Listing, RemoteFile, guard_chunks, narrow
from llmos_workers.fetch.sources.checksums import add_checksums

_URI: Final = re.compile(r"^pvc://(?P<claim>[a-z0-9][-a-z0-9.]{0,252})(?:/(?P<path>.*))?$")


class VolumeSource:
    """A folder, or one .gguf file, in a mounted claim."""

    def __init__(self, uri: str, mount: Path) -> None:
        """Read the URI; `mount` is where the claim is mounted."""
        match = _URI.match(uri)
        if match is None:
            raise InvalidSourceError(f"{redact(uri)} is not pvc://claim/path")
        self._claim, self._path = match["claim"], (match["path"] or "").strip("/")
        self._mount = mount.resolve()
        if ".." in Path(self._path).parts:
            raise InvalidSourceError(f"{redact(uri)} climbs out of the claim")
        if not self._mount.is_dir():
            raise SourceUnavailableError(
                f"The claim {self._claim} is not mounted at {mount}", "Mount it there read-only."
            )

    @property
    def folder(self) -> Path:
        """Where the model's files are."""
        place = self._mount / self._path
        return place.parent if place.is_file() else place

    def observe_listing(self) -> Listing:
        """Walk the folder."""
        place = self._mount / self._path
        if not self._is_inside(place):
            raise SourceNotFoundError(f"The claim {self._claim} has no /{self._path}", "Correct spec.source.uri.")
        paths = [place] if place.is_file() else self._walk(place)
        files, _ = narrow([self._to_file(path) for path in paths], self._path)
        return Listing(add_checksums(self, files), local_folder=self.folder)

    @contextmanager
    def open_stream(self, file: RemoteFile, offset: int = 0, length: int | None = None) -> Iterator[Iterator[bytes]]:
        """Open part of a file."""
        size = CHUNK_BYTES if length is None else max(1, min(length, CHUNK_BYTES))
        with ExitStack() as stack:
            with self._translate(file):
                stream = stack.enter_context((self.folder / file.path).open("rb"))
                stream.seek(offset)
            yield guard_chunks(iter(lambda: stream.read(size), b""), lambda: self._translate(file))

    def close(self) -> None:
        """Nothing to do."""

    @contextmanager
    def _translate(self, file: RemoteFile) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise AccessDeniedError(
                f"{self._claim}: /{file.path} may not be read", "Make the files readable for all: chmod -R a+rX."
            ) from error
        except OSError as error:
            raise SourceUnavailableError(f"{self._claim}: /{file.path}: {error.strerror}") from error

    def _walk(self, folder: Path) -> list[Path]:
        found = []
        for path in sorted(folder.rglob("*")):
            if path.is_file() and self._is_inside(path):
                found.append(path)
            if len(found) > MAX_FILES:
                raise InvalidSourceError(f"{self._claim} holds more than {MAX_FILES} files there", "Name one model.")
        return found

    def _is_inside(self, path: Path) -> bool:
        return path.exists() and path.resolve().is_relative_to(self._mount)

    def _to_file(self, path: Path) -> RemoteFile:
        facts = path.stat()
        return RemoteFile(str(path.relative_to(self._mount)), facts.st_size, version=str(facts.st_mtime_ns))
