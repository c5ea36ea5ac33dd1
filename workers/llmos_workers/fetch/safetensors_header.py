"""Reads the header of a safetensors file: names, types and shapes of the tensors, never the weights.

A file is 8 bytes of length N (little endian), N bytes of JSON, then the data; the last data offset plus 8 + N is the
size of the file, so a truncated upload is seen without reading it. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmos_workers.fetch.errors import ChecksumMismatchError, InvalidSourceError
from llmos_workers.fetch.sources.base import RemoteFile, Source, read_range

_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 100_000_000  # the format's own limit
_FIRST_READ_BYTES: Final = 1 << 18
_MAX_ELEMENTS: Final = 10**15


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, type (as safetensors writes it, for example BF16), number of elements and size."""

    name: str
    dtype: str
    elements: int
    size_bytes: int


def read_remote_header(source: Source, file: RemoteFile) -> tuple[Tensor, ...]:
    """Read the header by one or two range requests."""
    head = read_range(source, file, 0, _FIRST_READ_BYTES)
    length = _parse_length(head, file)
    if len(head) < _LENGTH_BYTES + length:
        head += read_range(source, file, len(head), _LENGTH_BYTES + length - len(head))
    return _parse_header(head[_LENGTH_BYTES : _LENGTH_BYTES + length], file)


def check_local_file(path: Path) -> None:
    """Refuse a file whose header does not fit its size.

    Raises:
        ChecksumMismatchError: it is truncated, or something was added.
    """
    file = RemoteFile(path.name, path.stat().st_size)
    with path.open("rb") as stream:
        length = _parse_length(stream.read(_LENGTH_BYTES), file)
        _parse_header(stream.read(length), file)


def _parse_length(head: bytes, file: RemoteFile) -> int:
    length = int(struct.unpack("<Q", head[:_LENGTH_BYTES])[0]) if len(head) >= _LENGTH_BYTES else 0
    if not 2 <= length <= min(_MAX_HEADER_BYTES, file.size_bytes - _LENGTH_BYTES):
        raise InvalidSourceError(f"{file.path} is not a safetensors file", "Upload the file again.")
    return length


def _parse_header(data: bytes, file: RemoteFile) -> tuple[Tensor, ...]:
    try:
        entries = {name: entry for name, entry in json.loads(data).items() if name != "__metadata__"}
        tensors = tuple(_parse_tensor(name, entry) for name, entry in entries.items())
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise InvalidSourceError(f"The header of {file.path} cannot be read", "Upload the file again.") from error
    if _LENGTH_BYTES + len(data) + end != file.size_bytes:
        raise ChecksumMismatchError(
            f"{file.path} has {file.size_bytes} bytes, but its header announces {_LENGTH_BYTES + len(data) + end}"
        )
    return tensors


def _parse_tensor(name: str, entry: dict[str, Any]) -> Tensor:
    start, end = entry["data_offsets"]
    elements = math.prod(int(size) for size in entry["shape"])
    if not 0 <= elements <= _MAX_ELEMENTS or not 0 <= start <= end:
        raise ValueError(name)
    return Tensor(name, str(entry["dtype"])[:16], elements, int(end) - int(start))
