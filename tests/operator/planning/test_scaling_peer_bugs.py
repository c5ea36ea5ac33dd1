"""Faults that autoscalers of other serving systems have or had; each is named, and is told here of ours.

The classes were collected from the sources and issues of KubeAI, AIBrix, llm-d, Dynamo, KEDA, OME and Knative.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample, ReplicaSample, StartingReplica
from tests.operator.planning.scaling_pools import QUEUE_POLICY, SLO_POLICY, USE_POLICY, Pool, engine_second


def test_mean_and_sum_are_not_confused_a_demand_of_six_replicas_asks_for_six() -> None:
    """AIBrix KPA divides a mean for each pod by a target for the pool, and stops at 2 of 6."""
    pool = Pool()
    assert pool.follow(60, load=24, start_s=5.0)[-1] == 6


def test_overload_never_shrinks_a_pool() -> None:
    """AIBrix KPA shrinks 8 pods to 2 under the same overload."""
    pool = Pool(ready=8)
    assert set(pool.seconds(400, load=32)) == {8}


def test_a_missing_figure_is_not_read_as_zero() -> None:
    """A scrape that fails looks like an idle pool to whoever reads it as 0."""
    pool = Pool(ready=4)
    pool.seconds(10, load=16)
    desired = pool.seconds(600, gateway=None, replicas=(), silent=4, stale=("gateway-0",))
    assert set(desired) == {4}
    assert pool.plans[-1].bounded_by == "staleInputs"


def test_a_missing_figure_does_not_hide_that_more_is_needed() -> None:
    """KubeAI skips its whole turn if one of its replicas cannot be scraped."""
    pool = Pool(ready=1)
    pool.seconds(5, load=1)
    assert pool.second(load=16, silent=1, stale=("r9",)).desired == 4


def test_now_and_then_a_missing_figure_does_not_keep_a_pool_large_for_ever() -> None:
    pool = Pool(ready=4)
    pool.seconds(10, load=16)
    for _ in range(12):
        pool.seconds(9)
        pool.second(stale=("gateway-0",))
    assert pool.plans[-1].desired == 1


def test_no_traffic_at_all_is_a_number_and_the_pool_shrinks() -> None:
    """Dynamo's throughput planner divides by no requests, gets NaN, and skips its turn."""
    for policy in (QUEUE_POLICY, USE_POLICY, SLO_POLICY):
        pool = Pool(policy, ready=8)
        pool.seconds(30, load=100)
        assert pool.seconds(800)[-1] == 1


def test_without_any_load_nothing_grows() -> None:
    """WVA grew at each turn without load (llm-d #380)."""
    for policy in (QUEUE_POLICY, USE_POLICY, SLO_POLICY):
        assert set(Pool(policy, ready=1).seconds(600)) == {1}


def test_replicas_that_start_are_not_ordered_again() -> None:
    """AIBrix and others multiply the present number, starting ones included: 2, 4, 8, 16."""
    for policy in (QUEUE_POLICY, USE_POLICY, SLO_POLICY):
        pool = Pool(replace(policy, max_replicas=100), ready=2)
        pool.seconds(5, load=16)
        ordered = pool.plans[-1].desired
        for age in range(300):
            starting = tuple(StartingReplica(f"s{i}", float(age)) for i in range(max(0, ordered - 2)))
            assert pool.second(load=16, starting=starting).desired <= ordered


def test_a_replica_that_starts_slowly_does_not_freeze_the_pool() -> None:
    """Dynamo's planner waits for a pending pod and never shrinks again."""
    pool = Pool(ready=3)
    pool.seconds(10, load=16)
    assert pool.seconds(90, load=1, starting=(StartingReplica("s0", 1000.0),))[-1] == 1
    pool.seconds(10, load=24, starting=(StartingReplica("s0", 1000.0),))
    assert pool.plans[-1].desired == 6, "and it grows, too"


def test_the_window_is_short_enough_for_a_step_of_load() -> None:
    """KubeAI takes the mean of ten minutes: a step from 1 to 4 replicas' worth is followed after 460 s."""
    pool = Pool()
    pool.seconds(600, load=1)
    assert pool.seconds(3, load=16)[-1] == 4


def test_one_request_does_not_hold_a_replica_for_ten_minutes() -> None:
    """KubeAI: one request of 10 s keeps a GPU for 640 s although its delay is 30 s."""
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0, scale_down_delay_s=30.0, scale_to_zero_after_s=30.0))
    pool.seconds(10, load=1)
    assert pool.seconds(40)[-1] == 0


def test_stabilisation_takes_the_greatest_of_the_delay() -> None:
    """AIBrix takes the least: 8 replicas, wants 2 once and 8 else, and goes to 2."""
    pool = Pool(replace(QUEUE_POLICY, scale_down_delay_s=300.0), ready=8)
    pool.second(load=8)
    pool.seconds(190, load=32)
    assert set(pool.seconds(100, load=28)) == {8}


def test_traffic_of_adapters_counts_because_the_sample_is_of_the_pool() -> None:
    """KubeAI's metric carries the adapter's name and is then looked up by the model's."""
    pool = Pool()
    sample = PoolSample(0.0, 1.0, GatewaySample(running=16), (ReplicaSample("r0", running=16),))
    assert pool.feed(sample).desired == 4


def test_traffic_that_bypasses_the_gateway_counts() -> None:
    """KubeAI #405."""
    pool = Pool()
    desired = [
        pool.feed(PoolSample(pool.now_s, 1.0, GatewaySample(), (ReplicaSample("r0", running=16),))).desired
        for _ in range(3)
    ]
    assert desired[-1] == 4


def test_a_request_seen_twice_while_it_moves_does_not_order_replicas() -> None:
    """The engine already runs what the gateway, read a moment before, still holds."""
    pool = Pool()
    pool.second()
    gateway = GatewaySample(queued=16)
    assert pool.feed(PoolSample(pool.now_s, 1.0, gateway, (ReplicaSample("r0", running=16),))).desired == 4


def test_a_sleeping_pool_keeps_the_signal_that_wakes_it() -> None:
    """Where the signal is the engine's own metric, zero replicas have none, and nothing wakes them (AIBrix #476)."""
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0), ready=0)
    pool.seconds(1000)
    assert pool.second(load=1).desired == 1


def test_zero_to_one_to_zero_does_not_flap() -> None:
    """KubeAI #67."""
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0, scale_to_zero_after_s=60.0), ready=0)
    for second in range(600):
        pool.second(load=1 if second % 30 < 2 else 0)
    desired = [plan.desired for plan in pool.plans]
    assert sum(a != b for a, b in pairwise(desired)) == 0
    assert set(desired) == {1}


def test_a_budget_of_nothing_is_a_budget() -> None:
    """Dynamo's budget was silently off; a limit of 0, as a schedule may set it, holds here."""
    pool = Pool(replace(QUEUE_POLICY, min_replicas=0, max_replicas=0, limits_from="night"), ready=0)
    plan = pool.second(load=100)
    assert (plan.desired, plan.bounded_by) == (0, "schedule")


def test_a_hundred_tokens_a_second_are_not_a_replica() -> None:
    """production-stack asks for 20 replicas for 4 streams at 30 tokens/s and 2,000 prompt tokens/s."""
    pool = Pool(USE_POLICY)
    for second in range(300):
        replica = engine_second("r0", running=3 + second % 3, prompt_tokens=1500 + second % 7 * 150)
        gateway = GatewaySample(
            running=replica.running, arrivals=1, arrived_prompt_tokens=2000, finished=1, completion_tokens=120
        )
        pool.feed(PoolSample(pool.now_s, 1.0, gateway, (replica,)))
    assert max(plan.desired for plan in pool.plans) == 1
