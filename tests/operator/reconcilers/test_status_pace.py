"""Numbers of a pool that changes all the time are written once a second, and what somebody waits for at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Reason
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS
from llmos_operator.planning.replicas import STABLE_S
from llmos_operator.reconcilers.base import Key
from llmos_operator.reconcilers.status_pace import PACE_S, StatusPace
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, build_pool, condition

KEY = Key(INFERENCE_POOLS.kind, NAMESPACE, "chat")


class PacedWorld(World):
    """Counts writes of the pool's status."""

    def __init__(self, replicas: int) -> None:
        super().__init__(build_model(), build_pool(replicas=replicas))

    async def look(self) -> float | None:
        """Reconcile the pool; return when it is to be looked at again."""
        return (await self.reconcile("InferencePool", "chat")).requeue_after_s

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")["status"]
        return status

    @property
    def written(self) -> int:
        return sum(write.verb == "apply_status" and write.kind == INFERENCE_POOLS.kind for write in self.kube.writes)


async def begun(replicas: int) -> PacedWorld:
    """A pool that is long settled but for its replicas, none of which answers."""
    world = PacedWorld(replicas)
    await world.look()
    world.pass_time(PACE_S)
    await world.look()
    world.pass_time(PACE_S)
    return world


async def test_numbers_wait_for_a_second_after_a_write_and_are_written_then() -> None:
    world = await begun(3)
    first, second, _ = world.pod_names()
    world.start_pods(first)
    await world.look()
    assert world.status["readyReplicas"] == 1, "the first one that answers is no detail"
    world.pass_time(0.25)
    world.start_pods(second)
    before = world.written
    assert await world.look() == pytest.approx(PACE_S - 0.25)
    assert (world.status["readyReplicas"], world.written) == (1, before)
    world.pass_time(PACE_S - 0.25)
    await world.look()
    assert world.status["readyReplicas"] == 2


async def test_numbers_are_written_at_once_if_nothing_was_for_a_second() -> None:
    world = await begun(3)
    for count, name in enumerate(world.pod_names()[:2], start=1):
        world.start_pods(name)
        await world.look()
        assert world.status["readyReplicas"] == count
        world.pass_time(PACE_S)


async def test_that_all_answer_is_told_at_once_with_all_its_numbers() -> None:
    world = await begun(2)
    first, second = world.pod_names()
    world.start_pods(first)
    await world.look()
    world.start_pods(second)
    await world.look()
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    assert (condition(pool)["status"], world.status["readyReplicas"]) == ("True", 2)


async def test_a_pool_that_changes_all_the_time_is_written_once_a_second() -> None:
    world = await begun(40)
    names = world.pod_names()
    before = world.written
    for name in names[:-1]:
        world.start_pods(name)
        await world.look()
        world.pass_time(0.1)
    took_s = 0.1 * (len(names) - 1)
    assert 1 <= world.written - before <= took_s / PACE_S + 2


async def test_a_pool_that_is_gone_is_not_remembered() -> None:
    world = await begun(1)
    world.start_pods()
    await world.look()
    assert world.context.status_pace.wait_s(KEY, world.time) > 0
    world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.look()
    assert world.context.status_pace.wait_s(KEY, world.time) == 0


def test_a_clock_that_was_put_back_holds_up_nothing() -> None:
    world, pace = World(), StatusPace()
    pace.note(KEY, world.time)
    assert pace.wait_s(KEY, world.time) == PACE_S
    assert pace.wait_s(KEY, world.time - timedelta(hours=1)) == 0


class Impatient(StatusPace):
    """Never waits: what every operator did that wrote each change at once."""

    def wait_s(self, key: Key, now: datetime) -> float:
        return 0.0


def crash(world: World, name: str, message: str) -> None:
    """An engine that ran ends with a message of its own."""
    (pod,) = [pod for pod in world.pods() if pod["metadata"]["name"] == name]
    statuses = pod.get("status", {}).get("containerStatuses") or [{"state": {}}]
    started = statuses[0]["state"].get("running", {}).get("startedAt", world.stamp())
    world.fail_pod(name, Reason.EngineCrashed, message)
    (status,) = world.kube.stored(PODS, NAMESPACE, name)["status"]["containerStatuses"]
    status["state"]["terminated"]["startedAt"] = started
    world.kube.set_status(PODS, name, NAMESPACE, containerStatuses=[status])


async def test_of_two_failures_of_one_kind_the_second_is_told_too() -> None:
    world = await begun(4)
    world.start_pods()
    await world.look()
    world.pass_time(2 * STABLE_S)
    for name, message in zip(world.pod_names()[:2], ("the driver was lost", "a timeout of NCCL"), strict=True):
        crash(world, name, message)
        await world.look()
        world.pass_time(0.4)
    world.pass_time(PACE_S)
    await world.look()
    told = " ".join(condition["message"] for condition in world.status["conditions"])
    assert "a timeout of NCCL" in told


pauses = st.sampled_from([0.0, 0.1, 0.6, 1.5, 12, 2 * STABLE_S])
steps = st.lists(st.tuples(st.sampled_from(["start", "fail", "scale"]), st.integers(0, 3), pauses), max_size=12)


@given(steps=steps)
async def test_in_the_end_the_same_is_written_as_if_every_change_had_been(steps: list[tuple[str, int, float]]) -> None:
    worlds = PacedWorld(3), PacedWorld(3)
    worlds[1].context = replace(worlds[1].context, status_pace=Impatient())
    for world in worlds:
        await world.look()
    for turn, (action, number, pause_s) in enumerate(steps):
        for world in worlds:
            names = world.pod_names()
            if action == "scale":
                pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
                world.kube.put({**pool, "spec": {**pool["spec"], "replicas": number}})
            elif number < len(names) and action == "start":
                world.start_pods(names[number])
            elif number < len(names):
                crash(world, names[number], f"failure {turn}")
            world.finish_deletions()
            await world.look()
            world.pass_time(pause_s)
    for world in worlds:
        for _ in range(3):
            world.finish_deletions()
            await world.look()
            world.pass_time(PACE_S)
        await world.look()
    assert worlds[0].status == worlds[1].status
