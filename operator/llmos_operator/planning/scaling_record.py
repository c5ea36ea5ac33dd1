"""Recorded decisions: one line of JSON each, and the same function run over them again. Pure.

A line holds everything that `plan_scaling` was given but its memory, which is opaque: instead, what a restart of the
operator would know (the capacity and the number before). So a replay begins like an operator that was restarted then:
delays begin anew with the first line, and until they have passed a replayed number may be higher than the recorded one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from llmos.api.scaling import BoundedBy, ReplicaCapacity
from llmos_operator.planning.scaling import ScalingMemory, ScalingPlan, ScalingPolicy, plan_scaling
from llmos_operator.planning.scaling_inputs import PoolSample


@dataclass(frozen=True, slots=True)
class ScalingRecord:
    """One decision with its inputs."""

    time: str
    """RFC 3339."""
    policy: ScalingPolicy
    capacity: ReplicaCapacity
    """What was known of a replica before."""
    desired_before: int
    sample: PoolSample
    desired: int
    raw: float
    bounded_by: BoundedBy
    message: str


_ADAPTER: Final = TypeAdapter(ScalingRecord)


class BadRecordError(ValueError):
    """A line that is no record; the message says which line and what is wrong."""


def write_record(record: ScalingRecord) -> bytes:
    """Return the line of a record, without its end."""
    return _ADAPTER.dump_json(record, exclude_defaults=True)


def read_records(lines: Iterable[str]) -> Iterator[ScalingRecord]:
    """Yield the records of a file; empty lines are passed over.

    Raises:
        BadRecordError: a line is none.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _ADAPTER.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "line"
            raise BadRecordError(f"line {number} is no recorded decision: {place}: {first['msg']}") from error


def replay(records: Iterable[ScalingRecord]) -> Iterator[tuple[ScalingRecord, ScalingPlan]]:
    """Yield each record with what is decided from it now. A first sample (of no length) begins a new life."""
    memory: ScalingMemory | None = None
    for record in records:
        if memory is None or record.sample.interval_s == 0:
            began_s = record.sample.now_s - record.sample.interval_s
            memory = ScalingMemory.restore(record.capacity, record.desired_before, began_s)
        plan = plan_scaling(record.policy, memory, record.sample)
        memory = plan.memory
        yield record, plan
