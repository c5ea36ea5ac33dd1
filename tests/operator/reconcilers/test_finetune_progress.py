"""What a FineTuneJob says of its way: progress, evaluations, phases; and what is not believed."""

from __future__ import annotations

from tests.operator.reconcilers.job_world import CHECKPOINT, JobWorld


async def test_progress_comes_from_the_log_not_more_often_than_every_two_seconds() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.pass_time(5)
    world.tell("tune-train-1", progress={"step": 5, "totalSteps": 100, "loss": float("nan")}, lastCheckpoint=CHECKPOINT)
    status = await world.step()
    assert status["progress"] == {
        "step": 5,
        "totalSteps": 100,
        "epoch": 0,
        "tokens": 0,
        "tokensPerSecond": 0,
        "display": "5/100",
    }
    assert status["lastCheckpoint"]["step"] == 40
    world.kube.forget_writes()
    world.pass_time(1)
    await world.step()
    assert [read for read in world.kube.reads if read.verb == "log"] == []


async def lose_first_attempt(world: JobWorld) -> None:
    """Have the first attempt killed, and the second one train."""
    world.end_pod("tune-train-1", code=137)
    await world.step()
    world.pass_time(11)
    await world.go(2)
    await world.train(2)
    world.pass_time(5)


async def test_evaluations_on_the_way_are_remembered_once_for_each_step_also_over_attempts() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    points = [{"step": 10 * number, "loss": 2.0, "evalLoss": 2.0 - number / 100} for number in range(1, 31)]
    world.pass_time(5)
    world.tell("tune-train-1", evaluations=[*points[:10], {"step": 5, "evalLoss": float("nan")}, "nonsense"])
    assert (await world.step())["metrics"] == points[:10]
    await lose_first_attempt(world)
    world.tell("tune-train-2", evaluations=points[8:18])
    assert (await world.step())["metrics"] == points[:18]
    world.end_pod("tune-train-2", outcome="complete", output={"digest": "sha256:out"}, evaluations=points[20:])
    assert (await world.go())["metrics"] == [*points[8:18], *points[20:]]


async def test_evaluations_of_work_that_is_lost_do_not_hide_those_of_a_newer_attempt() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    points = [{"step": 10 * number, "loss": 2.0, "evalLoss": 2.0 - number / 100} for number in range(1, 31)]
    world.pass_time(5)
    world.tell("tune-train-1", evaluations=points, progress={"step": 305, "totalSteps": 400})
    assert (await world.step())["metrics"] == points[10:]
    await lose_first_attempt(world)
    again = [{**point, "evalLoss": 1.5} for point in points[:8]]
    world.tell("tune-train-2", evaluations=again[6:], progress={"step": 82, "totalSteps": 400})
    assert (await world.step())["metrics"] == again[6:]


async def test_evaluating_is_a_phase_of_its_own() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.pass_time(5)
    world.tell("tune-train-1", phase="evaluating", progress={"step": 100, "totalSteps": 100})
    assert (await world.step())["phase"] == "Evaluating"
    assert (await world.step())["phase"] == "Evaluating"
    assert world.ready() == ("False", "Evaluating")


async def test_what_a_worker_that_went_mad_says_is_not_believed() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.tell("tune-train-1", progress={"step": 10**40}, lastCheckpoint=[], lostAcceleratorSeconds=-3)
    world.pass_time(5)
    await world.step()
    world.end_pod_with("tune-train-1", '{"outcome": "complete", "output": 3, "evaluation": {"metrics": [1, {}]}}')
    status = await world.go()
    assert status["attempts"]["infrastructure"] == 1
    assert status["lostAcceleratorSeconds"] == 0
