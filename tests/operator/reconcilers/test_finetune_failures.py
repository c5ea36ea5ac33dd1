"""Attempts that fail: whose fault it was, which retries it spends, and what the status tells."""

from __future__ import annotations

from llmos_operator.kube.resources import PODS
from tests.operator.reconcilers.job_world import CHECKPOINT, JobWorld
from tests.operator.reconcilers.world import NAMESPACE


def fail_train(world: JobWorld, number: int, reason: str) -> None:
    world.end_pod(f"tune-train-{number}", code=1, reason=reason, message="it broke", lastCheckpoint=CHECKPOINT)


async def test_a_kill_is_infrastructure_and_is_tried_again_after_a_pause() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.end_pod("tune-train-1", code=137)
    status = await world.go()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert world.condition("Trained") == ("False", "NodeLost")
    assert world.job_pods() == ["tune-train-1"]
    world.pass_time(11)
    status = await world.go()
    assert world.job_pods() == ["tune-train-2"]
    assert status["attempt"] == 2
    await world.train(2)
    assert world.ready() == ("False", "Training")


async def test_a_pod_that_vanished_is_counted_once() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.kube.finish_deletion(PODS, "tune-train-1", NAMESPACE)
    status = await world.go()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    world.pass_time(11)
    await world.go()
    assert world.job_pods() == ["tune-train-2"]


async def test_an_error_of_the_job_ends_it_at_once() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    fail_train(world, 1, "LossNotFinite")
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "LossNotFinite"))
    assert status["attempts"]["user"] == 1
    assert status["lastCheckpoint"]["step"] == 40
    assert world.job_pods() == ["tune-train-1"], "its log can still be read"


async def test_user_retries_are_spent_by_errors_of_the_job_only() -> None:
    world = JobWorld(retries={"user": 1, "infrastructure": 20})
    await world.prepare()
    await world.train()
    fail_train(world, 1, "LossNotFinite")
    await world.go()
    world.pass_time(11)
    await world.go()
    await world.train(2)
    fail_train(world, 2, "TrainingFailed")
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "RetriesExhausted"))
    assert "it broke" in world.status_now()["conditions"][-1]["message"]
    before = world.status_now()
    assert await world.go() == before
    world.change(retries={"user": 2, "infrastructure": 20})
    world.pass_time(60)
    status = await world.go()
    assert (status["phase"], world.job_pods()) == ("Training", ["tune-train-3"])
    assert "completionTime" not in status


async def test_infrastructure_has_its_own_limit() -> None:
    world = JobWorld(retries={"infrastructure": 1})
    await world.prepare()
    for number in (1, 2):
        await world.train(number)
        world.end_pod(f"tune-train-{number}", code=137)
        await world.go()
        world.pass_time(400)
        await world.go()
    assert (world.status_now()["phase"], world.ready()) == ("Failed", ("False", "RetriesExhausted"))
    assert world.status_now()["attempts"]["user"] == 0


async def test_a_full_disk_is_told_with_its_remedy() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    fail_train(world, 1, "DiskFull")
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "DiskFull"))
    assert status["lastCheckpoint"]["step"] == 40


async def test_a_kill_for_memory_is_an_error_of_the_job() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.end_pod("tune-train-1", code=137, by="OOMKilled")
    assert (await world.go())["attempts"] == {"user": 1, "infrastructure": 0, "preemptions": 0}
    assert world.ready() == ("False", "OutOfMemory")
