"""`llmos replay FILE`: recorded samples once more through the function that the operator runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.client.errors import InvalidError
from llmos_operator.planning.scaling import ScalingPlan
from llmos_operator.planning.scaling_record import BadRecordError, ScalingRecord, read_records, replay


@dataclass(frozen=True)
class Step:
    """One recorded second and what is decided from it now."""

    record: ScalingRecord
    plan: ScalingPlan

    @property
    def differs(self) -> bool:
        """Whether another number was recorded."""
        return self.plan.desired != self.record.desired

    def as_json(self) -> dict[str, Any]:
        """The step for programs."""
        return {
            "time": self.record.time,
            "desired": self.plan.desired,
            "raw": round(self.plan.raw, 3),
            "boundedBy": self.plan.bounded_by,
            "message": self.plan.message,
            "recorded": self.record.desired,
            "inputs": self.plan.inputs.to_manifest(),
        }


def run_replay(path: Path, *, show_all: bool, as_json: bool) -> None:
    """Print each decision, or only those that changed.

    Raises:
        InvalidError: the file holds something else.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            steps = [Step(record, plan) for record, plan in replay(read_records(lines))]
    except (BadRecordError, UnicodeDecodeError) as error:
        raise InvalidError(
            f"{path}: {error}.", "Give a file that was written by: llmos why POOL --samples FILE."
        ) from error
    shown = steps if show_all else list(_changes(steps))
    for step in shown:
        print(json.dumps(step.as_json()) if as_json else draw_step(step))
    if not as_json:
        print(_summarize(steps))


def _changes(steps: Iterable[Step]) -> Iterator[Step]:
    before: tuple[int, str, bool] | None = None
    for step in steps:
        now = (step.plan.desired, step.plan.bounded_by, step.differs)
        if now != before:
            yield step
        before = now


def draw_step(step: Step) -> str:
    """One line: when, what was seen, what is decided, and why."""
    inputs, plan = step.plan.inputs, step.plan
    bound = f" [{plan.bounded_by}]" if plan.bounded_by else ""
    recorded = f" (recorded: {step.record.desired})" if step.differs else ""
    return (
        f"{step.record.time}  queued {inputs.queued}, running {inputs.running}, ready {inputs.ready}  ->  "
        f"{plan.desired}{bound}{recorded}: {plan.message}"
    )


def _summarize(steps: list[Step]) -> str:
    if not steps:
        return "There are no decisions in the file."
    different = sum(step.differs for step in steps)
    said = f"{different} differ from what was recorded" if different else "all as they were recorded"
    hint = "; what was remembered before the first line is not in the file" if different else ""
    return f"{len(steps)} decisions, {said}{hint}."
