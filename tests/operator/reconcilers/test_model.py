"""Models: inspect, fetch, tell, and hold back a deletion."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.api import Reason
from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import (
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    LLM_MODELS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
)
from tests.operator.reconcilers.job_world import build_job
from tests.operator.reconcilers.world import NAMESPACE, RESOLVED, World, build_model, build_pool, condition

CLAIM: dict[str, Any] = {"storage": {"mode": "claim", "size": "5Gi"}}


def failure(reason: Reason, message: str = "cause. Remedy.") -> str:
    return json.dumps({"reason": reason.value, "message": message})


async def resolve(world: World) -> None:
    await world.model()
    (job,) = world.jobs()
    world.finish_job(job["metadata"]["name"], json.dumps(RESOLVED))
    await world.model()


async def test_an_ephemeral_model_is_ready_once_it_is_inspected_and_its_job_is_gone() -> None:
    world = World(build_model())
    model = await world.model()
    assert condition(model)["reason"] == "Inspecting"
    await resolve(world)
    model = await world.model()
    assert condition(model) | {"status": "True", "reason": "Available"} == condition(model)
    assert model["status"]["resolved"]["parameters"] == 134515008
    assert model["status"]["summary"] == "LlamaForCausalLM 134.5M bfloat16 0.25 GiB"
    assert world.jobs() == []


async def test_a_second_pass_over_a_ready_model_writes_nothing() -> None:
    world = World(build_model(**CLAIM))
    await resolve(world)
    (fetch,) = world.jobs()
    world.finish_job(fetch["metadata"]["name"], "")
    await world.model()
    await world.model()
    world.kube.forget_writes()
    await world.model()
    assert world.kube.writes == []


async def test_a_model_with_a_claim_is_fetched_before_it_is_ready() -> None:
    world = World(build_model(**CLAIM))
    await resolve(world)
    model = world.kube.stored(LLM_MODELS, NAMESPACE, "smollm2")
    assert condition(model, "Stored")["reason"] == "Fetching"
    (claim,) = world.kube.all(PERSISTENT_VOLUME_CLAIMS)
    (job,) = world.jobs()
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert {"claimName": claim["metadata"]["name"]} in [v.get("persistentVolumeClaim") for v in volumes]
    world.finish_job(job["metadata"]["name"], "")
    model = await world.model()
    assert condition(model)["status"] == "True"
    assert model["status"]["claimName"] == claim["metadata"]["name"]


async def test_progress_of_the_download_stands_in_the_status() -> None:
    world = World(build_model(**CLAIM))
    await resolve(world)
    (job,) = world.jobs()
    name = job["metadata"]["name"]
    labels = {**job["spec"]["template"]["metadata"]["labels"], "job-name": name}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": NAMESPACE, "labels": labels}}
    world.kube.put({**pod, "status": {"phase": "Running"}})
    line = {"bytesDone": 2**30, "bytesTotal": 2**32, "bytesPerSecond": 1000, "etaSeconds": 9}
    world.kube.logs[(NAMESPACE, "p", "fetch", False)] = f"begin\n{json.dumps(line)}\n"
    model = await world.model()
    assert model["status"]["fetch"] == line
    assert "1.00 of 4.00 GiB" in condition(model, "Stored")["message"]


@pytest.mark.parametrize("reason", [Reason.AccessDenied, Reason.RateLimited, Reason.SourceUnavailable])
async def test_a_source_that_may_recover_is_asked_again_after_a_growing_pause(reason: Reason) -> None:
    world = World(build_model())
    await world.model()
    pauses = []
    for attempt in range(3):
        job = max(world.jobs(), key=lambda j: int(j["metadata"]["annotations"]["llmos.dev/attempt"]))
        assert job["metadata"]["annotations"]["llmos.dev/attempt"] == str(attempt)
        world.finish_job(job["metadata"]["name"], failure(reason), succeeded=False)
        result = await world.reconcile("LLMModel", "smollm2")
        assert condition(world.kube.stored(LLM_MODELS, NAMESPACE, "smollm2"))["reason"] == reason.value
        assert result.requeue_after_s is not None
        pauses.append(result.requeue_after_s)
        world.pass_time(result.requeue_after_s)
        await world.model()
    assert pauses == [10, 20, 40]
    assert len(world.jobs()) <= 2, "old attempts are cleaned up"


@pytest.mark.parametrize("reason", [Reason.InvalidSource, Reason.UnsafeFormat, Reason.UnknownArchitecture])
async def test_what_only_a_change_can_mend_is_not_retried_until_the_source_changes(reason: Reason) -> None:
    world = World(build_model())
    await world.model()
    (job,) = world.jobs()
    world.finish_job(job["metadata"]["name"], failure(reason), succeeded=False)
    for _ in range(5):
        world.pass_time(3600)
        model = await world.model()
    assert condition(model)["reason"] == reason.value
    assert len(world.jobs()) == 1
    world.kube.put({**model, "spec": {**model["spec"], "source": {"uri": "hf://org/other"}}})
    await world.model()
    (new,) = world.jobs()
    assert new["metadata"]["name"] != job["metadata"]["name"]


async def test_a_retry_that_runs_keeps_the_model_unready_without_flapping_events() -> None:
    world = World(build_model())
    await world.model()
    for _ in range(4):
        newest = max(world.jobs(), key=lambda j: int(j["metadata"]["annotations"]["llmos.dev/attempt"]))
        world.finish_job(newest["metadata"]["name"], failure(Reason.RateLimited), succeeded=False)
        await world.model()
        world.pass_time(400)
        await world.model()
        await world.model()
    assert [event["reason"] for event in world.kube.events] == ["RateLimited"]


async def test_a_missing_secret_is_told_while_the_job_waits_for_it() -> None:
    world = World(build_model(source={"uri": "hf://org/name", "secretRef": {"name": "hf-token"}}))
    await world.model()
    (job,) = world.jobs()
    name = job["metadata"]["name"]
    labels = {**job["spec"]["template"]["metadata"]["labels"], "job-name": name}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": NAMESPACE, "labels": labels}}
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "hf-token" not found'}
    status = {"phase": "Pending", "containerStatuses": [{"name": "inspect", "state": {"waiting": waiting}}]}
    world.kube.put({**pod, "status": status})
    model = await world.model()
    assert condition(model)["reason"] == "SecretNotFound"
    assert "hf-token" in condition(model)["message"]


async def test_credentials_go_to_the_step_that_needs_them_and_nowhere_else() -> None:
    world = World(build_model(source={"uri": "hf://org/name", "secretRef": {"name": "hf-token"}}))
    await resolve(world)
    world.kube.put(build_pool(engine={"name": "vllm"}))
    await world.pool()
    (pod,) = [p for p in world.pods() if p["metadata"]["labels"].get("llmos.dev/pool")]
    (fetch,) = pod["spec"]["initContainers"]
    (engine,) = pod["spec"]["containers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "hf-token"}}]
    assert "envFrom" not in engine
    assert all(mount["name"] != "credentials" for mount in engine["volumeMounts"])
    assert pod["spec"]["automountServiceAccountToken"] is False


async def test_a_model_in_use_is_kept_until_its_last_pool_is_gone() -> None:
    world = World(build_model(), build_pool())
    model = await world.model()
    assert model["metadata"]["finalizers"] == ["llmos.dev/in-use"]
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    model = await world.model()
    assert condition(model)["reason"] == "InUse"
    assert "chat" in condition(model)["message"]
    world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.reconcile("LLMModel", "smollm2")
    assert world.kube.all(LLM_MODELS) == []


@pytest.mark.parametrize("teacher", [{}, {"task": "distill", "distill": {"teacherRef": {"name": "smollm2"}}}])
async def test_a_model_that_a_job_starts_or_learns_from_is_kept_until_that_is_over(teacher: dict[str, Any]) -> None:
    base = {"baseModelRef": {"name": "another"}, "method": teacher} if teacher else {}
    world = World(build_model(), build_job(**base))
    await world.model()
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    model = await world.model()
    assert condition(model)["reason"] == "InUse"
    assert "FineTuneJobs that use it: tune." in condition(model)["message"]
    assert (await world.reconcile("LLMModel", "smollm2")).requeue_after_s == 5
    world.kube.set_status(FINE_TUNE_JOBS, "tune", NAMESPACE, phase="Failed")
    await world.reconcile("LLMModel", "smollm2")
    assert world.kube.all(LLM_MODELS) == []


@pytest.mark.parametrize(("keep", "left"), [(True, 1), (False, 0)])
async def test_storage_is_freed_with_the_model_unless_it_is_to_be_kept(keep: bool, left: int) -> None:
    world = World(build_model(storage={"mode": "claim", "keep": keep}))
    await resolve(world)
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    await world.reconcile("LLMModel", "smollm2")
    world.kube.collect_garbage()
    assert len(world.kube.all(PERSISTENT_VOLUME_CLAIMS)) == left
    assert world.jobs() == []


async def test_the_claim_of_an_earlier_source_goes_when_the_new_one_is_stored() -> None:
    world = World(build_model(**CLAIM))
    await resolve(world)
    world.finish_job(world.jobs()[0]["metadata"]["name"], "")
    model = await world.model()
    world.kube.put({**model, "spec": {**model["spec"], "source": {"uri": "hf://org/name@v2"}}})
    await world.model()
    (inspect,) = [j for j in world.jobs() if "inspect" in j["metadata"]["name"]]
    world.finish_job(inspect["metadata"]["name"], json.dumps(RESOLVED))
    await world.model()
    assert len(world.kube.all(PERSISTENT_VOLUME_CLAIMS)) == 2, "the old files stay while the new ones come"
    (fetch,) = [j for j in world.jobs() if "fetch" in j["metadata"]["name"]]
    world.finish_job(fetch["metadata"]["name"], "")
    model = await world.model()
    (claim,) = world.kube.all(PERSISTENT_VOLUME_CLAIMS)
    assert claim["metadata"]["name"] == model["status"]["claimName"]


async def test_a_forbidden_job_is_told_as_a_policy() -> None:
    world = World(build_model())
    world.kube.fail_next("apply", "Job", Forbidden("exceeded quota: team-a", code=403))
    model = await world.model()
    assert condition(model)["reason"] == "ForbiddenByPolicy"
    assert "exceeded quota" in condition(model)["message"]


async def test_a_model_that_lies_in_a_claim_already_is_neither_fetched_nor_copied() -> None:
    world = World(build_model(source={"uri": "pvc://weights/smollm2"}, **CLAIM))
    await resolve(world)
    model = await world.model()
    assert condition(model)["status"] == "True"
    assert world.jobs() == []
    world.kube.put(build_pool(engine={"name": "vllm"}))
    await world.pool()
    (pod,) = [p for p in world.kube.all(PODS) if p["metadata"]["labels"].get("llmos.dev/pool")]
    assert "initContainers" not in pod["spec"]
    assert "/source/smollm2" in pod["spec"]["containers"][0]["command"]


async def test_a_full_disk_is_tried_again_when_the_storage_grows() -> None:
    world = World(build_model(**CLAIM))
    await resolve(world)
    (fetch,) = world.jobs()
    assert "5368709120" in fetch["spec"]["template"]["spec"]["containers"][0]["command"]
    world.finish_job(fetch["metadata"]["name"], failure(Reason.DiskFull), succeeded=False)
    world.pass_time(3600)
    model = await world.model()
    assert condition(model)["reason"] == "DiskFull"
    assert len(world.jobs()) == 1
    world.kube.put({**model, "spec": {**model["spec"], "storage": {"mode": "claim", "size": "9Gi"}}})
    await world.model()
    await world.model()
    (retry,) = world.jobs()
    assert retry["metadata"]["annotations"]["llmos.dev/attempt"] == "1"
    assert world.kube.all(PERSISTENT_VOLUME_CLAIMS)[0]["spec"]["resources"]["requests"]["storage"] == "9Gi"
