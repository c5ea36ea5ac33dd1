"""Pools that scale: the reconcile follows the board's decision, says so, and tells the board what it saw."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api.names import CONTROL_PORT
from llmos.api.scaling import ReplicaCapacity, ScalingInputs
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS
from llmos_operator.planning.replicas import ReplicaState
from llmos_operator.planning.sampling import ScaledPool
from llmos_operator.reconcilers.base import Key
from tests.operator.reconcilers.world import (
    NAMESPACE,
    World,
    build_model,
    build_pool,
    build_scaled_pool,
    condition,
)

KEY = Key("InferencePool", NAMESPACE, "chat")


def published(world: World) -> ScaledPool:
    return world.context.board.pools[KEY]


def notes(world: World, reason: str = "Scaling") -> list[str]:
    return [event["note"] for event in world.kube.events if event["reason"] == reason]


def edit(world: World, **spec: Any) -> None:
    """Change the pool's spec as a user would; None removes a field."""
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    changed = {key: value for key, value in {**pool["spec"], **spec}.items() if value is not None}
    world.kube.put({**pool, "spec": changed})


async def settle(world: World) -> dict[str, Any]:
    """Reconcile until every pod that should exist is ready and every one that should not is gone."""
    for _ in range(8):
        await world.pool()
        world.start_pods()
        world.pass_time(3)
        await world.pool()
        world.finish_deletions()
    return await world.pool()


async def test_a_new_pool_begins_with_its_fewest_replicas_before_anything_is_decided() -> None:
    world = World(build_model(), build_scaled_pool(minReplicas=2))
    pool = await world.pool()
    assert len(world.pods()) == 2
    assert pool["status"]["desiredReplicas"] == 2
    assert "scaling" not in pool["status"]
    assert notes(world) == [], "a beginning is no change"


async def test_a_decision_is_followed_written_and_told_in_words() -> None:
    world = World(build_model(), build_scaled_pool())
    await settle(world)
    world.decide(4, raw=3.7, message="4 replicas are needed: 15 requests queued or running / 4 for each replica.")
    pool = await world.pool()
    assert len(world.pods()) == 4
    assert pool["status"]["desiredReplicas"] == 4
    assert pool["status"]["scaling"] | {"desired": 4, "raw": 3.7} == pool["status"]["scaling"]
    assert notes(world) == ["Scaled 1 -> 4: 4 replicas are needed: 15 requests queued or running / 4 for each replica."]
    await settle(world)
    assert len(notes(world)) == 1


async def test_scaling_down_drains_the_least_busy_replicas() -> None:
    world = World(build_model(), build_scaled_pool())
    await settle(world)
    world.decide(3)
    await settle(world)
    names = world.pod_names()
    world.in_flight = dict(zip(names, (5, 0, 7), strict=True))
    world.decide(2, message="2 replicas are needed.")
    await world.pool()
    serving = {pod["metadata"]["name"]: pod["metadata"]["labels"]["llmos.dev/serving"] for pod in world.pods()}
    assert serving == dict(zip(names, ("true", "false", "true"), strict=True))
    await settle(world)
    assert len(world.pods()) == 2


async def test_replicas_that_never_answered_go_first_and_those_without_a_node_before_others() -> None:
    world = World(build_model(), build_scaled_pool())
    await settle(world)
    (ready,) = world.pod_names()
    world.decide(3)
    await world.pool()
    first, second = (name for name in world.pod_names() if name != ready)
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    world.kube.set_status(
        PODS, first, NAMESPACE, phase="Pending", conditions=[{**unscheduled, "lastTransitionTime": world.stamp()}]
    )
    world.pass_time(30)
    world.decide(2)
    await world.pool()
    world.finish_deletions()
    assert world.pod_names() == sorted([ready, second])


async def test_a_pool_that_sleeps_is_ready_and_says_what_wakes_it() -> None:
    world = World(build_model(), build_scaled_pool(minReplicas=0))
    pool = await world.pool()
    assert world.pods() == []
    ready = condition(pool)
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")
    assert "the first request" in ready["message"]
    world.decide(1, message="There is work, so one replica is needed.")
    await world.pool()
    assert len(world.pods()) == 1
    assert notes(world) == ["Scaled 0 -> 1: There is work, so one replica is needed."]


async def test_limits_hold_whatever_was_decided_under_the_limits_before() -> None:
    world = World(build_model(), build_scaled_pool(maxReplicas=8))
    await settle(world)
    world.decide(6, message="6 replicas are needed.")
    await settle(world)
    edit(world, scaling={"maxReplicas": 2})
    await settle(world)
    assert len(world.pods()) == 2
    assert notes(world)[-1] == "Scaled 6 -> 2: spec.scaling says at most 2."


async def test_a_schedule_raises_the_fewest_replicas_when_its_window_begins() -> None:
    window = {"name": "noon", "start": "12:30", "end": "13:00", "minReplicas": 3}
    world = World(build_model(), build_scaled_pool(schedule=[window]))
    await settle(world)
    world.decide(1)
    world.pass_time(1800)
    pool = await settle(world)
    assert pool["status"]["desiredReplicas"] == 3
    assert notes(world) == ["Scaled 1 -> 3: window noon of scaling.schedule says at least 3."]


async def test_an_unknown_time_zone_is_told_and_what_runs_goes_on() -> None:
    window = {"name": "day", "start": "00:00", "end": "00:00", "timeZone": "Mars/Phobos", "minReplicas": 3}
    world = World(build_model(), build_scaled_pool(schedule=[window]))
    pool = await settle(world)
    ready = condition(pool)
    assert (ready["status"], ready["reason"]) == ("False", "InvalidSpec")
    assert "'Mars/Phobos'" in ready["message"]
    assert condition(pool, "Available")["status"] == "True"
    assert len(world.pods()) == 1


async def test_advice_is_shown_and_nobody_follows_it() -> None:
    world = World(build_model(), build_pool(replicas=1, scaling={"mode": "advisory"}))
    await settle(world)
    world.decide(5, raw=4.6, message="5 replicas are needed.")
    pool = await settle(world)
    assert pool["status"]["scaling"]["desired"] == 5
    assert pool["status"]["desiredReplicas"] == 1
    assert len(world.pods()) == 1
    assert notes(world) == []


async def test_a_pool_for_which_there_is_no_room_says_so_serves_and_recovers() -> None:
    world = World(build_model(), build_scaled_pool())
    await settle(world)
    world.decide(2, raw=3.6, bounded_by="unschedulable", message="2 instead: the others found no place.")
    pool = await settle(world)
    ready = condition(pool)
    assert (ready["status"], ready["reason"]) == ("False", "Unschedulable")
    assert "2 instead: the others found no place. Each replica asks for processors and memory" in ready["message"]
    assert ready["message"].endswith("when there is room. Meanwhile 2 replicas answer."), "the remedy, and what works"
    assert condition(pool, "Available")["status"] == "True"
    again = condition(await settle(world))
    assert again == ready, "its words do not grow"
    world.decide(1, raw=0.9, message="1 replica is needed.")
    assert condition(await settle(world))["reason"] == "Ready"
    assert len(world.pods()) == 1


async def test_the_scheduler_s_words_outlive_the_replica_that_heard_them() -> None:
    world = World(build_model(), build_scaled_pool())
    await settle(world)
    (ready,) = world.pod_names()
    world.decide(2)
    await world.pool()
    (waiting,) = (name for name in world.pod_names() if name != ready)
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    world.kube.set_status(
        PODS,
        waiting,
        NAMESPACE,
        phase="Pending",
        conditions=[{**unscheduled, "message": "Insufficient nvidia.com/gpu", "lastTransitionTime": world.stamp()}],
    )
    world.pass_time(30)
    await world.pool()
    world.decide(1, raw=1.6, bounded_by="unschedulable", message="1 instead.")
    await world.pool()
    world.finish_deletions()
    pool = await world.pool()
    assert world.pod_names() == [ready]
    assert "Insufficient nvidia.com/gpu" in condition(pool)["message"]


async def test_at_rest_a_second_pass_writes_nothing_also_after_a_restart_of_the_operator() -> None:
    world = World(build_model(), build_scaled_pool())
    await settle(world)
    world.decide(
        2,
        raw=1.25,
        inputs=ScalingInputs(running=5, ready=2, arrivals_per_second=0.5),
        capacity=ReplicaCapacity(revision="r", step_milliseconds=20.5, samples=12),
    )
    await settle(world)
    world.kube.forget_writes()
    await world.pool()
    assert world.kube.writes == []
    world.context.board.clear()
    pool = await world.pool()
    assert world.kube.writes == []
    assert pool["status"]["desiredReplicas"] == 2, "status is what a new operator goes on from"
    assert published(world).desired == 2
    assert published(world).capacity.samples == 12


async def test_the_board_learns_of_replicas_and_where_they_tell_their_load() -> None:
    world = World(build_model(), build_scaled_pool(target={"queueDepth": 4}))
    await settle(world)
    seen = published(world)
    assert seen.scaling.target.queue_depth == 4
    (replica,) = seen.replicas
    assert replica.state is ReplicaState.READY
    assert replica.ready_at is not None
    assert seen.addresses == {replica.name: f"10.0.0.1:{CONTROL_PORT}"}
    assert seen.revision == replica.revision


@pytest.mark.parametrize("way", ["deleted", "going", "fixed", "invalid"])
async def test_a_pool_that_scales_no_longer_leaves_the_board(way: str) -> None:
    world = World(build_model(), build_scaled_pool())
    await settle(world)
    assert KEY in world.context.board.pools
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    match way:
        case "deleted":
            world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
        case "going":
            world.kube.put({**pool, "metadata": {**pool["metadata"], "finalizers": ["a/b"]}})
            await world.kube.delete(INFERENCE_POOLS, "chat", NAMESPACE)
        case "fixed":
            edit(world, scaling=None, replicas=3)
        case _:
            edit(world, engine={"name": "simulator", "args": {"model": "other"}})
    await world.reconcile("InferencePool", "chat")
    assert KEY not in world.context.board.pools


async def test_a_pool_with_a_fixed_number_is_never_on_the_board() -> None:
    world = World(build_model(), build_pool(replicas=2))
    pool = await settle(world)
    assert world.context.board.pools == {}
    assert "scaling" not in pool["status"]
    assert notes(world) == []


async def test_from_a_fixed_number_a_pool_goes_on_with_the_replicas_that_it_has() -> None:
    world = World(build_model(), build_pool(replicas=3))
    await settle(world)
    edit(world, replicas=None, scaling={"minReplicas": 1})
    pool = await settle(world)
    assert pool["status"]["desiredReplicas"] == 3
    assert published(world).desired == 3
