"""A FineTuneJob whose checkpoints are kept in an object store, told as sequences."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos_operator.kube.resources import PERSISTENT_VOLUME_CLAIMS
from tests.operator.reconcilers.job_world import CHECKPOINT, REPORT, JobWorld

STORE = {"uri": "s3://bucket/ml/", "secretRef": {"name": "s3"}}
PLACE = "s3://bucket/ml/team-a/tune"
SAVED = {**CHECKPOINT, "uri": f"{PLACE}/checkpoints/step-00000040.1"}


def world(**spec: Any) -> JobWorld:
    return JobWorld(checkpoint={"storage": STORE}, **spec)


async def test_without_a_claim_all_that_stays_is_in_the_store() -> None:
    jobs = world()
    await jobs.prepare()
    assert jobs.kube.all(PERSISTENT_VOLUME_CLAIMS) == []
    await jobs.train()
    jobs.tell("tune-train-1", progress={"step": 41, "totalSteps": 100}, lastCheckpoint=SAVED)
    jobs.pass_time(5)
    assert (await jobs.step())["lastCheckpoint"]["uri"] == SAVED["uri"]
    jobs.complete()
    status = await jobs.go(2)
    assert status["phase"] == "Succeeded"
    assert status["claimName"] == ""
    assert status["output"]["uri"] == f"{PLACE}/output"
    assert jobs.output()["spec"]["source"] == {"uri": f"{PLACE}/output", "secretRef": {"name": "s3"}}
    assert jobs.kube.all(PERSISTENT_VOLUME_CLAIMS) == []


async def test_a_claim_of_an_earlier_job_is_no_business_of_one_without_a_claim() -> None:
    jobs = world()
    jobs.kube.put(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "tune-work", "namespace": "team-a", "uid": "of-an-earlier-one"},
        }
    )
    await jobs.prepare()
    await jobs.train()
    status = await jobs.step()
    assert (status["phase"], status["claimName"]) == ("Training", "")


async def test_beside_a_claim_the_result_is_read_from_the_claim() -> None:
    jobs = JobWorld(checkpoint={"storage": {**STORE, "mode": "claim"}})
    await jobs.prepare()
    await jobs.train()
    jobs.complete()
    await jobs.go(2)
    assert jobs.output()["spec"]["source"] == {"uri": "pvc://tune-work/output"}
    assert len(jobs.kube.all(PERSISTENT_VOLUME_CLAIMS)) == 1


async def test_a_dataset_that_is_put_away_by_a_second_container_counts_when_that_has_ended() -> None:
    jobs = world()
    await jobs.go()
    prepared = {"exitCode": 0, "message": json.dumps({"outcome": "prepared", "report": REPORT})}
    init = [{"name": "prepare", "state": {"terminated": prepared}}]
    jobs.set_statuses("tune-prepare-1", "Pending", init, [{"name": "keep", "state": {"running": {}}}])
    status = await jobs.step()
    assert status["phase"] == "Preparing"
    ended = [{"name": "keep", "state": {"terminated": {"exitCode": 0}}}]
    jobs.set_statuses("tune-prepare-1", "Succeeded", init, ended)
    await jobs.go(2)
    assert jobs.job_pods() == ["tune-train-1"]


@pytest.mark.parametrize(("reason", "kind"), [("InvalidSource", "user"), ("AccessDenied", "infrastructure")])
async def test_what_the_store_refuses_before_training_counts_as_what_it_is(reason: str, kind: str) -> None:
    jobs = world()
    await jobs.prepare()
    told = {"exitCode": 1, "message": json.dumps({"reason": reason, "message": "The object store says no."})}
    jobs.set_statuses("tune-train-1", "Failed", [{"name": "restore", "state": {"terminated": told}}], [])
    status = await jobs.go(2)
    assert status["attempts"][kind] == 1
    assert "The object store says no." in status["history"][-1]["message"]


async def test_a_checkpoint_that_could_not_be_written_is_a_warning_until_one_is() -> None:
    jobs = world()
    await jobs.prepare()
    await jobs.train()
    jobs.tell("tune-train-1", checkpointTrouble="The checkpoint of step 4 could not be written: no room.")
    jobs.pass_time(5)
    told = ["checkpoint: The checkpoint of step 4 could not be written: no room."]
    assert (await jobs.step())["warnings"] == told
    jobs.pass_time(1)
    assert (await jobs.step())["warnings"] == told, "the log was not read in this pass"
    jobs.tell("tune-train-1", lastCheckpoint=SAVED)
    jobs.pass_time(5)
    assert (await jobs.step()).get("warnings", []) == []


async def test_a_store_that_takes_nothing_is_a_warning_until_it_does() -> None:
    jobs = world()
    await jobs.prepare()
    await jobs.train()
    jobs.tell("tune-train-1", storageTrouble="The object store s3://bucket: no. Mend it.")
    jobs.pass_time(5)
    status = await jobs.step()
    (warning,) = status["warnings"]
    assert warning == "checkpoint.storage.uri: checkpoints are not uploaded. The object store s3://bucket: no. Mend it."
    jobs.pass_time(1)
    assert (await jobs.step())["warnings"] == [warning], "the log was not read in this pass"
    jobs.tell("tune-train-1", lastCheckpoint=SAVED)
    jobs.pass_time(5)
    status = await jobs.step()
    assert status.get("warnings", []) == []
    assert status["lastCheckpoint"]["uri"] == SAVED["uri"]
    assert status["phase"] == "Training"
