"""Chooses the files of a model that are fetched. Pure.

An allow-list, because a repository holds much that no engine reads (pictures, ONNX exports, original checkpoints) and
may hold what must not be read: pickle files run code when loaded, so they are never fetched, whatever else is there.

    wanted = weights of one format + small files with known endings (+ *.py only where the code was reviewed)

Of several safetensors sets in one folder only the one that engines load is taken: the shards of `model` if there is an
index, else `model.safetensors`, else all that remain. `consolidated.*` is a second copy of the same weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from llmos_workers.fetch.errors import ConversionFailedError, InvalidSourceError, SourceNotFoundError, UnsafeFormatError
from llmos_workers.fetch.sources.base import RemoteFile

Format = Literal["auto", "safetensors", "gguf"]

INDEX_NAME: Final = "model.safetensors.index.json"
_IGNORED_FOLDERS: Final = frozenset(
    {"original", "onnx", "openvino", "coreml", "tflite", "metal", "mlx", "runs", "logs", "checkpoints", "__pycache__"}
)
_SMALL_ENDINGS: Final = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".vocab", ".spm")
_PICKLE_ENDINGS: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
_SHARD: Final = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(?:safetensors|gguf)$")
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
# Listings of a download, not parts of a model; LLMOS writes its own.
_NOT_MODEL: Final = frozenset({"manifest.json", "pytorch_model.bin.index.json", "tf_model.h5.index.json"})


@dataclass(frozen=True)
class Selection:
    """What to fetch. `weights` is part of `files`."""

    format: Literal["safetensors", "gguf"]
    weights: tuple[RemoteFile, ...]
    files: tuple[RemoteFile, ...]

    @property
    def total_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def has_tokenizer(self) -> bool:
        """Whether an engine will find a tokenizer. A GGUF file holds its own."""
        names = {file.path for file in self.files}
        return (
            self.format == "gguf"
            or any(name in names for name in _TOKENIZERS)
            or any(name.endswith(".tiktoken") for name in names)
        )


def select_files(listed: Iterable[RemoteFile], wanted_format: Format, *, with_code: bool = False) -> Selection:
    """Choose the files to fetch.

    Raises:
        UnsafeFormatError: the weights are there only as pickle files.
        SourceNotFoundError: there are no weights, or shards are missing.
        InvalidSourceError: there are several GGUF files to choose from.
        ConversionFailedError: the GGUF file is split.
    """
    files = [file for file in listed if _is_considered(file)]
    safetensors = _select_safetensors([file for file in files if file.path.endswith(".safetensors")])
    ggufs = [file for file in files if file.path.endswith(".gguf")]
    if safetensors and wanted_format != "gguf":
        nested = [file for file in files if "/" in file.path and file.path.endswith(".safetensors")]
        small = [file for file in files if _is_small(file, with_code=with_code)]
        return Selection("safetensors", tuple(safetensors), _sorted([*safetensors, *nested, *small]))
    if ggufs and wanted_format != "safetensors":
        gguf = _select_gguf(ggufs)
        return Selection("gguf", (gguf,), (gguf,))
    pickles = [file.path for file in files if file.path.lower().endswith(_PICKLE_ENDINGS)]
    if pickles:
        raise UnsafeFormatError(
            f"The model has its weights only as pickle files ({pickles[0]}), which run code when loaded"
        )
    wanted = "safetensors or GGUF" if wanted_format == "auto" else wanted_format
    raise SourceNotFoundError(
        f"The source has no {wanted} files", "Correct spec.source.uri or spec.format; the folder must hold the weights."
    )


def _is_considered(file: RemoteFile) -> bool:
    folders = file.path.split("/")[:-1]
    hidden = any(part.startswith(".") for part in file.path.split("/"))
    return not hidden and not _IGNORED_FOLDERS.intersection(folders) and file.path not in _NOT_MODEL


def _is_small(file: RemoteFile, *, with_code: bool) -> bool:
    if file.path.endswith(".safetensors.index.json"):
        return file.path == INDEX_NAME
    return file.path.endswith((*_SMALL_ENDINGS, ".py") if with_code else _SMALL_ENDINGS)


def _select_safetensors(files: list[RemoteFile]) -> list[RemoteFile]:
    root = [file for file in files if "/" not in file.path and not file.path.startswith("consolidated")]
    shards = [file for file in root if (match := _SHARD.match(file.path)) and match["stem"] == "model"]
    if shards:
        _check_complete(shards)
        return shards
    return [file for file in root if file.path == "model.safetensors"] or root


def _check_complete(shards: list[RemoteFile]) -> None:
    matches = [match for file in shards if (match := _SHARD.match(file.path))]
    count = int(matches[0]["count"])
    if {int(match["number"]) for match in matches} != set(range(1, count + 1)) or len(shards) != count:
        raise SourceNotFoundError(f"The source has {len(shards)} of {count} weight shards", "Complete the upload.")


def _select_gguf(files: list[RemoteFile]) -> RemoteFile:
    if any(_SHARD.match(file.name) for file in files):
        raise ConversionFailedError(
            "The GGUF file is split into parts, which cannot be converted",
            "Merge the parts with `llama-gguf-split --merge`, or use a safetensors version.",
        )
    if len(files) > 1:
        names = ", ".join(file.path for file in files[:5])
        raise InvalidSourceError(
            f"The source has {len(files)} GGUF files ({names})", "Name one of them in spec.source.uri."
        )
    return files[0]


def _sorted(files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    return tuple(sorted(dict.fromkeys(files), key=lambda file: file.path))
