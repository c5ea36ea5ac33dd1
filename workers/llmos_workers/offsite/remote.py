"""A folder in a bucket, by obstore: names and sizes, bytes, files. Errors are those of `fetch.errors`."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import obstore

from llmos_workers.fetch.errors import InvalidSourceError, SourceNotFoundError
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import CHUNK_BYTES
from llmos_workers.fetch.sources.objects import build_store, translate_store_errors
from llmos_workers.train.files import FileEntry, open_hashing

MAX_OBJECTS: Final = 100_000
_PART_BYTES: Final = 8 << 20
_MOST_PARTS: Final = 9_000  # S3 takes 10,000
_PARTS_AT_ONCE: Final = 4


class RemoteFolder:
    """A folder below s3://bucket/path or gs://bucket/path; it need not exist."""

    def __init__(self, uri: str) -> None:
        """Read the URI and the environment; nothing is asked yet.

        Raises:
            InvalidSourceError: it is no such URI, or the environment holds what no client understands.
        """
        parts = urlsplit(uri)
        if parts.scheme not in {"s3", "gs"} or not parts.netloc or "@" in parts.netloc:
            raise InvalidSourceError(f"{redact(uri)} is not s3://bucket/path or gs://bucket/path")
        self.uri = uri.rstrip("/")
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._path = unquote(parts.path).strip("/")
        with translate_store_errors(self._place):
            self._store = build_store(parts.scheme, parts.netloc, "llmos-checkpoints")

    def child(self, name: str) -> RemoteFolder:
        """A folder in this one; both share their connections."""
        child = copy.copy(self)
        child.uri, child._path = f"{self.uri}/{name}", self._name(name)
        return child

    def list_files(self) -> dict[str, int]:
        """Sizes in bytes of all objects below the folder, by their names in it.

        Raises:
            InvalidSourceError: there are more than anybody of us made.
        """
        found: dict[str, int] = {}
        prefix = f"{self._path}/" if self._path else ""
        with translate_store_errors(self._place):
            for batch in obstore.list(self._store, prefix=prefix or None):
                found |= {item["path"].removeprefix(prefix): int(item["size"]) for item in batch}
                if len(found) > MAX_OBJECTS:
                    raise InvalidSourceError(f"{self.uri} holds more than {MAX_OBJECTS} objects", "Use a folder apart.")
        return found

    def read(self, name: str) -> bytes | None:
        """A small object; None where there is none."""
        try:
            with translate_store_errors(self._place):
                return bytes(obstore.get(self._store, self._name(name)).bytes())
        except SourceNotFoundError:
            return None

    def download(self, name: str, path: Path) -> FileEntry:
        """Write an object to a file, which is on the disk when this returns, and say what came."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with translate_store_errors(self._place):
            chunks = iter(obstore.get(self._store, self._name(name)).stream(CHUNK_BYTES))
        with open_hashing(path) as file:
            while True:
                # What the disk says is not to be taken for an error of the store.
                with translate_store_errors(self._place):
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                file.write(memoryview(chunk))
        return file.entry

    def put(self, name: str, content: Path | bytes) -> None:
        """Write an object at once: nobody sees half of it."""
        size_bytes = len(content) if isinstance(content, bytes) else content.stat().st_size
        with translate_store_errors(self._place):
            obstore.put(
                self._store,
                self._name(name),
                content,
                chunk_size=max(_PART_BYTES, -(-size_bytes // _MOST_PARTS)),
                max_concurrency=_PARTS_AT_ONCE,
            )

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, in this order; those that are not there are as good as removed."""
        for name in names:
            try:
                with translate_store_errors(self._place):
                    obstore.delete(self._store, self._name(name))
            except SourceNotFoundError:
                continue

    def _name(self, name: str) -> str:
        return f"{self._path}/{name}" if self._path else name
