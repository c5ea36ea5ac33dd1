"""The life of a FineTuneJob, told as sequences: state in, event, state out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.api import FineTuneJob
from llmos_operator.kube.client import Resource
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import CONFIG_MAPS, FINE_TUNE_JOBS, LLM_MODELS, PERSISTENT_VOLUME_CLAIMS
from tests.operator.reconcilers.job_world import CHECKPOINT, JOB, REPORT, JobWorld, build_base
from tests.operator.reconcilers.world import NAMESPACE, build_model

ORIGIN = {"job": JOB, "baseDigest": "sha256:0123", "datasetDigest": "sha256:d"}


async def test_a_job_prepares_trains_evaluates_and_registers() -> None:
    world = JobWorld(output={"name": "support", "attachTo": [{"pool": "chat"}]})
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Preparing", ("False", "Preparing"))
    assert status["baseDigest"] == "sha256:0123"
    assert world.job_pods() == ["tune-prepare-1"]
    world.run_pod("tune-prepare-1")
    await world.step()
    world.end_pod("tune-prepare-1", outcome="prepared", report=REPORT)
    status = await world.go(2)
    assert world.job_pods() == ["tune-train-1"]
    assert (status["phase"], status["datasetReport"]["trainExamples"]) == ("Training", 190)
    assert world.condition("DatasetReady") == ("True", "Prepared")
    await world.train()
    assert world.ready() == ("False", "Training")
    world.complete()
    status = await world.go(2)
    assert (status["phase"], world.ready()) == ("Succeeded", ("True", "Registered"))
    assert status["evaluation"]["metrics"][0]["result"] == 1.0
    assert status["output"] == {
        "digest": "sha256:out",
        "uri": "pvc://tune-work/output",
        "modelRef": {"name": "support"},
    }
    assert world.output()["spec"] == {
        "source": {"uri": "pvc://tune-work/output"},
        "origin": ORIGIN,
        "adapter": {"baseModelRef": {"name": "smollm2"}, "attachTo": ["chat"]},
    }
    assert world.job_pods() == []
    reasons = [event["reason"] for event in world.kube.events]
    assert reasons == ["Starting", "Training", "Registered"]


async def test_a_merged_result_is_a_model_of_its_own_also_when_the_base_has_changed() -> None:
    world = JobWorld(output={"name": "support", "kind": "merged"})
    await world.prepare()
    await world.train()
    world.complete()
    world.kube.put(build_base("sha256:another"))
    status = await world.go(2)
    assert (status["phase"], world.ready()) == ("Succeeded", ("True", "Registered"))
    assert world.output()["spec"] == {"source": {"uri": "pvc://tune-work/output"}, "origin": ORIGIN}


async def test_the_claim_is_owned_by_the_job_and_in_the_end_by_the_model_too() -> None:
    world = JobWorld()
    await world.prepare()
    (claim,) = world.kube.all(PERSISTENT_VOLUME_CLAIMS)
    assert [owner["kind"] for owner in claim["metadata"]["ownerReferences"]] == ["FineTuneJob"]
    await world.train()
    world.complete()
    await world.go()
    (claim,) = world.kube.all(PERSISTENT_VOLUME_CLAIMS)
    owners = claim["metadata"]["ownerReferences"]
    assert [(owner["kind"], owner.get("controller", False)) for owner in owners] == [
        ("FineTuneJob", True),
        ("LLMModel", False),
    ]
    world.kube.finish_deletion(FINE_TUNE_JOBS, JOB, NAMESPACE)
    world.kube.collect_garbage()
    assert world.kube.all(PERSISTENT_VOLUME_CLAIMS)


async def test_its_pods_read_the_job_from_a_config_map() -> None:
    world = JobWorld()
    await world.go()
    (config,) = world.kube.all(CONFIG_MAPS)
    told = FineTuneJob.model_validate(json.loads(config["data"]["job.json"]))
    assert told.spec == FineTuneJob.model_validate(world.kube.stored(FINE_TUNE_JOBS, NAMESPACE, JOB)).spec


async def _begin(world: JobWorld) -> None:
    await world.go()


async def _run(world: JobWorld) -> None:
    await world.prepare()
    await world.train()
    world.tell("tune-train-1", progress={"step": 5, "totalSteps": 100, "loss": 2.0})
    world.pass_time(5)
    await world.step()


async def _finish(world: JobWorld) -> None:
    await _run(world)
    world.complete()
    await world.go()


async def _fail(world: JobWorld) -> None:
    await _run(world)
    world.end_pod("tune-train-1", code=1)
    await world.go()


@pytest.mark.parametrize("reach", [_begin, _run, _finish, _fail])
async def test_a_second_reconcile_writes_nothing(reach: Any) -> None:
    world = JobWorld()
    await reach(world)
    world.kube.forget_writes()
    await world.go()
    assert world.kube.changes == []


async def test_a_base_that_is_deleted_before_it_was_fetched_is_never_started_from() -> None:
    world = JobWorld()
    base = build_base()
    facts = {"status": "False", "reason": "Fetching", "observedGeneration": 1, "lastTransitionTime": world.stamp()}
    conditions = [{"type": "Stored", **facts}, {"type": "Ready", **facts}]
    metadata = {**base["metadata"], "finalizers": ["llmos.dev/in-use"]}
    world.kube.put({**base, "metadata": metadata, "status": {**base["status"], "conditions": conditions}})
    await world.go()
    assert (world.ready(), world.job_pods()) == (("False", "ModelNotReady"), [])
    conditions[1]["reason"] = "InUse"
    metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.kube.put({**base, "metadata": metadata, "status": {**base["status"], "conditions": conditions}})
    status = await world.go()
    assert (world.ready(), world.job_pods()) == (("False", "ModelNotReady"), [])
    message = next(each["message"] for each in status["conditions"] if each["type"] == "Ready")
    assert "deleted before its files were complete" in message
    conditions[0] |= {"status": "True", "reason": "Stored"}
    world.kube.put({**base, "metadata": metadata, "status": {**base["status"], "conditions": conditions}})
    await world.go()
    assert world.job_pods() == ["tune-prepare-1"]


async def test_bad_data_ends_the_job_with_the_lines_and_without_a_train_pod() -> None:
    world = JobWorld(retries={"user": 5})
    await world.go()
    message = "train.jsonl:3: no field prompt."
    world.end_pod("tune-prepare-1", code=1, reason="DatasetInvalid", message=message)
    status = await world.go(4)
    assert (status["phase"], world.ready()) == ("Failed", ("False", "DatasetInvalid"))
    assert message in status["conditions"][0]["message"]
    assert world.job_pods() == ["tune-prepare-1"]
    assert status["completionTime"]
    world.pass_time(1000)
    assert (await world.go())["phase"] == "Failed"
    assert world.job_pods() == ["tune-prepare-1"]


async def test_suspension_saves_waits_and_goes_on() -> None:
    world = JobWorld(checkpoint={"onPreempt": {"deadlineSeconds": 77}})
    await world.prepare()
    await world.train()
    assert world.pod("tune-train-1")["spec"]["terminationGracePeriodSeconds"] == 77
    world.change(suspend=True)
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Suspended", ("False", "Suspended"))
    assert "deletionTimestamp" in world.pod("tune-train-1")["metadata"]
    world.end_pod("tune-train-1", code=143, outcome="stopped", lastCheckpoint=CHECKPOINT, lostAcceleratorSeconds=0)
    await world.step()
    world.end_pods()
    world.pass_time(1000)
    status = await world.go()
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
    assert status["lastCheckpoint"]["step"] == 40
    assert world.job_pods() == []
    world.change(suspend=False)
    assert (await world.go())["phase"] == "Training"
    assert world.job_pods() == ["tune-train-2"]


async def test_suspension_while_the_dataset_is_prepared_spends_no_retries() -> None:
    world = JobWorld(retries={"infrastructure": 0})
    await world.go()
    world.run_pod("tune-prepare-1")
    await world.step()
    world.change(suspend=True)
    await world.go()
    world.end_pod("tune-prepare-1", code=143)
    assert (await world.go())["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
    world.end_pods()
    await world.go()
    world.change(suspend=False)
    assert (await world.go())["phase"] == "Preparing"
    assert world.job_pods() == ["tune-prepare-2"]


async def test_a_result_that_is_gone_with_its_claim_is_not_registered() -> None:
    world = JobWorld(evaluate={"gates": [{"metric": "eval_loss", "max": 0.5}]})
    await world.prepare()
    await world.train()
    world.complete()
    await world.go()
    world.kube.finish_deletion(PERSISTENT_VOLUME_CLAIMS, "tune-work", NAMESPACE)
    world.change(evaluate={"gates": []})
    for _ in range(2):
        assert (await world.go())["phase"] == "Failed"
        assert "Claim tune-work is gone, and the result" in world.status_now()["conditions"][-1]["message"]
        assert world.models() == ["smollm2"]


async def test_no_second_pod_is_made_before_the_first_has_ended() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.change(suspend=True)
    await world.go()
    world.change(suspend=False)
    await world.go()
    assert world.job_pods() == ["tune-train-1"]
    world.end_pods()
    await world.go()
    assert world.job_pods() == ["tune-train-2"]


async def test_a_failing_gate_registers_nothing_and_another_gate_lets_it_go_on() -> None:
    world = JobWorld(evaluate={"gates": [{"metric": "eval_loss", "max": 0.5}]})
    await world.prepare()
    await world.train()
    world.complete()
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "GateFailed"))
    assert status["evaluation"]["gates"][0]["passed"] is False
    assert world.models() == ["smollm2"]
    assert world.job_pods() == ["tune-train-1"]
    world.change(evaluate={"gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.95}]})
    assert (await world.go())["phase"] == "Succeeded"
    assert world.models() == ["smollm2", "support"]


async def test_a_base_model_that_changed_is_not_gone_on_with() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.end_pod("tune-train-1", code=137)
    await world.go()
    world.kube.put(build_base("sha256:other"))
    world.pass_time(60)
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "BaseModelChanged"))
    assert world.job_pods() == ["tune-train-1"]
    world.kube.put(build_base())
    assert (await world.go())["phase"] == "Training"


async def test_the_model_of_somebody_else_is_not_overwritten() -> None:
    other = build_model("support")
    world = JobWorld(other)
    await world.prepare()
    await world.train()
    world.complete()
    assert ((await world.go())["phase"], world.ready()) == ("Failed", ("False", "OutputNameTaken"))
    assert world.output()["spec"] == other["spec"]
    world.kube.finish_deletion(LLM_MODELS, "support", NAMESPACE)
    assert (await world.go())["phase"] == "Succeeded"


async def test_a_model_that_somebody_makes_at_the_same_moment_is_not_taken_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.complete()
    other, look = build_model("support"), world.kube.get

    async def look_too_early(resource: Resource, name: str, namespace: str = "") -> dict[str, Any] | None:
        """Somebody makes the model between the look and the write."""
        seen = await look(resource, name, namespace)
        if resource is LLM_MODELS and name == "support" and seen is None:
            world.kube.put(other)
        return seen

    monkeypatch.setattr(world.kube, "get", look_too_early)
    status = await world.step()
    assert (status["phase"], world.ready()) == ("Pending", ("False", "OutputNameTaken"))
    assert world.output()["spec"] == other["spec"]
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "OutputNameTaken"))
    assert world.output()["spec"] == other["spec"]
    assert status["output"]["digest"] == "sha256:out", "the result is still there"


async def test_a_claim_that_took_the_name_of_the_jobs_is_not_registered() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.complete()
    claim = world.kube.stored(PERSISTENT_VOLUME_CLAIMS, NAMESPACE, "tune-work")
    world.kube.put({**claim, "metadata": {**claim["metadata"], "ownerReferences": []}})
    await world.go()
    assert world.ready() == ("False", "OutputNameTaken")
    assert world.models() == ["smollm2"]
    world.kube.put(claim)
    assert (await world.go())["phase"] == "Succeeded"


async def test_a_finished_job_does_not_make_its_model_again() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.complete()
    await world.go()
    world.kube.finish_deletion(LLM_MODELS, "support", NAMESPACE)
    assert (await world.go())["phase"] == "Succeeded"
    assert world.models() == ["smollm2"]


async def test_a_claim_that_was_deleted_has_the_dataset_prepared_again() -> None:
    world = JobWorld()
    await world.prepare()
    await world.train()
    world.end_pod("tune-train-1", code=137)
    await world.go()
    world.kube.finish_deletion(PERSISTENT_VOLUME_CLAIMS, "tune-work", NAMESPACE)
    world.pass_time(60)
    await world.go()
    assert world.job_pods() == ["tune-prepare-2"]


@pytest.mark.parametrize("verb", ["apply", "apply_status", "delete"])
@pytest.mark.parametrize("kind", ["Pod", "FineTuneJob", "LLMModel", "PersistentVolumeClaim", "ConfigMap"])
async def test_an_operator_that_is_cut_off_anywhere_is_followed_by_one_that_goes_on(verb: str, kind: str) -> None:
    """Every write of a kind fails once at each step of a whole life, with a kill in the middle."""
    world = JobWorld()

    async def go() -> None:
        for _ in range(6):
            world.kube.fail_next(verb, kind, Unavailable("cut off"))
            try:
                await world.step()
            except Unavailable:
                await world.step()
            world.kube._failures.clear()

    await go()
    world.run_pod("tune-prepare-1")
    await go()
    world.end_pod("tune-prepare-1", outcome="prepared", report=REPORT)
    await go()
    world.run_pod("tune-train-1")
    await go()
    world.end_pod("tune-train-1", code=137)
    await go()
    world.pass_time(11)
    await go()
    world.run_pod("tune-train-2")
    await go()
    world.complete(2)
    await go()
    status = world.status_now()
    assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert world.job_pods() == []


async def test_the_remedy_for_a_base_model_that_is_not_ready_names_it() -> None:
    world = JobWorld()
    base = build_base()
    base["status"]["conditions"][0]["status"] = "False"
    world.kube.put(base)
    await world.go()
    assert world.ready() == ("False", "ModelNotReady")
    (ready,) = [each for each in world.status_now()["conditions"] if each["type"] == "Ready"]
    assert "kubectl describe llmmodel smollm2. The job begins by itself" in ready["message"]


async def test_a_job_waits_for_a_base_model_that_is_not_there() -> None:
    world = JobWorld(baseModelRef={"name": "absent"})
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Pending", ("False", "ModelNotFound"))
    assert world.job_pods() == []


async def test_what_is_left_of_an_earlier_job_of_the_name_is_not_taken_over() -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "tune-work", "namespace": NAMESPACE},
        "spec": {},
    }
    world = JobWorld(claim)
    await world.go()
    assert world.ready() == ("False", "OutputNameTaken")
    assert world.job_pods() == []
