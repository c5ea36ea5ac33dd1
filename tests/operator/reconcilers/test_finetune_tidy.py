"""The files of trials that did not win go when the job has its result, and nothing depends on it."""

from __future__ import annotations

import contextlib

import pytest

from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import PERSISTENT_VOLUME_CLAIMS, PODS
from tests.operator.reconcilers.search_world import SearchWorld
from tests.operator.reconcilers.world import NAMESPACE

TIDY = "tune-tidy"
DIGEST = "a" * 64


def build_checkpoint(trial: int) -> dict[str, object]:
    uri = f"file:///job/trials/{trial}/checkpoints/step-40"
    return {"step": 40, "time": f"2026-01-01T12:0{trial}:00Z", "uri": uri, "sha256": DIGEST}


async def search(world: SearchWorld, losses: dict[int, float]) -> None:
    """All trials, one after another."""
    await world.begin()
    for number, loss in losses.items():
        place = f"{number}-1"
        world.run_pod(f"tune-train-{place}")
        world.tell(f"tune-train-{place}", progress={"step": 50}, lastCheckpoint=build_checkpoint(number))
        world.pass_time(5)
        await world.step()
        world.finish(place, loss)
        await world.go()


def removed(world: SearchWorld) -> dict[int, bool]:
    return {trial["number"]: trial["filesRemoved"] for trial in world.status_now()["trials"]}


async def test_without_a_claim_there_is_nothing_to_remove() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    world.change(checkpoint={"storage": {"uri": "s3://bucket/ml"}})
    await search(world, {1: 1.2, 2: 1.0})
    status = await world.go()
    assert (status["phase"], status["bestTrial"]) == ("Succeeded", 2)
    assert TIDY not in world.job_pods()


async def test_they_are_removed_before_the_result_is_registered() -> None:
    world = SearchWorld(maxTrials=3, parallelism=1)
    await search(world, {1: 1.2, 2: 1.0, 3: 1.4})
    status = await world.go()
    assert (status["phase"], status["bestTrial"]) == ("Evaluating", 2)
    assert world.models() == ["smollm2"]
    spec = world.pod(TIDY)["spec"]
    command = spec["containers"][0]["command"]
    assert command == ["python", "-m", "llmos_workers.tidy", "--work", "/job", "--keep", "2"]
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "tune-work"
    assert "limits" in spec["containers"][0]["resources"]
    assert not any("gpu" in name for name in spec["containers"][0]["resources"]["limits"])
    world.kube.forget_writes()
    await world.go()
    assert world.kube.changes == [], "it waits, and writes nothing"
    status = await world.tidy()
    assert (status["phase"], world.ready()) == ("Succeeded", ("True", "Registered"))
    assert removed(world) == {1: True, 2: False, 3: True}
    # What is said to be there is there.
    assert status["lastCheckpoint"]["uri"] == "pvc://tune-work/trials/2/checkpoints/step-40"
    assert ["lastCheckpoint" in trial for trial in status["trials"]] == [False, True, False]
    assert world.job_pods() == []
    world.kube.forget_writes()
    await world.go()
    assert world.kube.changes == []


async def test_a_single_trial_has_no_others() -> None:
    world = SearchWorld(maxTrials=1, parallelism=1)
    await search(world, {1: 1.2})
    assert (await world.go())["phase"] == "Succeeded"
    assert world.job_pods() == []


async def test_a_result_waits_for_no_pod_that_does_not_start() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await search(world, {1: 1.2, 2: 1.0})
    assert (await world.go())["phase"] == "Evaluating"
    world.pass_time(61)
    assert (await world.go())["phase"] == "Succeeded"
    assert world.job_pods() == [TIDY]
    await world.tidy()
    assert removed(world) == {1: True, 2: False}
    assert world.job_pods() == []


async def test_a_result_waits_for_no_pod_that_is_refused_and_it_is_tried_again() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await search(world, {1: 1.2})
    world.run_pod("tune-train-2-1")
    world.finish("2-1", 1.0)
    await world.step()
    world.kube.fail_next("apply", "Pod", Forbidden("no pods here"))
    status = await world.step()
    assert (status["phase"], world.ready()) == ("Succeeded", ("True", "Registered"))
    assert any("stay in the claim: no pods here" in warning for warning in status["warnings"])
    assert removed(world) == {1: False, 2: False}
    await world.go()
    await world.tidy()
    assert removed(world) == {1: True, 2: False}


async def test_a_pod_that_failed_is_told_and_made_anew_when_it_is_deleted() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await search(world, {1: 1.2, 2: 1.0})
    await world.go()
    world.kube.set_status(PODS, TIDY, NAMESPACE, phase="Failed")
    status = await world.go()
    assert status["phase"] == "Succeeded"
    assert any("could not be removed from the claim" in warning for warning in status["warnings"])
    assert removed(world) == {1: False, 2: False}
    world.kube.finish_deletion(PODS, TIDY, NAMESPACE)
    await world.go()
    status = await world.tidy()
    assert removed(world) == {1: True, 2: False}
    assert not status.get("warnings")


async def test_nothing_is_removed_that_may_still_be_needed() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await world.begin()
    for number in (1, 2):
        world.run_pod(f"tune-train-{number}-1")
        world.end_pod(f"tune-train-{number}-1", code=1, reason="LossNotFinite", message="it broke")
        await world.go(4)
    assert world.ready() == ("False", "NoTrialSucceeded")
    assert TIDY not in world.job_pods()


async def test_a_gate_that_fails_keeps_the_best_and_no_others() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await search(world, {1: 1.99, 2: 1.95})
    assert (await world.go())["phase"] == "Failed"
    await world.tidy()
    assert removed(world) == {1: True, 2: False}
    world.change(evaluate={"everySteps": 10, "gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.99}]})
    assert (await world.go())["phase"] == "Succeeded"


async def test_a_claim_that_is_gone_needs_no_tidying() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await search(world, {1: 1.99, 2: 1.95})
    world.kube.finish_deletion(PODS, TIDY, NAMESPACE)
    world.kube.finish_deletion(PERSISTENT_VOLUME_CLAIMS, "tune-work", NAMESPACE)
    await world.go()
    assert TIDY not in world.job_pods()


@pytest.mark.parametrize(
    ("verb", "kind"), [("apply", "Pod"), ("apply_status", "FineTuneJob"), ("delete", "Pod"), ("create", "LLMModel")]
)
async def test_an_operator_that_is_cut_off_anywhere_is_followed_by_one_that_goes_on(verb: str, kind: str) -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await search(world, {1: 1.2, 2: 1.0})
    for _ in range(8):
        world.kube.fail_next(verb, kind, Unavailable("killed"))
        with contextlib.suppress(Unavailable):
            await world.step()
        world.kube._failures.clear()
        await world.step()
        if TIDY in world.job_pods() and "phase" not in world.pod(TIDY).get("status", {}):
            world.kube.set_status(PODS, TIDY, NAMESPACE, phase="Succeeded")
    assert world.status_now()["phase"] == "Succeeded"
    assert removed(world) == {1: True, 2: False}
    assert world.job_pods() == []
