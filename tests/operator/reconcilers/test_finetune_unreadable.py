"""A base model, teacher or result that a newer version of LLMOS wrote: named, and nothing is lost for it."""

from __future__ import annotations

from typing import Any

from llmos.api import AcceleratorClass, FineTuneJob, LLMModel
from llmos_operator.kube.resources import LLM_MODELS
from llmos_operator.planning.finetune_memory import refuse_memory
from tests.operator.reconcilers.canary_world import RESULT, TARGET, CanaryWorld
from tests.operator.reconcilers.job_world import JobWorld, build_base, build_job
from tests.operator.reconcilers.quota_world import CLASS
from tests.operator.reconcilers.test_finetune_classes import (
    ON_EITHER,
    TwoClasses,
    fill_the_first_class,
    other_class,
    tenant_of_both,
)
from tests.operator.reconcilers.test_finetune_gangs import cut_off
from tests.operator.reconcilers.test_finetune_teacher import METHOD, build_teacher
from tests.operator.reconcilers.world import NAMESPACE, condition

SMALL = "3648Mi"


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


async def test_half_a_gang_waits_for_its_teacher_too() -> None:
    world = await cut_off(objects=[build_teacher()], method=METHOD)
    made = world.job_pods()
    world.kube.put(unreadable(build_teacher()))
    status = await world.go()
    assert [name for name in made if "-train-" in name] == world.job_pods()
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0}
    assert "LLMModel big: spec.format" in message_of(world)


async def test_what_waits_is_not_sent_elsewhere_while_nobody_knows_what_the_teacher_needs() -> None:
    """Without the teacher it would fit the other class, which has accelerators; with it, it does not."""
    world = TwoClasses(tenant_of_both(), build_teacher(), method=METHOD)
    world.kube.put(other_class(SMALL))
    await fill_the_first_class(world)
    await world.prepare()
    await world.go_on()
    assert world.status_now()["phase"] == "Queued"
    world.kube.put(unreadable(build_teacher()))
    await world.go_on()
    assert (world.job_pods(), world.status_now()["phase"]) == (["tune-train-1"], "Queued")
    assert world.class_of("tune-train-1") == CLASS


def test_the_small_class_is_large_enough_without_the_teacher_only() -> None:
    job = FineTuneJob.model_validate(build_job(trainer=ON_EITHER, method=METHOD))
    base, teacher = LLMModel.model_validate(build_base()), LLMModel.model_validate(build_teacher())
    small = AcceleratorClass.model_validate(other_class(SMALL))
    assert refuse_memory(job.spec, base, small, None) is None
    assert refuse_memory(job.spec, base, small, teacher) is not None


async def test_a_job_does_not_end_that_is_to_replace_something_by_a_result_that_cannot_be_read() -> None:
    world = CanaryWorld(target={"pool": "chat"})
    await world.register()
    world.kube.put(unreadable(world.output(RESULT)))
    world.change(output={"name": RESULT, "attachTo": [TARGET]})
    await world.step()
    assert world.status_now()["phase"] == "Canary"
    assert (world.canary["state"], world.canary["message"]) == ("Waiting", f"LLMModel {RESULT} cannot be read.")
    assert world.condition("Promoted") == ("Unknown", "CanaryUndecided")


async def test_what_was_promoted_for_another_name_is_not_told_for_the_new_one() -> None:
    world = CanaryWorld(target={**TARGET, "weight": 100})
    await world.register()
    await world.go_on()
    assert world.canary["state"] == "Promoted"
    world.kube.put(unreadable(world.output(RESULT)))
    world.change(output={"name": RESULT, "attachTo": [{**TARGET, "replaces": "faq"}]})
    await world.step()
    assert (world.canary["replaces"], world.canary["state"]) == ("faq", "Waiting")
    assert world.status_now()["phase"] == "Canary"


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
