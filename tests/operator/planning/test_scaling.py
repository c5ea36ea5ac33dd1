"""The autoscaler's decision: stories, and what holds for any input."""

from __future__ import annotations

import math
import sys
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api.scaling import ReplicaCapacity, ScalingStatus
from llmos_operator.planning.scaling import ScalingMemory, ScalingPolicy, plan_scaling
from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, ReplicaSample, StartingReplica
from tests.operator.planning.scaling_pools import (
    POLICIES,
    QUEUE_POLICY,
    SLO_POLICY,
    USE_POLICY,
    Pool,
    engine_second,
    policies,
    samples,
)


def test_a_step_of_sixteen_requests_orders_four_replicas_at_once_and_never_more() -> None:
    pool = Pool()
    pool.seconds(10)
    desired = pool.follow(120, load=16, start_s=3.0)
    assert desired[:3] == [4, 4, 4]
    assert set(desired) == {4}


def test_after_the_load_stops_the_pool_is_back_within_the_delay_and_ten_seconds() -> None:
    pool = Pool(ready=4)
    pool.seconds(60, load=16)
    desired = pool.seconds(70)
    assert desired[59] == 4, "fewer must have sufficed for the whole delay"
    assert desired[69] == 1
    assert pool.plans[100].bounded_by == "scaleDownDelay"
    assert pool.plans[-1].bounded_by == "minReplicas"


def test_the_first_request_wakes_a_pool_that_sleeps() -> None:
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0), ready=0)
    assert pool.second().desired == 0
    assert pool.second(load=1).desired == 1


def test_a_pool_sleeps_only_after_it_had_nothing_to_do_for_long_enough() -> None:
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0))
    pool.second(load=1)
    desired = pool.seconds(310)
    assert desired[298] == 1
    assert desired[301] == 0
    assert pool.plans[200].bounded_by == "scaleToZeroDelay"
    assert "nothing to do for 300 s" in pool.plans[200].message


def test_without_a_gateway_a_pool_does_not_sleep_because_nothing_could_wake_it() -> None:
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0))
    assert set(pool.seconds(1000, gateway=None)) == {1}
    assert "no gateway" in pool.plans[-1].message


def test_more_than_the_limit_is_not_asked_for_and_the_message_says_whose_limit() -> None:
    pool = Pool(replace(QUEUE_POLICY, max_replicas=2, limits_from="night"))
    plan = pool.second(load=16)
    assert (plan.desired, plan.raw, plan.bounded_by) == (2, 4.0, "schedule")
    assert "schedule window night says at most 2" in plan.message


def test_the_number_of_an_earlier_life_is_held_for_the_delay() -> None:
    pool = Pool(memory=ScalingMemory.restore(ReplicaCapacity(), 5, 0.0), ready=5)
    desired = pool.seconds(70)
    assert desired[:59] == [5] * 59
    assert desired[-1] == 1


def test_a_pool_seen_for_the_first_time_keeps_its_replicas_for_the_delay() -> None:
    pool = Pool(ready=3)
    desired = pool.seconds(70)
    assert desired[:59] == [3] * 59
    assert desired[-1] == 1


def busy_pool(policy: ScalingPolicy, seconds: int = 200) -> Pool:
    """One replica whose batch changes, so that everything can be learned of it."""
    pool = Pool(policy)
    for second in range(seconds):
        replica = engine_second("r0", running=4 + second * 7 % 30, prompt_tokens=second * 997 % 4000)
        gateway = GatewaySample(
            running=replica.running,
            arrivals=4,
            arrived_prompt_tokens=2000,
            finished=4,
            completion_tokens=replica.generation_tokens,
        )
        pool.feed(PoolSample(pool.now_s, 1.0, gateway, (replica,)))
    return pool


def test_the_step_model_is_learned_from_what_the_engine_counts() -> None:
    capacity = busy_pool(SLO_POLICY).memory.capacity
    assert capacity.step_milliseconds == pytest.approx(10, rel=0.1)
    assert capacity.milliseconds_per_sequence == pytest.approx(0.2, rel=0.2)
    assert capacity.milliseconds_per_prompt_token == pytest.approx(0.05, rel=0.1)
    assert capacity.samples >= 190


def test_the_step_model_is_learned_without_a_counter_of_steps_too() -> None:
    pool = Pool(SLO_POLICY)
    for second in range(300):
        replica = replace(engine_second("r0", running=4 + second * 7 % 30, prompt_tokens=second * 997 % 4000), steps=0)
        pool.feed(PoolSample(pool.now_s, 1.0, GatewaySample(running=replica.running, arrivals=1), (replica,)))
    assert pool.memory.capacity.step_milliseconds == pytest.approx(10, rel=0.15)
    assert pool.memory.capacity.milliseconds_per_prompt_token == pytest.approx(0.05, rel=0.15)


def test_what_was_learned_survives_a_restart() -> None:
    capacity = busy_pool(SLO_POLICY).memory.capacity
    restored = ScalingMemory.restore(capacity, 1, 0.0).capacity
    for name in ("step_milliseconds", "milliseconds_per_sequence", "milliseconds_per_prompt_token", "samples"):
        assert getattr(restored, name) == pytest.approx(getattr(capacity, name), rel=0.01), name


def test_twice_the_traffic_asks_for_about_twice_the_replicas() -> None:
    def ask(arrivals: int) -> float:
        pool, waiting = busy_pool(USE_POLICY), 0
        for _ in range(60):
            # What one replica cannot do waits.
            waiting += arrivals - 2
            replica = engine_second("r0", running=30, prompt_tokens=2000, waiting=waiting)
            gateway = GatewaySample(
                running=30,
                arrivals=arrivals,
                arrived_prompt_tokens=1000 * arrivals,
                finished=4,
                completion_tokens=800,
            )
            pool.feed(PoolSample(pool.now_s, 1.0, gateway, (replica,)))
        return next(demand.replicas for demand in pool.plans[-1].demands if demand.name == "work")

    assert ask(40) == pytest.approx(2 * ask(20), rel=0.1)


def test_a_pool_whose_traffic_comes_past_the_gateways_grows_with_its_requests() -> None:
    pool = busy_pool(USE_POLICY)
    for _ in range(60):
        replica = engine_second("r0", running=60, prompt_tokens=4000, waiting=140)
        plan = pool.feed(PoolSample(pool.now_s, 1.0, GatewaySample(), (replica,)))
    assert plan.desired >= 6
    assert "past the gateways" in plan.message


def test_seconds_in_which_no_gateway_tells_are_not_taken_for_quiet_ones() -> None:
    pool = busy_pool(USE_POLICY)
    before = pool.plans[-1].inputs
    for _ in range(20):
        pool.feed(PoolSample(pool.now_s, 1.0, None, (engine_second("r0", running=9),), stale=("gateway-0",)))
    assert pool.plans[-1].inputs.arrivals_per_second == before.arrivals_per_second


def test_a_latency_that_no_number_of_replicas_can_hold_is_said() -> None:
    plan = busy_pool(replace(SLO_POLICY, tpot_s=0.005)).plans[-1]
    assert any("5 ms cannot be held by any number" in demand.message for demand in plan.demands)
    assert plan.desired <= 2


def test_before_anything_is_measured_requests_are_counted() -> None:
    plan = Pool(SLO_POLICY).second(load=100)
    assert plan.desired == 4
    assert plan.demands[0].name == "bootstrap"


def test_the_plan_fits_into_status() -> None:
    plan = busy_pool(SLO_POLICY).plans[-1]
    status = ScalingStatus(
        desired=plan.desired,
        raw=plan.raw,
        bounded_by=plan.bounded_by,
        message=plan.message,
        inputs=plan.inputs,
        demands=plan.demands,
        capacity=plan.memory.capacity,
    )
    assert ScalingStatus.model_validate_json(status.model_dump_json()) == status


def feed_all(policy: ScalingPolicy, story: list[PoolSample]) -> Pool:
    pool = Pool(policy)
    for sample in story:
        pool.feed(replace(sample, now_s=pool.now_s))
    return pool


@given(policies(), st.lists(samples(), max_size=12))
def test_the_number_is_always_within_the_limits_and_every_figure_is_a_number(
    policy: ScalingPolicy, story: list[PoolSample]
) -> None:
    for plan in feed_all(policy, story).plans:
        assert policy.min_replicas <= plan.desired <= policy.max_replicas
        assert math.isfinite(plan.raw)
        assert all(math.isfinite(demand.replicas) for demand in plan.demands)
        assert plan.message
        dump = plan.memory.capacity.model_dump()
        assert all(math.isfinite(value) for value in dump.values() if isinstance(value, float))


@given(policies(), st.lists(samples(), max_size=8), samples(is_complete=True), st.integers(1, 5000))
def test_more_that_waits_never_gives_fewer(
    policy: ScalingPolicy, story: list[PoolSample], last: PoolSample, more: int
) -> None:
    memory = feed_all(policy, story).memory
    assert last.gateway is not None
    longer = replace(last.gateway, queued=last.gateway.queued + more)
    less = plan_scaling(policy, memory, replace(last, now_s=100.0))
    greater = plan_scaling(policy, memory, replace(last, now_s=100.0, gateway=longer))
    assert greater.desired >= less.desired


@given(policies(), st.lists(samples(is_complete=True), min_size=1, max_size=8), samples())
def test_missing_figures_never_lower_the_number(
    policy: ScalingPolicy, story: list[PoolSample], last: PoolSample
) -> None:
    policy = replace(policy, unschedulable_after_s=1e9)
    pool = feed_all(policy, story)
    before = pool.plans[-1].desired
    plan = pool.feed(replace(last, now_s=pool.now_s, stale=("gateway-1",)))
    assert plan.desired >= before
    assert "gateway-1" in plan.inputs.stale


@settings(max_examples=20)
@given(policies(), st.lists(samples(), max_size=10))
def test_an_idle_pool_is_at_its_minimum_in_bounded_time(policy: ScalingPolicy, story: list[PoolSample]) -> None:
    pool = feed_all(policy, story)
    for _ in range(800):
        sample = PoolSample(pool.now_s, 1.0, GatewaySample(), (ReplicaSample("r0"), ReplicaSample("r1")))
        plan = pool.feed(sample)
    assert plan.desired == policy.min_replicas


@settings(max_examples=20)
@given(st.sampled_from(POLICIES), st.integers(1, 60), st.integers(0, 4000))
def test_steady_load_leaves_the_number_alone(policy: ScalingPolicy, running: int, prompt_tokens: int) -> None:
    pool = Pool(policy)
    for _ in range(400):
        replica = engine_second("r0", running=running, prompt_tokens=prompt_tokens)
        arrived = GatewaySample(
            running=running,
            arrivals=2,
            arrived_prompt_tokens=prompt_tokens,
            finished=2,
            completion_tokens=replica.generation_tokens,
        )
        pool.feed(PoolSample(pool.now_s, 1.0, arrived, (replica,)))
    late = [plan.desired for plan in pool.plans[150:]]
    assert sum(a != b for a, b in pairwise(late)) <= 1


@given(st.sampled_from(POLICIES), st.lists(samples(), max_size=10))
def test_the_same_inputs_give_the_same_plan(policy: ScalingPolicy, story: list[PoolSample]) -> None:
    first, second = (feed_all(policy, story).plans for _ in range(2))
    assert [plan.desired for plan in first] == [plan.desired for plan in second]
    assert [plan.message for plan in first] == [plan.message for plan in second]


def count_values(value: object) -> int:
    if is_dataclass(value):
        return sum(count_values(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, tuple | frozenset):
        return sum(map(count_values, value))
    return 1


@pytest.mark.parametrize("policy", POLICIES)
def test_the_memory_does_not_grow_with_time(policy: ScalingPolicy) -> None:
    pool = busy_pool(replace(policy, scale_down_delay_s=86_400.0), 1000)
    at_first = count_values(pool.memory)
    for second in range(2000):
        replica = engine_second("r0", running=1 + second % 50, prompt_tokens=second % 3000)
        gateway = GatewaySample(running=second % 90, arrivals=second % 7, arrived_prompt_tokens=100)
        pool.feed(PoolSample(pool.now_s, 1.0, gateway, (replica,), started_s=(30.0,)))
    assert count_values(pool.memory) <= at_first + 50
    assert sys.getsizeof(pool.memory) < 1000


def test_stuck_replicas_count_as_coming_supply_and_then_the_surplus_is_withdrawn() -> None:
    pool = Pool(ready=2)
    stuck = tuple(StartingReplica(f"s{i}", 10.0, is_stuck=True) for i in range(2))
    desired = pool.seconds(62, load=16, starting=stuck)
    assert desired[:60] == [4] * 60
    assert desired[-1] == 2
    assert pool.plans[-1].bounded_by == "unschedulable"
    assert "found no place" in pool.plans[-1].message


def test_after_a_back_off_one_more_is_tried_and_when_it_finds_a_place_all_are() -> None:
    pool = Pool(ready=2)
    stuck = tuple(StartingReplica(f"s{i}", 10.0, is_stuck=True) for i in range(2))
    pool.seconds(62, load=16, starting=stuck)
    desired = pool.seconds(60, load=16)
    assert desired[0] == 2
    assert desired[-1] == 3
    pool.ready = 3
    assert pool.second(load=16).desired == 4


def test_each_try_that_fails_doubles_the_wait_for_the_next() -> None:
    pool = Pool(ready=2)
    tries = []
    for second in range(3000):
        desired = pool.plans[-1].desired if pool.plans else 4
        stuck = tuple(StartingReplica(f"s{i}", 70.0, is_stuck=True) for i in range(desired - 2))
        before = desired
        if pool.second(load=16, starting=stuck).desired > before:
            tries.append(second)
    gaps = [late - early for early, late in pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[0] < 200
    assert gaps[-1] > 500


def test_a_replica_that_goes_frees_a_place_and_one_is_tried_at_once() -> None:
    pool = Pool(ready=3)
    stuck = (StartingReplica("s0", 10.0, is_stuck=True),)
    pool.seconds(62, load=16, starting=stuck)
    assert pool.second(load=16).desired == 3
    pool.ready = 2
    assert pool.second(load=16).desired == 4


def test_a_pool_without_room_still_shrinks() -> None:
    pool = Pool(ready=3)
    pool.seconds(62, load=32, starting=(StartingReplica("s0", 10.0, is_stuck=True),))
    assert pool.plans[-1].desired == 3
    assert pool.seconds(70, load=1)[-1] == 1


def test_a_pool_with_work_and_no_room_keeps_one_in_line() -> None:
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0), ready=0)
    desired = pool.seconds(300, load=30, starting=(StartingReplica("s0", 10.0, is_stuck=True),))
    assert desired[-1] == 1
    assert pool.plans[-1].bounded_by == "unschedulable"


def test_under_a_quota_no_more_than_one_beyond_those_admitted_is_asked_for() -> None:
    pool = Pool(ready=2)
    plan = pool.second(load=40, has_quota=True)
    assert (plan.desired, plan.bounded_by) == (3, "quota")
    waiting = (StartingReplica("w0", 5.0, is_gated=True),)
    for _ in range(5):
        plan = pool.second(load=40, has_quota=True, starting=waiting)
        assert (plan.desired, plan.bounded_by) == (3, "quota"), "who waits is not ordered again, and no others with it"
    assert "3 instead: the quota admits one after the other, and 1 of them waits" in plan.message
    assert plan.inputs.starting == 0
    admitted = (StartingReplica("w0", 5.0),)
    assert pool.second(load=40, has_quota=True, starting=admitted).desired == 4


def test_a_quota_never_keeps_a_pool_from_its_minimum_or_from_shrinking() -> None:
    pool = Pool(replace(QUEUE_POLICY, min_replicas=3), ready=0)
    assert pool.second(has_quota=True).desired == 3
    pool = Pool(ready=4)
    assert pool.seconds(70, has_quota=True)[-1] == 1


@settings(max_examples=300, deadline=None)
@given(policies(), st.lists(samples(), min_size=1, max_size=8))
def test_a_quota_only_ever_lowers_what_is_asked_for_beyond_the_minimum(
    policy: ScalingPolicy, seen: list[PoolSample]
) -> None:
    memory = ScalingMemory()
    for second, sample in enumerate(seen):
        plan = plan_scaling(policy, memory, replace(sample, now_s=float(second), has_quota=True))
        admitted = len(sample.replicas) + sample.silent + sum(not each.is_gated for each in sample.starting)
        assert plan.desired <= max(policy.min_replicas, admitted + 1)
        memory = plan.memory
