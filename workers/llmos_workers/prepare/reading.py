"""Reads JSON lines one at a time: bounded in memory whatever the file holds, packed or not.

A file's packing is known by its first bytes, not by its name. pyarrow unpacks: unlike other libraries it says when a
packed file is cut off, reads several frames in a row, and never hands out more than was asked for.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa

from llmos_workers.prepare.errors import DatasetInvalidError

MAX_LINE_BYTES: Final = 8 << 20
"""Longest line. The longest example that may be asked for (1,048,576 tokens) has about 5 MB of text."""
_BUFFER_BYTES: Final = 1 << 20
_PACKINGS: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_NOT_DATA: Final = frozenset({"manifest.json"})


@dataclass(frozen=True)
class Line:
    """One line of a file. `data` is None where it is longer than `MAX_LINE_BYTES`."""

    file: str
    number: int
    data: bytes | None

    @property
    def label(self) -> str:
        """File and line number, for people."""
        return f"{self.file[-280:]}:{self.number}"


def list_files(folder: Path) -> list[tuple[str, Path]]:
    """Return names and paths of the data files of a fetched folder, in order of their names.

    The fetch step leaves its files at FOLDER/data; others may have put them into the folder itself.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    found = []
    for path in sorted(root.resolve().rglob("*")) if root.is_dir() else ():
        name = str(path.relative_to(root.resolve()))
        if path.is_file() and name not in _NOT_DATA and not any(part.startswith(".") for part in Path(name).parts):
            found.append((name, path))
    return found


class LineReader:
    """Iterates over the lines of files, and knows how many bytes of them, as they lie on the disk, it has read."""

    def __init__(self, files: list[tuple[str, Path]], *, prefix: str = "") -> None:
        """Take names and paths; `prefix` is set before the names in labels."""
        self._files, self._prefix = files, prefix
        self.total_bytes = sum(path.stat().st_size for _, path in files)
        self._finished_bytes = 0
        self._raw: pa.NativeFile | None = None

    @property
    def done_bytes(self) -> int:
        """Bytes that were read."""
        return self._finished_bytes + (self._raw.tell() if self._raw is not None else 0)

    def __iter__(self) -> Iterator[Line]:
        """Iterate over the lines that are not blank.

        Raises:
            DatasetInvalidError: a packed file is cut off or damaged.
        """
        for name, path in self._files:
            yield from self._read(self._prefix + name, path)

    def _read(self, name: str, path: Path) -> Iterator[Line]:
        number = 0
        packing = _find_packing(path)
        with pa.OSFile(str(path)) as raw:
            self._raw = raw
            packed = pa.CompressedInputStream(raw, packing) if packing else raw
            with io.BufferedReader(packed, _BUFFER_BYTES) as stream:
                try:
                    for number, data in _split(stream):
                        if data is None or not data.isspace():
                            yield Line(name, number, data)
                except OSError as error:
                    if packing is None or error.errno is not None:
                        raise
                    raise DatasetInvalidError(
                        f"{name} cannot be unpacked after line {number}: it is cut off or damaged",
                        "Upload the file again, and make a new FineTuneJob.",
                    ) from error
                finally:
                    self._raw = None
        self._finished_bytes += path.stat().st_size


def _find_packing(path: Path) -> str | None:
    with path.open("rb") as stream:
        head = stream.read(4)
    return next((name for magic, name in _PACKINGS.items() if head.startswith(magic)), None)


def _split(stream: BinaryIO | io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    while data := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        if len(data) <= MAX_LINE_BYTES:
            yield number, data
            continue
        while data and not data.endswith(b"\n"):
            data = stream.readline(_BUFFER_BYTES)
        yield number, None
