"""What a decision looks like in status, and that a pool at rest is never written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.scaling import ReplicaCapacity, Scaling, ScalingInputs, ScalingStatus, ScalingTarget
from llmos_operator.planning.scaling import ScalingMemory, plan_scaling
from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, ReplicaSample
from llmos_operator.planning.scaling_status import (
    FIRST_WRITE_S,
    WRITE_INTERVAL_S,
    build_policy,
    build_scaling_status,
    is_worth_writing,
)

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)  # a Monday


def status(**changes: Any) -> ScalingStatus:
    return ScalingStatus(**{"desired": 2, "raw": 1.5, "since": NOW, **changes})


def test_a_policy_has_the_limits_that_hold_now_and_units_of_seconds() -> None:
    scaling = Scaling.model_validate(
        {
            "minReplicas": 0,
            "target": {"slo": {"ttftMilliseconds": 500, "tpotMilliseconds": 50}},
            "schedule": [{"name": "day", "start": "08:00", "end": "18:00", "minReplicas": 3}],
        }
    )
    day = build_policy(scaling, NOW, unschedulable_after_s=60)
    assert (day.min_replicas, day.max_replicas, day.limits_from) == (3, 8, "day")
    assert (day.ttft_s, day.tpot_s, day.queue_depth, day.utilization) == (0.5, 0.05, None, None)
    night = build_policy(scaling, NOW + timedelta(hours=12), unschedulable_after_s=60)
    assert (night.min_replicas, night.limits_from) == (0, "")


def test_a_change_of_the_desired_number_is_written_at_once() -> None:
    assert is_worth_writing(status(), status(desired=3), written_ago_s=0.0)


def test_the_first_one_is_written_when_everybody_has_been_seen() -> None:
    assert not is_worth_writing(None, status(), written_ago_s=FIRST_WRITE_S - 0.1)
    assert is_worth_writing(None, status(), written_ago_s=FIRST_WRITE_S)


@pytest.mark.parametrize(
    "changes",
    [
        {"bounded_by": "maxReplicas"},
        {"raw": 1.8},
        {"inputs": ScalingInputs(running=5)},
        {"inputs": ScalingInputs(stale=("gateway g",))},
        {"inputs": ScalingInputs(ready=1)},
        {"capacity": ReplicaCapacity(step_milliseconds=20, samples=9)},
    ],
    ids=str,
)
def test_what_a_reader_would_act_on_is_written_after_a_while(changes: dict[str, Any]) -> None:
    assert not is_worth_writing(status(), status(**changes), written_ago_s=WRITE_INTERVAL_S - 0.1)
    assert is_worth_writing(status(), status(**changes), written_ago_s=WRITE_INTERVAL_S)


@pytest.mark.parametrize(
    "changes",
    [
        {"message": "One is kept until there has been nothing to do for 600 s; it has been 17 s."},
        {"inputs": ScalingInputs(running=101)},
        {"raw": 1.55},
        {"capacity": ReplicaCapacity(step_milliseconds=20, samples=5000)},
    ],
    ids=str,
)
def test_words_that_count_seconds_and_small_moves_are_not(changes: dict[str, Any]) -> None:
    before = status(inputs=ScalingInputs(running=100)) if "inputs" in changes else status()
    if "capacity" in changes:
        before = status(capacity=ReplicaCapacity(step_milliseconds=20.5, samples=10))
    assert not is_worth_writing(before, before.model_copy(update=changes), written_ago_s=1e6)


def test_since_stays_while_the_decision_does() -> None:
    policy = build_policy(Scaling(target=ScalingTarget(queue_depth=4)), NOW, unschedulable_after_s=60)
    sample = PoolSample(0.0, 1.0, GatewaySample(running=10), (ReplicaSample("r", running=10),))
    plan = plan_scaling(policy, ScalingMemory(), sample)
    first = build_scaling_status(plan, None, NOW)
    later = build_scaling_status(plan, first, NOW + timedelta(minutes=5))
    assert (first.since, later.since) == (NOW, NOW)
    assert build_scaling_status(plan, status(desired=1), NOW + timedelta(minutes=5)).since == NOW + timedelta(minutes=5)
    assert first.desired == 3


@given(st.integers(0, 3), st.integers(0, 5), st.integers(5, 4000))
def test_a_pool_at_rest_is_written_only_while_it_settles(fewest: int, replicas: int, seconds: int) -> None:
    """Whatever it rests at: after its delays it is not written again, however long nothing happens."""
    scaling = Scaling(min_replicas=fewest, max_replicas=8, scale_down_delay_seconds=30, scale_to_zero_after_seconds=60)
    memory = ScalingMemory.restore(ReplicaCapacity(), replicas, 0.0)
    written, written_s = None, -1e9
    late_writes = 0
    for second in range(min(seconds, 400)):
        policy = build_policy(scaling, NOW, unschedulable_after_s=60)
        count = replicas if written is None else written.desired
        told = tuple(ReplicaSample(f"r{n}") for n in range(count))
        plan = plan_scaling(policy, memory, PoolSample(float(second), 1.0 if second else 0.0, GatewaySample(), told))
        memory = plan.memory
        current = build_scaling_status(plan, written, NOW)
        if is_worth_writing(written, current, second - written_s):
            written, written_s = current, float(second)
            late_writes += second > 120
    assert late_writes == 0
