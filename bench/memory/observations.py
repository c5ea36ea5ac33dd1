"""Reads start-up observations and pairs each with the facts of its model.

A CSV cell may be empty, approximate ("0.12-0.13") or annotated; such a cell counts as missing. What a row must have
depends on what is scored: a row without a usable model, parallelism or GPU memory is skipped, by name and with the
reason, so that a shrinking sample is seen.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from llmos.api.architecture import ModelArchitecture, UnsupportedArchitectureError
from llmos.api.architecture_config import parse_architecture
from llmos_operator.planning.engine_profile import EngineSettings

Row = dict[str, str]
_KV_DTYPES = ("fp8", "int8")
_ONLINE_QUANTIZATION = {"fp8"}


@dataclass(frozen=True)
class Observation:
    """One start of an engine. Observed sizes in GiB for one GPU; None where the log did not say."""

    row: str
    model: str
    gpu: str
    version: str
    source: str
    architecture: ModelArchitecture
    memory_gib: float
    tensor_parallel_size: int
    pipeline_parallel_size: int
    max_model_len: int
    settings: EngineSettings
    weights_gib: float | None
    activation_gib: float | None
    non_torch_gib: float | None
    available_kv_gib: float | None
    blocks: int | None
    failed_at_tokens: int | None

    @property
    def started(self) -> bool:
        """Whether the engine reached a KV cache at the length of the row."""
        return (self.available_kv_gib or 0) > 0 and self.failed_at_tokens != self.max_model_len


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be scored, and why."""

    row: str
    model: str
    reason: str


def read_observations(observed: Path, configs: Path) -> tuple[list[Observation], list[Skipped]]:
    """All rows of the CSV, each as an observation or as skipped."""
    with observed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    architectures = _read_architectures(configs)
    memory_of_gpu = _median_memory(rows)
    results = [_read_row(row, architectures, memory_of_gpu) for row in rows]
    return (
        [result for result in results if isinstance(result, Observation)],
        [result for result in results if isinstance(result, Skipped)],
    )


def _read_architectures(configs: Path) -> dict[str, ModelArchitecture | str]:
    found: dict[str, ModelArchitecture | str] = {}
    for path in sorted(configs.glob("*.json")):
        name = path.stem.replace("--", "/", 1).lower()
        try:
            found[name] = parse_architecture(json.loads(path.read_text(encoding="utf-8")))
        except (UnsupportedArchitectureError, ValueError) as error:
            found[name] = str(error)
    return found


def _read_row(
    row: Row, architectures: dict[str, ModelArchitecture | str], memory_of_gpu: dict[str, float]
) -> Observation | Skipped:
    name, model = row.get("id") or "?", row.get("model") or "?"
    architecture = architectures.get(model.lower(), f"no config for model {model}")
    if isinstance(architecture, str):
        return Skipped(name, model, architecture)
    tensor = _integer(row, "tp")
    if tensor is None:
        return Skipped(name, model, "tensor parallel size not stated")
    memory = _memory_gib(row) or memory_of_gpu.get(row.get("gpu", ""))
    if memory is None:
        return Skipped(name, model, f"memory of GPU {row.get('gpu') or '?'} not stated")
    if not re.search(r"\d+\.\d+", row.get("vllm_version", "")):
        return Skipped(name, model, "engine version not stated")
    max_model_len = _integer(row, "max_model_len") or architecture.max_context_tokens
    return Observation(
        row=name,
        model=model,
        gpu=row.get("gpu") or "?",
        version=row["vllm_version"],
        source=row.get("source") or "",
        architecture=architecture,
        memory_gib=memory,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=_integer(row, "pp") or 1,
        max_model_len=max_model_len,
        settings=_settings(row),
        weights_gib=_number(row, "weights_gib"),
        activation_gib=_number(row, "activation_peak_gib"),
        non_torch_gib=_number(row, "non_torch_gib"),
        available_kv_gib=_number(row, "available_kv_gib"),
        blocks=_integer(row, "kv_cache_blocks"),
        failed_at_tokens=_failed_at(row, max_model_len),
    )


def _settings(row: Row) -> EngineSettings:
    notes = row.get("notes") or ""
    quantization = (row.get("quantization") or "").lower()
    kv_dtype = (row.get("kv_cache_dtype") or "auto").lower()
    return EngineSettings(
        version=row["vllm_version"],
        max_num_seqs=_note(notes, "max_num_seqs"),
        max_num_batched_tokens=_note(notes, "max_num_batched_tokens") or _note(notes, "mnbt"),
        kv_cache_dtype=kv_dtype if kv_dtype.startswith(_KV_DTYPES) else "auto",
        gpu_memory_utilization=_number(row, "gpu_memory_utilization") or 0.0,
        quantization=quantization if quantization in _ONLINE_QUANTIZATION else "",
    )


def _note(notes: str, name: str) -> int:
    match = re.search(rf"\b{name}[ =](\d+)", notes)
    return int(match[1]) if match else 0


def _failed_at(row: Row, max_model_len: int) -> int | None:
    """Length at which the engine refused to start: "FAILED at max_model_len 32000", or "FAILED" at the row's own."""
    match = re.search(r"FAILED(?:[a-z_ ]*?at[a-z_ ]*?(\d+))?", row.get("notes") or "")
    if not match:
        return None
    return int(match[1]) if match[1] else max_model_len


def _memory_gib(row: Row) -> float | None:
    total = _number(row, "gpu_total_gib")
    requested, utilization = _number(row, "requested_gib"), _number(row, "gpu_memory_utilization")
    return total or (requested / utilization if requested and utilization else None)


def _median_memory(rows: list[Row]) -> dict[str, float]:
    known: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        memory = _memory_gib(row)
        if memory:
            known[row.get("gpu", "")].append(memory)
    return {gpu: statistics.median(values) for gpu, values in known.items()}


def _number(row: Row, column: str) -> float | None:
    try:
        return float(row.get(column) or "")
    except ValueError:
        return None


def _integer(row: Row, column: str) -> int | None:
    value = _number(row, column)
    return int(value) if value is not None and value >= 1 else None
