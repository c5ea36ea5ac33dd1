"""Finds out what a LoRA adapter is. It is small, so all of it is read: its digest is made of what the files hold.

    adapter_config.json         PEFT's settings: the ranks, and the modules that are changed
    adapter_model.safetensors   the matrices

Nothing else of the folder is ever fetched. Ranks are read as engines read them, which set aside memory for the largest:
`rank_pattern` may give single modules more than `r`. What vLLM 0.32 refuses to load (vllm/lora/peft_helper.py) is
refused here, before a pool is told of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from pydantic import ValidationError

from llmos.api import ResolvedModel
from llmos.api.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    ADAPTER_WEIGHTS,
    MAX_ADAPTER_BYTES,
    MAX_CONFIG_BYTES,
    compute_content_digest,
)
from llmos.api.llmmodel import ResolvedAdapter
from llmos_workers.fetch.errors import InvalidSourceError, SourceNotFoundError, UnsafeFormatError
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.safetensors_header import Tensor, read_remote_header
from llmos_workers.fetch.selection import Selection
from llmos_workers.fetch.sources import Listing, RemoteFile, Source, read_range

log = logging.getLogger(__name__)

ADAPTER_ARCHITECTURE: Final = "LoRA"
_PICKLE: Final = "adapter_model.bin"
_MAX_MODULES: Final = 256
_MAX_MODULE_CHARS: Final = 128
_DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_UNSUPPORTED: Final = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "use_bdlora",
    "use_qalora",
    "target_parameters",
    "trainable_token_indices",
)
_HEADS: Final = frozenset({"classifier", "score"})
_HEAD_TASKS: Final = frozenset({"SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"})
_RETRAIN: Final = "Train it without that, or merge it into its base model and serve that."


def select_adapter_files(listed: Iterable[RemoteFile]) -> Selection:
    """Choose the two files of an adapter.

    Raises:
        UnsafeFormatError: its weights are there only as a pickle file.
        SourceNotFoundError: there is no adapter.
        InvalidSourceError: it is too large to be one.
    """
    found = {file.path: file for file in listed if file.path in (*ADAPTER_FILES, _PICKLE)}
    if ADAPTER_WEIGHTS not in found and _PICKLE in found:
        raise UnsafeFormatError(f"The adapter has its weights only as a pickle file ({_PICKLE}), which can run code")
    missing = [name for name in ADAPTER_FILES if name not in found]
    if missing:
        raise SourceNotFoundError(
            f"The source is no LoRA adapter: it has no {' and no '.join(missing)}",
            "Point spec.source.uri at the folder that PEFT's save_pretrained wrote, or remove spec.adapter.",
        )
    files = tuple(found[name] for name in ADAPTER_FILES)
    if found[ADAPTER_CONFIG].size_bytes > MAX_CONFIG_BYTES or found[ADAPTER_WEIGHTS].size_bytes > MAX_ADAPTER_BYTES:
        raise InvalidSourceError("The files are too large for an adapter", "Serve the model as one of its own.")
    return Selection("safetensors", (found[ADAPTER_WEIGHTS],), files)


def inspect_adapter(source: Source, listing: Listing, retry: RetryPolicy) -> ResolvedModel:
    """Return the facts of the adapter at the source.

    Raises:
        FetchError: one of its subclasses; nothing else leaves.
    """
    selection = select_adapter_files(listing.files)
    config_file, weights_file = selection.files
    config = _parse_config(retry.call(lambda: read_range(source, config_file, 0, config_file.size_bytes)))
    tensors = retry.call(lambda: read_remote_header(source, weights_file))
    facts = compute_adapter_facts(config)
    _check_tensors(tensors)
    log.info("adapter of rank %d, %d bytes", facts.rank, selection.total_bytes)
    sums = [(file.path, file.size_bytes, retry.call(partial(_hash, source, file))) for file in selection.files]
    return ResolvedModel(
        digest=compute_content_digest(sums),
        revision=listing.revision,
        architecture=ADAPTER_ARCHITECTURE,
        parameters=sum(tensor.elements for tensor in tensors),
        layers=0,
        kv_heads=0,
        head_dim=0,
        vocabulary=0,
        max_context=0,
        weights_bytes=sum(tensor.size_bytes for tensor in tensors),
        download_bytes=listing.archive.size_bytes if listing.archive else selection.total_bytes,
        dtype=_compute_dtype(tensors),
        adapter=facts,
    )


def compute_adapter_facts(config: Mapping[str, Any]) -> ResolvedAdapter:
    """Return the facts in an adapter_config.json.

    Raises:
        InvalidSourceError: it is no LoRA adapter, or one that the engine does not load.
    """
    kind = str(config.get("peft_type", ""))
    if kind.upper() != "LORA":
        raise InvalidSourceError(
            f"The adapter is of the kind {kind[:32] or 'that its configuration does not say'}, not LoRA",
            "Train a LoRA adapter, or merge this one into its base model and serve that.",
        )
    _refuse_unsupported(config)
    modules = config.get("target_modules")
    names = [modules] if isinstance(modules, str) else modules if isinstance(modules, list) else []
    try:
        patterns = dict(config.get("rank_pattern") or {})
        rank = max(int(config["r"]), *map(int, patterns.values())) if patterns else int(config["r"])
        return ResolvedAdapter(
            rank=rank,
            target_modules=tuple(sorted({str(name)[:_MAX_MODULE_CHARS] for name in names}))[:_MAX_MODULES],
            head=_find_head(config),
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InvalidSourceError(
            f"{ADAPTER_CONFIG} does not say the rank as PEFT does (r, rank_pattern)", "Repair the file at the source."
        ) from error


def _find_head(config: Mapping[str, Any]) -> str:
    """Return the output layer that the adapter has in the place of the vocabulary, as PEFT's settings say."""
    saved = sorted(_HEADS.intersection(map(str, config.get("modules_to_save") or ())))
    task = str(config.get("task_type") or "")
    return saved[0] if saved else task if task in _HEAD_TASKS else ""


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    used = [name for name in _UNSUPPORTED if config.get(name)]
    extra = [name for name in config.get("modules_to_save") or () if name not in _HEADS]
    if extra:
        used.append(f"modules_to_save ({', '.join(map(str, extra[:3]))})")
    if config.get("bias", "none") not in ("none", None):
        used.append(f"bias ({config['bias']})")
    if used:
        raise InvalidSourceError(f"The adapter uses {', '.join(used)[:200]}, which engines do not serve", _RETRAIN)


def _parse_config(data: bytes) -> Mapping[str, Any]:
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidSourceError(
            f"{ADAPTER_CONFIG} cannot be read as JSON", "Repair the file at the source."
        ) from error
    if not isinstance(config, dict):
        raise InvalidSourceError(f"{ADAPTER_CONFIG} holds no object", "Repair the file at the source.")
    return config


def _check_tensors(tensors: Iterable[Tensor]) -> None:
    if not any("lora_" in tensor.name for tensor in tensors):
        raise InvalidSourceError(f"{ADAPTER_WEIGHTS} holds no LoRA matrices", "Save the adapter again with PEFT.")


def _compute_dtype(tensors: Iterable[Tensor]) -> str:
    """Return the type of most of the numbers."""
    elements: Counter[str] = Counter()
    for tensor in tensors:
        elements[tensor.dtype] += tensor.elements
    kind = elements.most_common(1)[0][0]
    return _DTYPES.get(kind, kind.lower())


def _hash(source: Source, file: RemoteFile) -> str:
    digest, left = hashlib.sha256(), file.size_bytes
    with source.open_stream(file) as chunks:
        for chunk in chunks:
            digest.update(chunk)
            left -= len(chunk)
    if left:
        raise InvalidSourceError(f"{file.path} changed while it was read", "Let it be, and try again.")
    return digest.hexdigest()
