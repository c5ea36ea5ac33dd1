"""Models in a cluster that does not do as it should: records lost, pods refused, claims edited, a spec that changes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.api import Reason
from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import INFERENCE_POOLS, JOBS, LLM_MODELS, PERSISTENT_VOLUME_CLAIMS, PODS
from tests.operator.reconcilers.world import NAMESPACE, RESOLVED, World, build_model, build_pool, condition

CLAIM: dict[str, Any] = {"mode": "claim", "size": "5Gi"}


def failure(reason: Reason) -> str:
    return json.dumps({"reason": reason.value, "message": "cause. Remedy."})


def newest_job(world: World, step: str) -> str:
    jobs = [job for job in world.jobs() if job["metadata"]["labels"]["llmos.dev/component"] == step]
    name: str = max(jobs, key=lambda j: int(j["metadata"]["annotations"]["llmos.dev/attempt"]))["metadata"]["name"]
    return name


def change(world: World, **spec: Any) -> None:
    model = world.kube.stored(LLM_MODELS, NAMESPACE, "smollm2")
    world.kube.put({**model, "spec": {**model["spec"], **spec}})


async def resolve(world: World) -> None:
    await world.model()
    world.finish_job(newest_job(world, "inspect"), json.dumps(RESOLVED))
    await world.model()


async def store(world: World) -> None:
    await resolve(world)
    world.finish_job(newest_job(world, "fetch"), "")
    await world.model()


async def test_facts_that_cannot_be_read_are_asked_for_again_after_a_pause() -> None:
    world = World(build_model())
    await world.model()
    world.finish_job(newest_job(world, "inspect"), "")
    result = await world.reconcile("LLMModel", "smollm2")
    assert condition(world.kube.stored(LLM_MODELS, NAMESPACE, "smollm2"))["reason"] == "FetchFailed"
    assert result.requeue_after_s == 10
    world.pass_time(10)
    await resolve(world)
    assert condition(await world.model())["reason"] == "Available"


async def test_a_larger_claim_mends_a_full_disk() -> None:
    world = World(build_model(storage=CLAIM))
    await resolve(world)
    world.finish_job(newest_job(world, "fetch"), failure(Reason.DiskFull), succeeded=False)
    for _ in range(3):
        world.pass_time(3600)
        assert condition(await world.model())["reason"] == "DiskFull"
    change(world, storage={**CLAIM, "size": "50Gi"})
    await world.model()
    (claim,) = world.kube.all(PERSISTENT_VOLUME_CLAIMS)
    assert claim["spec"]["resources"]["requests"]["storage"] == "50Gi"
    world.finish_job(newest_job(world, "fetch"), "")
    assert condition(await world.model())["reason"] == "Available"


async def test_a_claim_that_cannot_grow_is_told_in_the_words_of_the_server() -> None:
    world = World(build_model(storage=CLAIM))
    await resolve(world)
    world.finish_job(newest_job(world, "fetch"), failure(Reason.DiskFull), succeeded=False)
    await world.model()
    change(world, storage={**CLAIM, "size": "50Gi"})
    world.kube.fail_next("apply", "PersistentVolumeClaim", Forbidden("the storageclass must support resize", code=403))
    model = await world.model()
    assert condition(model)["reason"] == "ForbiddenByPolicy"
    assert "must support resize" in condition(model)["message"]


@pytest.mark.parametrize(
    "storage",
    [{**CLAIM, "size": "9Gi"}, {**CLAIM, "size": "1Gi"}, {**CLAIM, "storageClassName": "other"}],
    ids=["larger", "smaller", "of another class"],
)
async def test_a_claim_whose_files_are_complete_is_left_as_it_is(storage: dict[str, Any]) -> None:
    """The API server would refuse most such changes, and a model that can be served would become unready."""
    world = World(build_model(storage=CLAIM))
    await store(world)
    change(world, storage=storage)
    world.kube.forget_writes()
    assert condition(await world.model())["reason"] == "Available"
    assert {write.kind for write in world.kube.writes} == {"LLMModel"}


async def test_a_size_that_the_server_writes_in_another_way_is_not_applied_again() -> None:
    world = World(build_model(storage={**CLAIM, "size": "1024Mi"}))
    await resolve(world)
    (claim,) = world.kube.all(PERSISTENT_VOLUME_CLAIMS)
    world.kube.put({**claim, "spec": {**claim["spec"], "resources": {"requests": {"storage": "1Gi"}}}})
    await world.model()
    world.kube.forget_writes()
    await world.model()
    assert world.kube.writes == []


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)], ids=["keep it", "keep it no longer"])
async def test_whether_the_claim_is_kept_may_be_decided_later(before: bool, after: bool) -> None:
    world = World(build_model(storage={**CLAIM, "keep": before}))
    await store(world)
    change(world, storage={**CLAIM, "keep": after})
    await world.model()
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    await world.reconcile("LLMModel", "smollm2")
    world.kube.collect_garbage()
    assert bool(world.kube.all(PERSISTENT_VOLUME_CLAIMS)) is after


async def test_a_claim_that_was_deleted_by_hand_is_filled_again() -> None:
    world = World(build_model(storage=CLAIM))
    await store(world)
    (claim,) = world.kube.all(PERSISTENT_VOLUME_CLAIMS)
    world.kube.finish_deletion(PERSISTENT_VOLUME_CLAIMS, claim["metadata"]["name"], NAMESPACE)
    assert condition(await world.model())["reason"] == "Fetching"
    world.finish_job(newest_job(world, "fetch"), "")
    assert condition(await world.model())["reason"] == "Available"


async def test_a_model_that_needs_no_claim_any_more_gives_it_back() -> None:
    world = World(build_model(storage=CLAIM))
    await store(world)
    change(world, storage={"mode": "ephemeral"})
    await world.model()
    assert world.kube.all(PERSISTENT_VOLUME_CLAIMS) == []
    assert world.jobs() == []  # the pod of the fetch step would hold the claim, though it has ended


async def test_a_kept_claim_of_an_earlier_source_is_not_thrown_away() -> None:
    world = World(build_model(storage={**CLAIM, "keep": True}))
    await store(world)
    change(world, source={"uri": "hf://org/name@v2"})
    await store(world)
    await world.model()
    assert len(world.kube.all(PERSISTENT_VOLUME_CLAIMS)) == 2


async def test_a_refusal_is_remembered_when_its_pod_is_gone_with_its_node() -> None:
    world = World(build_model())
    await world.model()
    job = newest_job(world, "inspect")
    world.finish_job(job, failure(Reason.UnsafeFormat), succeeded=False)
    await world.model()
    world.kube.finish_deletion(PODS, f"{job}-pod", NAMESPACE)
    for _ in range(3):
        world.pass_time(3600)
        assert condition(await world.model())["reason"] == "UnsafeFormat"
    assert [j["metadata"]["name"] for j in world.jobs()] == [job]
    assert [event["reason"] for event in world.kube.events] == ["UnsafeFormat"]


async def test_a_job_that_waited_in_vain_until_its_deadline_still_says_for_what() -> None:
    world = World(build_model(source={"uri": "hf://org/name", "secretRef": {"name": "hf-token"}}))
    await world.model()
    job = newest_job(world, "inspect")
    world.finish_job(job, "")
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "hf-token" not found'}
    world.kube.set_status(JOBS, job, NAMESPACE, conditions=[])
    world.kube.set_status(
        PODS,
        f"{job}-pod",
        NAMESPACE,
        phase="Pending",
        containerStatuses=[{"name": "inspect", "state": {"waiting": waiting}}],
    )
    assert condition(await world.model())["reason"] == "SecretNotFound"
    world.kube.finish_deletion(PODS, f"{job}-pod", NAMESPACE)
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "lastTransitionTime": world.stamp()}
    world.kube.set_status(JOBS, job, NAMESPACE, conditions=[failed])
    assert condition(await world.model())["reason"] == "SecretNotFound"
    assert [event["reason"] for event in world.kube.events] == ["SecretNotFound"]


async def test_the_secret_is_missed_by_the_container_and_not_by_a_volume() -> None:
    """A kubelet tells a missing Secret of a volume in Events only: the pod would wait without a word."""
    world = World(build_model(source={"uri": "hf://org/name", "secretRef": {"name": "hf-token"}}))
    await world.model()
    spec = world.jobs()[0]["spec"]["template"]["spec"]
    (volume,) = [v for v in spec["volumes"] if v["name"] == "credentials"]
    assert volume["secret"]["optional"] is True
    assert "optional" not in spec["containers"][0]["envFrom"][0]["secretRef"]


async def test_a_job_whose_pod_a_policy_refuses_is_told() -> None:
    """The Job is accepted; only its controller hears that its pod is not."""
    world = World(build_model())
    await world.model()
    assert condition(await world.model())["reason"] == "Inspecting"
    world.pass_time(60)
    model = await world.model()
    assert condition(model)["reason"] == "ForbiddenByPolicy"
    assert f"kubectl describe job {newest_job(world, 'inspect')}" in condition(model)["message"]
    await resolve(world)
    assert condition(await world.model())["reason"] == "Available"


async def test_a_job_that_a_queue_holds_back_is_not_blamed_on_a_policy() -> None:
    world = World(build_model())
    await world.model()
    suspended = {"type": "Suspended", "status": "True", "lastTransitionTime": world.stamp()}
    world.kube.set_status(JOBS, newest_job(world, "inspect"), NAMESPACE, conditions=[suspended])
    world.pass_time(60)
    assert condition(await world.model())["reason"] == "Inspecting"


async def test_a_pod_of_a_step_that_hangs_on_its_node_is_told() -> None:
    world = World(build_model(storage=CLAIM))
    await resolve(world)
    job = newest_job(world, "fetch")
    world.finish_job(job, "")
    world.kube.set_status(JOBS, job, NAMESPACE, conditions=[])
    pod = world.kube.stored(PODS, NAMESPACE, f"{job}-pod")
    world.kube.put({**pod, "spec": {**pod["spec"], "nodeName": "node-1"}})
    creating = [{"name": "fetch", "state": {"waiting": {"reason": "ContainerCreating"}}}]
    world.kube.set_status(
        PODS, f"{job}-pod", NAMESPACE, phase="Pending", startTime=world.stamp(), containerStatuses=creating
    )
    assert condition(await world.model())["reason"] == "Fetching"
    world.pass_time(301)
    model = await world.model()
    assert condition(model)["reason"] == "FetchFailed"
    assert "no container has started" in condition(model)["message"]


async def test_the_facts_are_read_from_the_inspect_container_beside_a_sidecar() -> None:
    world = World(build_model())
    await world.model()
    job = newest_job(world, "inspect")
    world.finish_job(job, json.dumps(RESOLVED))
    sidecar = {"name": "istio-init", "state": {"terminated": {"exitCode": 0, "message": ""}}}
    world.kube.set_status(PODS, f"{job}-pod", NAMESPACE, initContainerStatuses=[sidecar])
    assert condition(await world.model())["reason"] == "Available"


async def test_names_of_jobs_stay_apart_after_a_thousand_attempts() -> None:
    name = "m" * 40
    world = World(build_model(name))
    await world.model(name)
    (job,) = world.jobs()
    job["metadata"]["annotations"]["llmos.dev/attempt"] = "1233"
    world.kube.put(job)
    world.finish_job(job["metadata"]["name"], failure(Reason.RateLimited), succeeded=False)
    await world.model(name)
    for _ in range(3):
        world.pass_time(301)
        await world.model(name)
        await world.model(name)
        (running,) = [j["metadata"] for j in world.jobs() if not j.get("status", {}).get("conditions")]
        assert len(running["name"]) <= 63
        world.finish_job(running["name"], failure(Reason.RateLimited), succeeded=False)
        await world.model(name)
    assert running["annotations"]["llmos.dev/attempt"] == "1236"


async def test_a_model_that_waits_for_its_pools_to_go_is_still_stored() -> None:
    world = World(build_model(storage=CLAIM), build_pool())
    await store(world)
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    model = await world.model()
    assert condition(model)["reason"] == "InUse"
    assert condition(model, "Stored")["status"] == "True"


async def test_a_model_that_cannot_be_read_any_more_can_still_be_deleted_once_no_pool_uses_it() -> None:
    world = World(build_model(), build_pool())
    model = await world.model()
    world.kube.put({**model, "spec": {**model["spec"], "format": "of-a-newer-version"}})
    assert condition(await world.model())["reason"] == "InvalidSpec"
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    assert (await world.reconcile("LLMModel", "smollm2")).requeue_after_s == 5
    assert len(world.kube.all(LLM_MODELS)) == 1
    world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.reconcile("LLMModel", "smollm2")
    assert world.kube.all(LLM_MODELS) == []
