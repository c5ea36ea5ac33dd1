"""A base model, teacher or result that a newer version of LLMOS wrote: named, and nothing is lost for it."""

from __future__ import annotations

from typing import Any

from llmos_operator.kube.resources import LLM_MODELS
from tests.operator.reconcilers.canary_world import RESULT, CanaryWorld
from tests.operator.reconcilers.job_world import JobWorld, build_base
from tests.operator.reconcilers.test_finetune_gangs import cut_off
from tests.operator.reconcilers.test_finetune_teacher import METHOD, build_teacher
from tests.operator.reconcilers.world import NAMESPACE, condition


def unreadable(model: dict[str, Any]) -> dict[str, Any]:
    """A model with a value that this version does not know."""
    return {**model, "spec": {**model["spec"], "format": "onnx"}}


def restore(world: JobWorld) -> None:
    """The value is corrected, and the model is found ready again."""
    model = world.kube.put(build_base())
    generation = world.kube.stored(LLM_MODELS, NAMESPACE, "smollm2")["metadata"]["generation"]
    ready = {**model["status"]["conditions"][0], "observedGeneration": generation}
    world.kube.set_status(LLM_MODELS, "smollm2", NAMESPACE, conditions=[ready])


def message_of(world: JobWorld) -> str:
    return str(condition({"status": world.status_now()})["message"])


async def test_nothing_is_made_and_the_field_is_named() -> None:
    world = JobWorld()
    world.kube.put(unreadable(build_base()))
    await world.go()
    assert (world.status_now()["phase"], world.ready()) == ("Pending", ("False", "InvalidSpec"))
    assert "LLMModel smollm2: spec.format" in message_of(world)
    assert world.job_pods() == []
    restore(world)
    await world.prepare()
    assert world.job_pods() == ["tune-train-1"]


async def test_so_for_a_teacher() -> None:
    world = JobWorld(unreadable(build_teacher()), method=METHOD)
    await world.go()
    assert world.ready() == ("False", "InvalidSpec")
    assert "LLMModel big: spec.format" in message_of(world)
    assert world.job_pods() == []


async def test_an_attempt_that_runs_goes_on_and_its_result_waits() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.kube.put(unreadable(build_base()))
    assert (await world.go())["phase"] == "Training"
    world.complete()
    await world.go()
    assert world.condition("Trained") == ("True", "Trained")
    assert world.condition("Registered") == ("False", "InvalidSpec")
    restore(world)
    assert (await world.go())["phase"] == "Succeeded"
    assert "support" in world.models()


async def test_a_lost_attempt_waits_for_it_and_spends_no_retry() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.kube.put(unreadable(build_base()))
    world.end_pod("tune-train-1", code=137)
    world.pass_time(60)
    await world.go()
    world.pass_time(600)
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Pending", ("False", "InvalidSpec"))
    assert "tune-train-2" not in world.job_pods()
    restore(world)
    await world.go()
    assert "tune-train-2" in world.job_pods()


async def test_half_a_gang_waits_for_it_and_is_completed() -> None:
    world = await cut_off()
    world.kube.put(unreadable(build_base()))
    await world.go()
    made = [name for name in world.job_pods() if "-train-" in name]
    assert len(made) == 1
    assert "LLMModel smollm2: spec.format" in message_of(world)
    restore(world)
    status = await world.go()
    assert [name for name in world.job_pods() if "-train-" in name] == world.gang()
    assert status["attempts"]["infrastructure"] == 0


async def test_a_result_on_trial_is_not_judged_while_it_cannot_be_read() -> None:
    world = CanaryWorld()
    await world.register()
    await world.go_on()
    await world.go_on()
    before = world.canary
    result = world.output(RESULT)
    world.kube.put(unreadable(result))
    for _ in range(3):
        await world.step()
        world.pass_time(3600)
    assert world.canary == before
    assert world.condition("Promoted") == ("Unknown", "CanaryUndecided")
    world.kube.put(result)
    await world.go_on()
    assert world.canary["state"] == before["state"]
