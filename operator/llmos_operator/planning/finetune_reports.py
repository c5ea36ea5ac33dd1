"""What the pods of a FineTuneJob say: termination messages and progress lines, read with care. Pure.

A worker is a program that reads data of strangers: what it says is validated, numbers that are none are dropped, and
what cannot be read counts as not said.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from llmos.api import CheckpointStatus, DatasetReport, MetricComparison, TrainingMetrics, TrainingProgress
from llmos.api.meta import ApiModel
from llmos_operator.planning.failures import read_time

JsonObject = Mapping[str, Any]
Model = TypeVar("Model", bound=ApiModel)
Outcome = Literal["prepared", "complete", "stopped", "failed", ""]

_OUTCOMES = {"prepared", "complete", "stopped"}
_MOST_METRICS = 64
_LONGEST_DIGEST = 128
_LONGEST_TROUBLE = 1000
_LARGEST_NUMBER = 2**53


@dataclass(frozen=True)
class TrainReport:
    """How far an attempt is, or was. None means that it did not say."""

    progress: TrainingProgress | None = None
    evaluations: tuple[TrainingMetrics, ...] = ()
    """The last ones on the way."""
    last_checkpoint: CheckpointStatus | None = None
    lost_accelerator_seconds: float | None = None
    is_evaluating: bool = False
    active_at: datetime | None = None
    """When the worker last did something, by the clock of its node."""
    metrics: tuple[MetricComparison, ...] = ()
    output_digest: str = ""
    storage_trouble: str = ""
    """What is wrong with the object store, with the remedy."""
    checkpoint_trouble: str = ""
    """Why the last checkpoint could not be written, with the remedy."""


@dataclass(frozen=True)
class Message:
    """A termination message; `outcome` is empty if it is none."""

    outcome: Outcome = ""
    train: TrainReport = TrainReport()
    dataset: DatasetReport | None = None


def read_message(text: str) -> Message:
    """Read the termination message of a prepare or train container."""
    data = _read_object(text)
    if data is None:
        return Message()
    outcome: Outcome = data["outcome"] if data.get("outcome") in _OUTCOMES else ""
    if not outcome and "reason" in data:
        outcome = "failed"
    return Message(outcome, _read_report(data), _read(DatasetReport, data.get("report")))


def read_progress_line(log: str) -> TrainReport | None:
    """Return the newest progress line among the last lines of a train pod's log, None if there is none."""
    for line in reversed(log.splitlines()):
        data = _read_object(line)
        if data is not None and _is_progress(data):
            return _read_report(data)
    return None


def is_progress_line(line: str) -> bool:
    """Whether a line of a log is for the operator, not for people."""
    data = _read_object(line)
    return data is not None and _is_progress(data)


def _is_progress(data: JsonObject) -> bool:
    return data.get("event") == "progress"


def _read_report(data: JsonObject) -> TrainReport:
    evaluation, output = _as_object(data.get("evaluation")), _as_object(data.get("output"))
    digest = output.get("digest")
    progress = _read(TrainingProgress, data.get("progress"))
    return TrainReport(
        progress=_with_display(progress) if progress else None,
        evaluations=_read_all(TrainingMetrics, data.get("evaluations")),
        last_checkpoint=_read(CheckpointStatus, data.get("lastCheckpoint")),
        lost_accelerator_seconds=_read_seconds(data.get("lostAcceleratorSeconds")),
        is_evaluating=data.get("phase") == "evaluating",
        active_at=_read_moment(data.get("activeAt")),
        metrics=_read_all(MetricComparison, evaluation.get("metrics")),
        output_digest=digest[:_LONGEST_DIGEST] if isinstance(digest, str) else "",
        storage_trouble=_read_trouble(data, "storageTrouble"),
        checkpoint_trouble=_read_trouble(data, "checkpointTrouble"),
    )


def _with_display(progress: TrainingProgress) -> TrainingProgress:
    if progress.display or not progress.total_steps:
        return progress
    return progress.model_copy(update={"display": f"{progress.step}/{progress.total_steps}"})


def _read_seconds(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return round(float(value), 3) if is_number and value >= 0 else None  # type: ignore[arg-type, operator]


def _read_trouble(data: JsonObject, name: str) -> str:
    words = data.get(name)
    return words[:_LONGEST_TROUBLE] if isinstance(words, str) else ""


def _read_moment(value: object) -> datetime | None:
    return read_time(value) if isinstance(value, str) else None


def _as_object(value: object) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _read(model: type[Model], data: object) -> Model | None:
    try:
        return model.model_validate(data) if isinstance(data, Mapping) else None
    except ValidationError:
        return None


def _read_all(model: type[Model], data: object) -> tuple[Model, ...]:
    found = (_read(model, item) for item in data) if isinstance(data, list) else ()
    return tuple(each for each in found if each is not None)[:_MOST_METRICS]


def _read_object(text: str) -> JsonObject | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _without_nonsense(data) if isinstance(data, dict) else None


def _without_nonsense(value: Any) -> Any:
    """Return the value without numbers that are infinite, too large or none: the API server takes none of them."""
    if isinstance(value, dict):
        return {key: _without_nonsense(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nonsense(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if isinstance(value, int) and abs(value) > _LARGEST_NUMBER else value
