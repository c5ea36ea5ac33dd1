"""Attempts that hang, vanish or cannot be heard, and pods that nobody is left to end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from llmos.api.names import CONTAINER_PREPARE, CONTAINER_TRAIN
from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import FINE_TUNE_JOBS, INFERENCE_POOLS, PODS
from tests.operator.reconcilers.job_world import CHECKPOINT, JOB, JobWorld, build_base, build_job
from tests.operator.reconcilers.world import NAMESPACE, World, build_pool


def say(world: JobWorld, name: str, *, ago_s: float = 0.0, **line: Any) -> None:
    """The worker writes a progress line that says when it last did something."""
    world.tell(name, activeAt=(world.time - timedelta(seconds=ago_s)).isoformat(), **line)


async def begin(world: JobWorld) -> None:
    await world.prepare()
    await world.train()


async def test_an_attempt_that_does_nothing_is_ended_counted_and_tried_again_after_a_pause() -> None:
    world = JobWorld()
    await begin(world)
    say(world, "tune-train-1", progress={"step": 7, "totalSteps": 100}, lastCheckpoint=CHECKPOINT)
    world.pass_time(29 * 60)
    assert (await world.step())["phase"] == "Training"
    world.pass_time(2 * 60)
    status = await world.step()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert world.condition("Trained") == ("False", "TrainingStalled")
    message = next(c for c in status["conditions"] if c["type"] == "Trained")["message"]
    assert "Pod tune-train-1 did nothing since" in message
    assert "The last line of its log: another" in message
    assert "deletionTimestamp" in world.pod("tune-train-1")["metadata"]
    status = await world.go()
    assert status["attempts"]["infrastructure"] == 1, "one that is ending is not counted again"
    world.kube.finish_deletion(PODS, "tune-train-1", NAMESPACE)
    await world.go()
    assert world.job_pods() == [], "there is a pause"
    world.pass_time(11)
    await world.go()
    assert world.job_pods() == ["tune-train-2"]


async def test_one_that_repeats_that_it_works_is_left_alone() -> None:
    world = JobWorld(retries={"stalledAfterMinutes": 5})
    await begin(world)
    for _ in range(10):
        world.pass_time(4 * 60)
        say(world, "tune-train-1", phase="loading")
        assert (await world.step())["attempts"]["infrastructure"] == 0
    assert world.status_now()["phase"] == "Training"


async def test_the_patience_is_the_jobs_and_counts_from_the_last_sign_of_life() -> None:
    world = JobWorld(retries={"stalledAfterMinutes": 5})
    await begin(world)
    world.pass_time(1000)
    say(world, "tune-train-1", ago_s=301, phase="evaluating")
    assert (await world.step())["attempts"]["infrastructure"] == 1


@pytest.mark.parametrize("log", ["", "Loading.\n", '{"event": "progress", "phase": "training"}\n'])
async def test_a_worker_that_does_not_say_when_it_did_something_is_not_judged(log: str) -> None:
    world = JobWorld()
    await begin(world)
    world.kube.logs[NAMESPACE, "tune-train-1", CONTAINER_TRAIN, False] = log
    world.pass_time(100_000)
    assert (await world.step())["phase"] == "Training"


async def test_a_preparation_that_hangs_is_infrastructure_too() -> None:
    world = JobWorld()
    await world.go()
    world.run_pod("tune-prepare-1")
    await world.step()
    line = f'{{"event": "progress", "phase": "preparing", "activeAt": "{world.time.isoformat()}"}}\n'
    world.kube.logs[NAMESPACE, "tune-prepare-1", CONTAINER_PREPARE, False] = line
    world.pass_time(31 * 60)
    status = await world.step()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert world.condition("DatasetReady") == ("False", "TrainingStalled")
    assert status["attempt"] == 0
    world.kube.finish_deletion(PODS, "tune-prepare-1", NAMESPACE)
    world.pass_time(11)
    await world.go()
    assert world.job_pods() == ["tune-prepare-2"]


async def test_a_preparation_that_vanished_is_counted_and_made_again_after_a_pause() -> None:
    world = JobWorld()
    await world.go()
    assert world.status_now()["prepareAttempt"] == 1
    world.kube.finish_deletion(PODS, "tune-prepare-1", NAMESPACE)
    status = await world.go()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert world.condition("DatasetReady") == ("False", "NodeLost")
    assert world.job_pods() == []
    world.pass_time(11)
    status = await world.go()
    assert world.job_pods() == ["tune-prepare-2"]
    assert status["attempts"]["infrastructure"] == 1


async def test_preparations_that_vanish_again_and_again_exhaust_the_retries() -> None:
    world = JobWorld(retries={"infrastructure": 2})
    await world.go()
    for number in (1, 2, 3):
        world.kube.finish_deletion(PODS, f"tune-prepare-{number}", NAMESPACE)
        await world.go()
        world.pass_time(400)
        await world.go()
    assert (world.status_now()["phase"], world.ready()) == ("Failed", ("False", "RetriesExhausted"))


async def test_a_log_that_may_not_be_read_is_a_warning_and_stops_nothing() -> None:
    world = JobWorld()
    await begin(world)
    for _ in range(2):
        world.pass_time(5)
        world.kube.fail_next("log", "Pod", Forbidden("pods/log is forbidden"))
        status = await world.step()
        assert status["phase"] == "Training"
        (warning,) = status["warnings"]
        assert "Grant its account get on pods/log" in warning
        world.kube.forget_writes()
        await world.step()
        assert world.kube.changes == [], "a pass that does not read the log says the same"
    world.pass_time(5)
    assert (await world.step())["warnings"] == []


async def test_an_api_server_that_cannot_give_a_log_stops_nothing() -> None:
    world = JobWorld()
    await begin(world)
    world.pass_time(5)
    world.kube.fail_next("log", "Pod", Unavailable("no"))
    status = await world.step()
    assert (status["phase"], status["warnings"]) == ("Training", [])


async def test_the_last_checkpoint_names_the_claim() -> None:
    world = JobWorld()
    await begin(world)
    world.pass_time(5)
    inside = {**CHECKPOINT, "uri": "file:///job/checkpoints/step-00000040"}
    world.tell("tune-train-1", lastCheckpoint=inside)
    status = await world.step()
    assert status["lastCheckpoint"]["uri"] == "pvc://tune-work/checkpoints/step-00000040"


async def test_history_tells_what_became_of_the_last_ten_attempts() -> None:
    world = JobWorld()
    await world.go()
    world.kube.finish_deletion(PODS, "tune-prepare-1", NAMESPACE)
    await world.go()
    world.pass_time(11)
    await world.go()
    world.end_pod("tune-prepare-2", outcome="prepared", report={"trainExamples": 1})
    await world.go(2)
    for number in range(2, 14):
        await world.train(number)
        began = world.stamp()
        world.pass_time(5)
        world.tell(f"tune-train-{number}", progress={"step": number, "totalSteps": 100})
        await world.step()
        world.end_pod(f"tune-train-{number}", code=137)
        await world.go()
        if number == 2:
            first, second = world.status_now()["history"]
            assert (first["stage"], first["number"], first["reason"]) == ("prepare", 1, "NodeLost")
            assert "step" not in first
            assert (second["stage"], second["number"], second["step"]) == ("train", 2, 2)
            assert (second["countsAs"], second["reason"]) == ("infrastructure", "NodeLost")
            assert "exit code 137" in second["message"]
        world.pass_time(400)
        await world.go()
    history = world.status_now()["history"]
    assert [entry["number"] for entry in history] == list(range(4, 14))
    assert began


async def test_pods_of_a_deleted_job_on_a_lost_node_are_removed_by_force() -> None:
    world = JobWorld()
    await begin(world)
    await world.kube.delete(PODS, "tune-train-1", NAMESPACE)
    world.kube.finish_deletion(FINE_TUNE_JOBS, JOB, NAMESPACE)
    result = await world.reconcile("FineTuneJob", JOB)
    assert result.requeue_after_s is not None
    assert result.requeue_after_s >= 60, "its grace period, and a minute"
    world.pass_time(result.requeue_after_s - 1)
    await world.reconcile("FineTuneJob", JOB)
    assert world.job_pods() == ["tune-train-1"]
    world.pass_time(2)
    assert (await world.reconcile("FineTuneJob", JOB)).requeue_after_s is None
    assert world.job_pods() == []


async def test_lost_pods_of_an_earlier_job_of_the_same_name_are_removed_too() -> None:
    world = JobWorld()
    await begin(world)
    await world.kube.delete(PODS, "tune-train-1", NAMESPACE)
    world.kube.finish_deletion(FINE_TUNE_JOBS, JOB, NAMESPACE)
    world.kube.put(build_job())
    await world.step()
    assert world.ready() == ("False", "OutputNameTaken")
    world.pass_time(1000)
    await world.step()
    assert world.job_pods() == []


async def test_pods_of_a_deleted_pool_on_a_lost_node_are_removed_by_force() -> None:
    world = World(build_pool(), build_base())
    await world.pool()
    world.start_pods()
    (name,) = world.pod_names()
    await world.kube.delete(PODS, name, NAMESPACE)
    world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
    result = await world.reconcile("InferencePool", "chat")
    assert result.requeue_after_s is not None
    world.pass_time(result.requeue_after_s + 1)
    await world.reconcile("InferencePool", "chat")
    assert world.pods() == []


async def test_pools_that_will_not_load_the_adapter_are_said_from_the_first_pass_and_stop_nothing() -> None:
    world = JobWorld(output={"name": "support", "attachTo": [{"pool": "chat"}]})
    status = await world.go()
    assert status["phase"] == "Preparing"
    (warning,) = status["warnings"]
    assert "there is no InferencePool chat" in warning
    registered = next(c for c in status["conditions"] if c["type"] == "Registered")
    assert (registered["status"], warning in registered["message"]) == ("Unknown", True)
    world.kube.put(build_pool())
    assert "takes no adapters" in (await world.step())["warnings"][0]
    world.kube.put(build_pool(adapters={}))
    assert (await world.step())["warnings"] == []
