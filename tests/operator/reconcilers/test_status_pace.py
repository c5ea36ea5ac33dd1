"""Numbers of a pool that changes all the time are written once a second, and what somebody waits for at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Reason
from llmos_operator.kube.resources import INFERENCE_POOLS
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


pauses = st.sampled_from([0.0, 0.1, 0.6, 1.5, 12])
steps = st.lists(st.tuples(st.sampled_from(["start", "fail", "scale"]), st.integers(0, 3), pauses), max_size=12)


@given(steps=steps)
async def test_what_is_true_in_the_end_is_written_in_the_end(steps: list[tuple[str, int, float]]) -> None:
    world = PacedWorld(3)
    await world.look()
    for action, number, pause_s in steps:
        names = world.pod_names()
        if action == "scale":
            pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
            world.kube.put({**pool, "spec": {**pool["spec"], "replicas": number}})
        elif number < len(names) and action == "start":
            world.start_pods(names[number])
        elif number < len(names):
            world.fail_pod(names[number], Reason.EngineCrashed)
        world.finish_deletions()
        again_s = await world.look()
        world.pass_time(min(pause_s, again_s) if again_s else pause_s)
    # Come to rest: each look that is due, and nothing that happens by itself.
    for _ in range(3):
        world.finish_deletions()
        await world.look()
        world.pass_time(PACE_S)
    await world.look()
    told = world.status
    world.context = replace(world.context, status_pace=StatusPace())
    await world.look()
    assert world.status == told, "an operator that begins anew finds nothing to write"
