"""Reads the head of a GGUF file as a stream: metadata and the shapes of the tensors, never the weights.

The gguf library maps a whole local file and believes its lengths. Here the file is remote, perhaps inside a deflated
wheel, and a stranger wrote it, so the head is read front to back once, every count is bounded before it is used, and
arrays (the vocabulary) are only counted. Names of value types and of quantizations come from the library.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gguf.constants import GGMLQuantizationType, GGUFValueType

from llmos_workers.fetch.errors import InvalidSourceError

Scalar = bool | int | float | str

_MAGIC: Final = b"GGUF"
_SCALARS: Final = {
    GGUFValueType.UINT8: "<B",
    GGUFValueType.INT8: "<b",
    GGUFValueType.UINT16: "<H",
    GGUFValueType.INT16: "<h",
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.FLOAT32: "<f",
    GGUFValueType.BOOL: "<?",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT64: "<d",
}
_MAX_FIELDS: Final = 4_096
_MAX_TENSORS: Final = 65_536
_MAX_STRING_BYTES: Final = 1 << 20
_MAX_ITEMS: Final = 4 << 20
_MAX_DIMENSIONS: Final = 8
_MAX_PARAMETERS: Final = 10**15
MAX_HEAD_BYTES: Final = 512 << 20


@dataclass(frozen=True)
class GgufTensor:
    """A tensor's name, its number of elements and how it is quantized (for example Q4_1)."""

    name: str
    elements: int
    quantization: str


@dataclass(frozen=True)
class GgufHeader:
    """What the head of the file says. `lengths` are the sizes of the arrays in the metadata."""

    metadata: dict[str, Scalar]
    lengths: dict[str, int]
    tensors: tuple[GgufTensor, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        """Parameters of the model; rotary tables are computed, not learnt."""
        return sum(tensor.elements for tensor in self.tensors if not tensor.name.startswith("rope_freqs"))

    def integer(self, key: str, default: int = 0) -> int:
        """Return a positive number under ARCHITECTURE.key."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40 else default


def parse_gguf_header(chunks: Iterator[bytes]) -> GgufHeader:
    """Read the head from the chunks of a file; takes no more chunks than it needs.

    Raises:
        InvalidSourceError: this is not a GGUF file of version 2 or 3, or its counts are absurd.
    """
    stream = _Stream(chunks)
    if stream.take(4) != _MAGIC:
        raise _broken("it does not begin with GGUF")
    version = stream.integer("<I")
    if version not in {2, 3}:
        raise _broken(f"its version is {version}, only 2 and 3 are read")
    tensor_count = stream.bounded("<Q", _MAX_TENSORS, "tensors")
    field_count = stream.bounded("<Q", _MAX_FIELDS, "fields")
    metadata: dict[str, Scalar] = {}
    lengths: dict[str, int] = {}
    for _ in range(field_count):
        key = stream.string()
        value_type = stream.value_type()
        if value_type == GGUFValueType.ARRAY:
            lengths[key] = stream.skip_array()
        else:
            metadata[key] = stream.scalar(value_type)
    return GgufHeader(metadata, lengths, tuple(_parse_tensor(stream) for _ in range(tensor_count)))


def _parse_tensor(stream: _Stream) -> GgufTensor:
    name = stream.string()
    dimensions = stream.bounded("<I", _MAX_DIMENSIONS, "dimensions")
    elements = math.prod(stream.integer("<Q") for _ in range(dimensions))
    if elements > _MAX_PARAMETERS:
        raise _broken(f"tensor {name[:64]!r} has {elements} elements")
    kind = stream.integer("<I")
    stream.take(8)  # offset of the data
    try:
        return GgufTensor(name, elements, GGMLQuantizationType(kind).name)
    except ValueError:
        raise _broken(f"tensor {name[:64]!r} has the unknown type {kind}") from None


class _Stream:
    """Takes typed values off the front of a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = b""
        self._position = 0
        self._received_bytes = 0

    def take(self, count: int) -> bytes:
        while len(self._buffer) - self._position < count:
            chunk = next(self._chunks, b"")
            self._received_bytes += len(chunk)
            if not chunk or self._received_bytes > MAX_HEAD_BYTES:
                raise _broken("its head ends early" if not chunk else f"its head is longer than {MAX_HEAD_BYTES} bytes")
            self._buffer = self._buffer[self._position :] + chunk
            self._position = 0
        start, self._position = self._position, self._position + count
        return self._buffer[start : self._position]

    def integer(self, layout: str) -> int:
        value = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return int(value)

    def bounded(self, layout: str, limit: int, what: str) -> int:
        count = self.integer(layout)
        if count > limit:
            raise _broken(f"it claims {count} {what}, more than {limit}")
        return count

    def string(self) -> str:
        return self.take(self.bounded("<Q", _MAX_STRING_BYTES, "bytes in a string")).decode(errors="replace")

    def value_type(self) -> GGUFValueType:
        number = self.integer("<I")
        try:
            return GGUFValueType(number)
        except ValueError:
            raise _broken(f"it has the unknown value type {number}") from None

    def scalar(self, value_type: GGUFValueType) -> Scalar:
        if value_type == GGUFValueType.STRING:
            return self.string()
        layout = _SCALARS[value_type]
        value: Scalar = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def skip_array(self) -> int:
        value_type = self.value_type()
        if value_type == GGUFValueType.ARRAY:
            raise _broken("it has nested arrays")
        count = self.bounded("<Q", _MAX_ITEMS, "items in an array")
        if value_type == GGUFValueType.STRING:
            for _ in range(count):
                self.string()
        else:
            self.take(count * struct.calcsize(_SCALARS[value_type]))
        return count


def _broken(what: str) -> InvalidSourceError:
    return InvalidSourceError(f"The GGUF file cannot be read: {what}", "Use an intact file of GGUF version 2 or 3.")
