"""Pools: state in, one pass, state out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.api import Reason
from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES
from llmos_operator.reconcilers.status_pace import PACE_S
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, build_pool, condition


async def test_a_new_pool_gets_a_service_and_its_pods_and_says_that_it_starts() -> None:
    world = World(build_model(), build_pool(replicas=2))
    pool = await world.pool()
    assert len(world.pods()) == 2
    assert world.kube.stored(SERVICES, NAMESPACE, "chat")["spec"]["selector"]["llmos.dev/serving"] == "true"
    assert condition(pool)["reason"] == "Starting"
    assert pool["status"]["desiredReplicas"] == 2
    assert pool["status"]["url"] == "http://chat.team-a.svc/v1"


async def test_a_pool_whose_replicas_answer_is_ready_and_a_second_pass_writes_nothing() -> None:
    world = World(build_model(), build_pool(replicas=2))
    await world.pool()
    world.start_pods()
    pool = await world.pool()
    assert condition(pool) | {"status": "True", "reason": "Ready"} == condition(pool)
    world.kube.forget_writes()
    await world.pool()
    assert world.kube.writes == []


async def test_the_more_pods_a_look_reads_the_longer_the_pool_rests() -> None:
    world = World(build_model(), build_pool(replicas=3))
    first, second = [await world.reconcile("InferencePool", "chat") for _ in range(2)]
    assert [first.rest_s, second.rest_s] == pytest.approx([0, 0.03])


async def test_each_change_of_the_ready_reason_is_exactly_one_event() -> None:
    world = World(build_model(), build_pool())
    for _ in range(3):
        await world.pool()
    world.start_pods()
    for _ in range(3):
        await world.pool()
    assert [event["reason"] for event in world.kube.events] == ["Ready"]


async def test_scaling_down_takes_the_least_busy_pod_out_of_the_service_then_deletes_it() -> None:
    world = World(build_model(), build_pool(replicas=2))
    await world.pool()
    world.start_pods()
    await world.pool()
    quiet, busy = world.pod_names()
    world.in_flight = {quiet: 1, busy: 7}
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    world.kube.put({**pool, "spec": {**pool["spec"], "replicas": 1}})
    await world.pool()
    labels = {pod["metadata"]["name"]: pod["metadata"]["labels"]["llmos.dev/serving"] for pod in world.pods()}
    assert labels == {quiet: "false", busy: "true"}
    world.pass_time(3)
    await world.pool()
    assert [p["metadata"]["name"] for p in world.pods() if "deletionTimestamp" in p["metadata"]] == [quiet]
    world.finish_deletions()
    pool = await world.pool()
    assert condition(pool)["reason"] == "Ready"
    assert world.pod_names() == [busy]


async def test_a_changed_argument_rolls_out_one_replica_at_a_time_without_losing_any() -> None:
    world = World(build_model(), build_pool(replicas=3))
    await world.pool()
    world.start_pods()
    old = set(world.pod_names())
    pool = await world.pool()
    world.kube.put({**pool, "spec": {**pool["spec"], "engine": {"name": "simulator", "args": {"max-num-seqs": 7}}}})
    for _ in range(30):
        await world.pool()
        serving = [
            p
            for p in world.pods()
            if p["metadata"]["labels"]["llmos.dev/serving"] == "true" and p.get("status", {}).get("podIP")
        ]
        assert len(serving) >= 3, "never below what must be available"
        assert len(world.pods()) <= 4, "never above surge"
        world.start_pods()
        world.finish_deletions()
        world.pass_time(3)
    assert old.isdisjoint(world.pod_names())
    assert condition(await world.pool())["reason"] == "Ready"


@pytest.mark.parametrize("reason", [Reason.BadEngineArgument, Reason.UnknownArchitecture, Reason.ContextTooLong])
async def test_a_failure_that_needs_a_change_is_told_once_and_never_retried(reason: Reason) -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    world.fail_pod(name, reason, "the engine refused --frobnicate. Correct spec.engine.args.")
    pool = await world.pool()
    assert condition(pool)["reason"] == reason.value
    assert "--frobnicate" in condition(pool)["message"]
    assert pool["status"]["accelerators"] == 0
    for _ in range(10):
        world.pass_time(3600)
        await world.pool()
    assert world.pod_names() == [name]
    assert [event["reason"] for event in world.kube.events] == [reason.value]


async def test_a_crash_is_retried_after_a_pause_by_a_new_pod_that_knows_its_attempt() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    world.fail_pod(name, Reason.EngineCrashed)
    result = await world.reconcile("InferencePool", "chat")
    assert result.requeue_after_s == 10
    assert world.pod_names() == [name]
    world.pass_time(10)
    await world.pool()
    world.finish_deletions()
    (pod,) = world.pods()
    assert pod["metadata"]["name"] != name
    assert pod["metadata"]["annotations"]["llmos.dev/attempt"] == "1"


async def test_attempts_that_go_on_failing_do_not_flap_between_starting_and_failed() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    for _ in range(4):
        (name,) = [p["metadata"]["name"] for p in world.pods() if p.get("status", {}).get("phase") != "Failed"]
        world.fail_pod(name, Reason.EngineCrashed)
        await world.pool()
        world.pass_time(301)
        await world.pool()
        pool = await world.pool()
        assert condition(pool)["reason"] == "EngineCrashed"
        world.finish_deletions()
    assert [event["reason"] for event in world.kube.events] == ["EngineCrashed"]


async def test_a_container_killed_at_its_memory_limit_is_told_as_out_of_memory() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    terminated = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": world.stamp(), "startedAt": world.stamp()}
    world.kube.set_status(
        PODS,
        name,
        NAMESPACE,
        phase="Failed",
        containerStatuses=[{"name": "engine", "state": {"terminated": terminated}}],
    )
    assert condition(await world.pool())["reason"] == "OutOfMemory"


async def test_a_pod_that_was_deleted_by_hand_is_replaced() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    world.start_pods()
    await world.pool()
    await world.kube.delete(PODS, world.pod_names()[0], NAMESPACE)
    await world.pool()
    assert len(world.pods()) == 2, "its replacement does not wait for its end"


async def test_an_image_that_cannot_be_pulled_holds_no_accelerator_for_ever() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (pod,) = world.pods()
    name = pod["metadata"]["name"]
    world.kube.put({**pod, "spec": {**pod["spec"], "nodeName": "node-1"}})
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image nowhere/nothing"}
    world.kube.set_status(
        PODS,
        name,
        NAMESPACE,
        phase="Pending",
        startTime=world.stamp(),
        containerStatuses=[{"name": "engine", "image": "nowhere/nothing", "state": {"waiting": waiting}}],
    )
    pool = await world.pool()
    assert condition(pool)["reason"] == "ImagePullFailed"
    assert "nowhere/nothing" in condition(pool)["message"]
    world.pass_time(61)
    await world.pool()
    assert world.kube.stored(PODS, NAMESPACE, name)["spec"]["activeDeadlineSeconds"] == 1


async def test_the_words_of_the_scheduler_reach_the_pool() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "lastTransitionTime": world.stamp(),
    }
    world.kube.set_status(PODS, name, NAMESPACE, phase="Pending", conditions=[unschedulable])
    assert condition(await world.pool())["reason"] == "Starting"
    world.pass_time(11)
    pool = await world.pool()
    assert condition(pool)["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition(pool)["message"]


async def test_a_claim_that_is_lost_under_a_pool_is_told() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    lost = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": 'persistentvolumeclaim "model-smollm2" not found',
        "lastTransitionTime": world.stamp(),
    }
    world.kube.set_status(PODS, name, NAMESPACE, phase="Pending", conditions=[lost])
    world.pass_time(11)
    told = condition(await world.pool())
    assert told["reason"] == "ClaimNotBound"
    assert 'persistentvolumeclaim "model-smollm2" not found' in told["message"]


async def test_a_secret_that_is_gone_when_a_replica_fetches_is_told_and_holds_no_accelerator_for_ever() -> None:
    world = World(build_model(source={"uri": "hf://org/name@main", "secretRef": {"name": "hf"}}), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    world.kube.put({**world.pods()[0], "spec": {**world.pods()[0]["spec"], "nodeName": "node-1"}})
    absent = {"reason": "CreateContainerConfigError", "message": 'secret "hf" not found'}
    fetch = {"name": "fetch", "image": "worker-lite", "state": {"waiting": absent}}
    world.kube.set_status(
        PODS, name, NAMESPACE, phase="Pending", startTime=world.stamp(), initContainerStatuses=[fetch]
    )
    told = condition(await world.pool())
    assert told["reason"] == "SecretNotFound"
    assert 'secret "hf" not found' in told["message"]
    assert "kubectl create secret" in told["message"]
    world.pass_time(61)
    await world.pool()
    assert world.kube.stored(PODS, NAMESPACE, name)["spec"]["activeDeadlineSeconds"] == 1


async def test_a_policy_that_forbids_the_pod_is_told_and_retried_slowly() -> None:
    world = World(build_model(), build_pool())
    world.kube.fail_next("apply", "Pod", Forbidden("violates PodSecurity restricted", code=403))
    result = await world.reconcile("InferencePool", "chat")
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    assert condition(pool)["reason"] == "ForbiddenByPolicy"
    assert "violates PodSecurity" in condition(pool)["message"]
    assert result.requeue_after_s == 10
    await world.pool()
    assert len(world.pods()) == 1


async def test_an_api_server_that_is_away_is_left_to_the_queue() -> None:
    world = World(build_model(), build_pool())
    world.kube.fail_next("list", "Pod", Unavailable("no answer"))
    with pytest.raises(Unavailable):
        await world.pool()
    assert world.kube.writes == []


async def test_a_missing_model_and_a_missing_class_are_named_before_any_pod_exists() -> None:
    world = World(build_pool())
    assert condition(await world.pool())["reason"] == "ModelNotFound"
    world.kube.put(build_model())
    world.kube.put(build_pool(accelerator={"class": "nvidia-h100", "count": 1}))
    pool = await world.pool()
    assert condition(pool)["reason"] == "AcceleratorClassNotFound"
    assert "nvidia-h100" in condition(pool)["message"]
    assert world.pods() == []


def accelerator_class(**status: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": "h100"},
        "spec": {"memory": "80Gi", "nodeSelector": {"gpu": "h100"}},
        "status": {"observedGeneration": 1, **status},
    }


async def test_a_pool_that_no_node_can_hold_says_so_and_makes_no_pod() -> None:
    world = World(
        build_model(),
        accelerator_class(nodes=2, capacity=8, largestNode=4),
        build_pool(accelerator={"class": "h100", "count": 8}),
    )
    pool = await world.pool()
    assert condition(pool)["reason"] == "NoNodeHasAccelerator"
    assert "8 x h100" in condition(pool)["message"]
    assert world.pods() == []


async def test_the_accelerators_of_a_pool_are_counted_and_placed() -> None:
    world = World(
        build_model(),
        accelerator_class(nodes=1, capacity=8, largestNode=8),
        build_pool(accelerator={"class": "h100", "count": 2}, replicas=2),
    )
    await world.pool()
    world.pass_time(PACE_S)
    pool = await world.pool()
    (pod, _) = world.pods()
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pod["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert pool["status"]["accelerators"] == 4


async def test_a_refused_change_leaves_what_runs_alone() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    world.start_pods()
    pool = await world.pool()
    world.kube.put({**pool, "spec": {**pool["spec"], "modelRef": {"name": "missing"}}})
    pool = await world.pool()
    assert condition(pool)["reason"] == "ModelNotFound"
    assert pool["status"]["readyReplicas"] == 1
    assert len(world.pods()) == 1


async def test_the_service_comes_with_the_first_replica_and_stays_when_the_last_one_goes() -> None:
    world = World(build_model(), build_pool(replicas=0))
    await world.pool()
    assert world.kube.all(SERVICES) == []
    world.kube.put(build_pool(replicas=1))
    await world.pool()
    (service,) = world.kube.all(SERVICES)
    world.start_pods()
    world.kube.put(build_pool(replicas=0))
    for _ in range(4):
        await world.pool()
        world.finish_deletions()
        world.pass_time(60)
    assert world.pods() == []
    assert world.kube.all(SERVICES) == [service]


async def test_the_service_is_made_before_the_first_pod() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    assert [write.kind for write in world.kube.writes] == ["Service", "Pod", "InferencePool"]


async def test_a_service_that_was_changed_is_mended_while_there_are_replicas() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    service = world.kube.stored(SERVICES, NAMESPACE, "chat")
    world.kube.put({**service, "spec": {**service["spec"], "selector": {}}})
    await world.pool()
    assert world.kube.stored(SERVICES, NAMESPACE, "chat")["spec"]["selector"] == service["spec"]["selector"]


async def test_a_foreign_service_of_the_same_name_is_not_taken_over() -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "other"}},
    }
    world = World(build_model(), build_pool(), foreign)
    pool = await world.pool()
    assert "Service chat exists already" in condition(pool)["message"]
    assert world.kube.stored(SERVICES, NAMESPACE, "chat")["spec"]["selector"] == {"app": "other"}


async def test_a_pool_that_is_gone_or_going_is_left_to_garbage_collection() -> None:
    world = World()
    await world.reconcile("InferencePool", "chat")
    assert world.kube.writes == []


async def test_scaled_to_zero_is_ready_and_says_so() -> None:
    world = World(build_model(), build_pool(replicas=0))
    pool = await world.pool()
    assert condition(pool) | {"status": "True", "reason": "ScaledToZero"} == condition(pool)
    assert world.pods() == []


async def test_an_operator_that_dies_after_any_write_leaves_nothing_doubled() -> None:
    """Stop after the n-th write, start anew, and compare with an undisturbed run."""
    undisturbed = World(build_model(), build_pool(replicas=3))
    await undisturbed.pool()
    for stop_after in range(1, 6):
        world = World(build_model(), build_pool(replicas=3))
        for verb, kind in (("apply", "Service"), ("apply", "Pod"), ("apply_status", "InferencePool")):
            world.kube.fail_next(verb, kind, Unavailable("killed"), times=stop_after % 3)
        for _ in range(10):
            try:
                await world.pool()
            except Unavailable:
                continue
        assert world.pod_names() == undisturbed.pod_names()


async def test_a_pool_that_starts_for_long_is_looked_at_less_and_less() -> None:
    world = World(build_model(), build_pool())
    looks = []
    for _ in range(7):
        looks.append((await world.reconcile("InferencePool", "chat")).requeue_after_s)
        world.pass_time(looks[-1] or 0)
    assert looks == [10, 10, 20, 40, 80, 160, 300]


async def test_a_replica_that_ran_well_is_replaced_at_once_and_its_failure_stays_visible_until_then() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    world.start_pods()
    await world.pool()
    (pod,) = world.pods()
    name, started = pod["metadata"]["name"], pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    world.pass_time(120)
    message = json.dumps({"reason": "EngineHung", "message": "it hung. Look at the log."})
    terminated = {"exitCode": 1, "message": message, "startedAt": started, "finishedAt": world.stamp()}
    world.kube.set_status(
        PODS,
        name,
        NAMESPACE,
        phase="Failed",
        conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": world.stamp()}],
        containerStatuses=[{"name": "engine", "state": {"terminated": terminated}}],
    )
    pool = await world.pool()
    assert condition(pool)["reason"] == "EngineHung"
    world.finish_deletions()
    assert len([p for p in world.pods() if p["metadata"]["name"] != name]) == 1, "no pause"
    assert condition(await world.pool())["reason"] == "EngineHung", "what happened stays visible"
    world.start_pods()
    assert condition(await world.pool())["reason"] == "Ready"
    assert [event["reason"] for event in world.kube.events] == ["Ready", "EngineHung", "Ready"]
