"""What a scaling decision looks like in status, and when it is worth a write. Pure.

The decision is made each second; status is for people and for the operator's next life. So it is written at once when
the desired number changes, and otherwise only when something that a reader would act on moved, at most once in
`WRITE_INTERVAL_S`. A pool at rest is never written: its figures do not move, and words that count seconds are no
reason.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from llmos.api.scaling import ReplicaCapacity, Scaling, ScalingInputs, ScalingStatus
from llmos_operator.planning.scaling import ScalingPlan, ScalingPolicy
from llmos_operator.planning.schedule import find_limits

WRITE_INTERVAL_S: Final = 10.0
FIRST_WRITE_S: Final = 3.0
"""By then everybody who should tell of a new pool has done so twice."""
MATERIAL_SHARE: Final = 0.1
"""A figure that moved by less of itself is as it was."""
MATERIAL_COUNT: Final = 1.0
"""Nor does a reader care for less than one request, or one token a second."""


def build_policy(scaling: Scaling, now: datetime, *, unschedulable_after_s: float) -> ScalingPolicy:
    """Return what the pool asks for at `now`."""
    limits = find_limits(scaling, now)
    slo = scaling.target.slo
    return ScalingPolicy(
        min_replicas=limits.min_replicas,
        max_replicas=limits.max_replicas,
        queue_depth=scaling.target.queue_depth,
        utilization=scaling.target.utilization,
        ttft_s=slo.ttft_milliseconds / 1000 if slo and slo.ttft_milliseconds else None,
        tpot_s=slo.tpot_milliseconds / 1000 if slo and slo.tpot_milliseconds else None,
        scale_down_delay_s=scaling.scale_down_delay_seconds,
        scale_to_zero_after_s=scaling.scale_to_zero_after_seconds,
        limits_from=limits.window,
        unschedulable_after_s=unschedulable_after_s,
    )


def build_scaling_status(plan: ScalingPlan, before: ScalingStatus | None, now: datetime) -> ScalingStatus:
    """Return the status of a decision; `since` stays that of `before` while the decision does."""
    is_same = before is not None and (before.desired, before.bounded_by) == (plan.desired, plan.bounded_by)
    since = before.since if before is not None and is_same else None
    return ScalingStatus(
        desired=plan.desired,
        raw=round(plan.raw, 2),
        bounded_by=plan.bounded_by,
        message=plan.message,
        since=since or now.replace(microsecond=0),
        inputs=plan.inputs,
        demands=plan.demands,
        capacity=plan.memory.capacity,
    )


def is_worth_writing(before: ScalingStatus | None, after: ScalingStatus, written_ago_s: float) -> bool:
    """Whether status should be written anew, `written_ago_s` after the last time or after the first look."""
    if before is None:
        return written_ago_s >= FIRST_WRITE_S
    if before.desired != after.desired:
        return True
    return written_ago_s >= WRITE_INTERVAL_S and _is_material(before, after)


def _is_material(before: ScalingStatus, after: ScalingStatus) -> bool:
    return (
        before.bounded_by != after.bounded_by
        or before.inputs.stale != after.inputs.stale
        or _has_moved(before.raw, after.raw, least=0.1)
        or _have_moved(before.inputs, after.inputs)
        or _has_learned(before.capacity, after.capacity)
    )


def _have_moved(before: ScalingInputs, after: ScalingInputs) -> bool:
    if (before.ready, before.starting) != (after.ready, after.starting):
        return True
    return any(
        _has_moved(float(getattr(before, name)), float(getattr(after, name)), least=MATERIAL_COUNT)
        for name in (
            "queued",
            "running",
            "arrivals_per_second",
            "prompt_tokens_per_second",
            "generation_tokens_per_second",
        )
    )


def _has_learned(before: ReplicaCapacity, after: ReplicaCapacity) -> bool:
    if before.revision != after.revision:
        return True
    return any(
        _has_moved(float(getattr(before, name)), float(getattr(after, name)), least=0.0)
        for name in ReplicaCapacity.model_fields
        if name not in {"revision", "samples"}
    )


def _has_moved(before: float, after: float, *, least: float) -> bool:
    """Whether a figure moved by what a reader would care for. Whether there is anything at all always matters."""
    if (before > 0) != (after > 0):
        return True
    return abs(after - before) > max(least, MATERIAL_SHARE * max(before, after))
