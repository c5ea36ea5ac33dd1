"""Finds out what a model is without fetching its weights.

    safetensors   config.json, and the header of each weights file by range: exact counts, not estimates
    gguf          metadata and tensor shapes at the head of the file

Counts what an engine will hold: it casts 32-bit weights to 16 bits, ties the output layer to the embedding where the
configuration says so, and keeps quantized tensors as they are. A packed 4-bit tensor says nothing about the number of
parameters; there the estimate from the configuration's shape is taken.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Final

from pydantic import ValidationError

from llmos.api import ModelArchitecture, ResolvedModel
from llmos.api.adapters import ADAPTER_CONFIG
from llmos.api.architecture import UnsupportedArchitectureError
from llmos.api.architecture_config import parse_architecture
from llmos_workers.fetch.adapter import inspect_adapter
from llmos_workers.fetch.errors import InvalidSourceError, SourceNotFoundError, UnknownArchitectureError
from llmos_workers.fetch.gguf_config import build_config
from llmos_workers.fetch.gguf_header import GgufHeader, parse_gguf_header
from llmos_workers.fetch.remote_code import check_remote_code
from llmos_workers.fetch.retry import DEFAULT_RETRY, RetryPolicy
from llmos_workers.fetch.safetensors_header import Tensor, read_remote_header
from llmos_workers.fetch.selection import Format, Selection, select_files
from llmos_workers.fetch.sources import Listing, RemoteFile, Source, compute_digest, read_range

log = logging.getLogger(__name__)

CONVERTED_DTYPE: Final = "bfloat16"
CONVERTED_BYTES: Final = 2
_TEXT_CONFIG: Final = "sentence_bert_config.json"
_MAX_CONFIG_BYTES: Final = 8 << 20
_MAX_SHARDS: Final = 2_048
_PARALLEL: Final = 8
_WIDE_FLOATS: Final = frozenset({"F32", "F64"})


def inspect_model(
    source: Source,
    wanted_format: Format,
    *,
    trusted_revision: str = "",
    is_adapter: bool = False,
    retry: RetryPolicy = DEFAULT_RETRY,
) -> ResolvedModel:
    """Return the facts of the model, or of the adapter, at the source.

    Raises:
        FetchError: one of its subclasses; nothing else leaves.
    """
    listing = retry.call(source.observe_listing)
    if is_adapter:
        return inspect_adapter(source, listing, retry)
    refuse_adapter(listing)
    selection = select_files(
        listing.files, wanted_format, with_code=bool(trusted_revision) and trusted_revision == listing.revision
    )
    log.info("%s: %d files, %d bytes", selection.format, len(selection.files), selection.total_bytes)
    if selection.format == "gguf":
        header = retry.call(lambda: read_gguf_header(source, selection.weights[0]))
        return _describe_gguf(header, listing, selection)
    config = retry.call(lambda: _read_config(source, listing))
    check_remote_code(config, listing.revision, trusted_revision)
    if not selection.has_tokenizer:
        raise SourceNotFoundError("The model has no tokenizer", "Put tokenizer.json beside the weights.")
    longest = retry.call(lambda: _read_longest_text(source, listing))
    return _describe_safetensors(config, _read_headers(source, selection, retry), listing, selection, longest)


def refuse_adapter(listing: Listing) -> None:
    """Refuse an adapter that is not said to be one.

    Raises:
        InvalidSourceError: it has an adapter's configuration and no model's.
    """
    if listing.find(ADAPTER_CONFIG) is not None and listing.find("config.json") is None:
        raise InvalidSourceError(
            "The source is a LoRA adapter, not a whole model",
            "Set spec.adapter.baseModelRef to the LLMModel that it changes.",
        )


def read_gguf_header(source: Source, file: RemoteFile) -> GgufHeader:
    """Read the head of a GGUF file and leave the rest."""
    with source.open_stream(file) as chunks:
        return parse_gguf_header(chunks)


def _read_longest_text(source: Source, listing: Listing) -> int | None:
    """Return how many tokens an embedding model takes, as sentence-transformers and engines read it; None if all."""
    file = listing.find(_TEXT_CONFIG)
    if file is None or file.size_bytes > _MAX_CONFIG_BYTES:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(read_range(source, file, 0, file.size_bytes))
        length = found.get("max_seq_length") if isinstance(found, dict) else None
        return length if isinstance(length, int) and length > 0 else None
    return None


def _read_config(source: Source, listing: Listing) -> dict[str, object]:
    file = listing.find("config.json")
    if file is None or file.size_bytes > _MAX_CONFIG_BYTES:
        raise UnknownArchitectureError(
            "The model has no config.json" if file is None else "config.json is too large to be one",
            "Use a model in the Hugging Face layout.",
        )
    try:
        config = json.loads(read_range(source, file, 0, file.size_bytes))
    except (ValueError, RecursionError) as error:
        raise InvalidSourceError("config.json cannot be read as JSON", "Repair the file at the source.") from error
    if not isinstance(config, dict):
        raise InvalidSourceError("config.json holds no object", "Repair the file at the source.")
    return config


def _read_headers(source: Source, selection: Selection, retry: RetryPolicy) -> list[Tensor]:
    if len(selection.weights) > _MAX_SHARDS:
        raise InvalidSourceError(f"The model has {len(selection.weights)} weight files, more than {_MAX_SHARDS}")
    with ThreadPoolExecutor(_PARALLEL) as pool:
        headers = pool.map(lambda file: retry.call(lambda: read_remote_header(source, file)), selection.weights)
        return list(chain.from_iterable(headers))


def _describe_gguf(header: GgufHeader, listing: Listing, selection: Selection) -> ResolvedModel:
    shape = _parse(build_config(header))
    parameters = header.parameters
    return _build_resolved(shape, listing, selection, parameters=parameters, weights_bytes=parameters * CONVERTED_BYTES)


def _describe_safetensors(
    config: Mapping[str, object],
    tensors: list[Tensor],
    listing: Listing,
    selection: Selection,
    longest_tokens: int | None,
) -> ResolvedModel:
    shape = _parse(config)
    if longest_tokens is not None and longest_tokens < shape.max_context_tokens:
        shape = shape.model_copy(update={"max_context_tokens": longest_tokens})
    if shape.dtype == "float32":
        shape = shape.model_copy(update={"dtype": CONVERTED_DTYPE})
    loaded = list(_without_tied_head(tensors, config))
    if shape.quantization:
        parameters, weights_bytes = shape.parameters, sum(tensor.size_bytes for tensor in loaded)
    else:
        parameters = sum(tensor.elements for tensor in loaded)
        weights_bytes = sum(_served_bytes(tensor) for tensor in loaded)
    return _build_resolved(shape, listing, selection, parameters=parameters, weights_bytes=weights_bytes)


def _without_tied_head(tensors: Iterable[Tensor], config: Mapping[str, object]) -> Iterable[Tensor]:
    is_tied = config.get("tie_word_embeddings") is True
    return (tensor for tensor in tensors if not (is_tied and tensor.name == "lm_head.weight"))


def _served_bytes(tensor: Tensor) -> int:
    return tensor.elements * CONVERTED_BYTES if tensor.dtype in _WIDE_FLOATS else tensor.size_bytes


def _parse(config: Mapping[str, object]) -> ModelArchitecture:
    try:
        return parse_architecture(config)
    except UnsupportedArchitectureError as error:
        cause, _, remedy = str(error).partition(". ")
        raise UnknownArchitectureError(cause, remedy) from error


def _build_resolved(
    shape: ModelArchitecture, listing: Listing, selection: Selection, *, parameters: int, weights_bytes: int
) -> ResolvedModel:
    try:
        return ResolvedModel(
            digest=compute_digest(selection.files),
            revision=listing.revision,
            format=selection.format,
            architecture=shape.name,
            parameters=parameters,
            layers=shape.layers,
            kv_heads=shape.key_value_heads,
            head_dim=shape.head_dim,
            vocabulary=shape.vocabulary_size,
            max_context=shape.max_context_tokens,
            weights_bytes=weights_bytes,
            download_bytes=listing.archive.size_bytes if listing.archive else selection.total_bytes,
            dtype=shape.dtype,
            quantization=shape.quantization,
            config=shape,
        )
    except ValidationError as error:
        raise UnknownArchitectureError(
            "The model's configuration is beyond every bound", "Use another model."
        ) from error
