"""Constraints that many fields of a FineTuneJob share."""

from __future__ import annotations

from typing import Any, Final

from tests.integration.crds.constraints.case import Case, longest_text, reference

JOB: Final = "FineTuneJob"
_URI_SAYS: Final = "the URI must start with one of"


def job_source(path: str) -> list[Case]:
    """Where something comes from."""
    return [
        Case(JOB, path, "required:uri", {"uri": "hf://a/b"}, {"uri": None}),
        Case(JOB, f"{path}.uri", "maxLength", "hf://" + "a" * 1019, "hf://" + "a" * 1020),
        Case(JOB, f"{path}.uri", "rule", "pvc://claim/set", "file:///etc/passwd", says=_URI_SAYS),
        Case(JOB, f"{path}.secretRef", "required:name", {"name": "token"}, {}),
        *reference(JOB, f"{path}.secretRef.name"),
    ]


def share(path: str, highest: float = 1) -> list[Case]:
    """A number from 0 up."""
    return [Case(JOB, path, "minimum", 0, -0.1), Case(JOB, path, "maximum", highest, highest + 0.1)]


def above_zero(path: str, highest: int) -> list[Case]:
    """A number that is more than 0."""
    return [Case(JOB, path, "exclusiveMinimum", 0.001, 0), Case(JOB, path, "maximum", highest, highest + 1)]


def below_one(path: str) -> list[Case]:
    """A share that is not the whole."""
    return [Case(JOB, path, "minimum", 0, -0.1), Case(JOB, path, "exclusiveMaximum", 0.99, 1)]


def column(name: str, of: str = "spec.dataset.format") -> list[Case]:
    """The name of a column."""
    path = f"{of}.columns.{name}"
    return [longest_text(JOB, path, 128), Case(JOB, path, "minLength", "a", "")]


COLUMNS: Final = ("messages", "prompt", "completion", "text", "tokens", "labels", "label", "chosen", "rejected")
COLUMNS_OF_PAIRS: Final = ("anchor", "positive")


def of_task(task: str, form: str, *metrics: str) -> dict[str, Any]:
    """What a job of a task says of it."""
    suites = [{"name": "suite", "metrics": list(metrics)}] if metrics else []
    return {"method": {"task": task}, "dataset": {"format": {"type": form}}, "evaluate": {"suites": suites}}
