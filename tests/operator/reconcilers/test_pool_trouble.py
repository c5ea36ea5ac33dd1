"""Pools in a cluster that does not do as it should, or whose user makes mistakes while replicas answer."""

from __future__ import annotations

from typing import Any

from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS, PODS
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, build_pool, condition


def change(world: World, **spec: Any) -> None:
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    world.kube.put({**pool, "spec": {**pool["spec"], **spec}})


async def serve(world: World) -> dict[str, Any]:
    await world.pool()
    world.start_pods()
    return await world.pool()


async def test_a_pool_that_becomes_invalid_keeps_what_else_its_status_says() -> None:
    world = World(build_model(), build_pool(replicas=2))
    before = (await serve(world))["status"]
    change(world, engine={"name": "simulator", "args": {"port": 9}})
    pool = await world.pool()
    assert condition(pool)["reason"] == "InvalidSpec"
    assert "port is set by LLMOS" in condition(pool)["message"]
    kept = {key for key in before if key not in {"conditions", "observedGeneration"}}
    assert {key: pool["status"][key] for key in kept} == {key: before[key] for key in kept}
    assert condition(pool, "Available")["status"] == "True"
    world.kube.forget_writes()
    await world.pool()
    assert world.kube.writes == []
    change(world, engine={"name": "simulator"})
    assert condition(await world.pool())["reason"] == "Ready"


async def test_a_pool_that_never_had_a_status_and_is_invalid_says_so() -> None:
    world = World(build_model(), build_pool(engine={"name": "simulator", "args": {"port": 9}}))
    assert condition(await world.pool())["reason"] == "InvalidSpec"


async def test_without_a_plan_and_without_a_status_running_replicas_stay() -> None:
    """A status is lost by a backup that was restored, or by a kill between the pods and the status."""
    world = World(build_model(), build_pool(replicas=2, rollout={"maxSurge": 0, "maxUnavailable": 1}))
    pool = await serve(world)
    await world.pool()
    world.kube.put({**pool, "status": {}, "spec": {**pool["spec"], "modelRef": {"name": "missing"}}})
    pool = await world.pool()
    assert condition(pool)["reason"] == "ModelNotFound"
    labels = [pod["metadata"]["labels"]["llmos.dev/serving"] for pod in world.pods()]
    assert labels == ["true", "true"]


async def test_a_pod_that_its_kubelet_refuses_is_replaced_after_a_pause() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    world.kube.set_status(
        PODS,
        name,
        NAMESPACE,
        phase="Failed",
        reason="UnexpectedAdmissionError",
        message="no device",
        startTime=world.stamp(),
    )
    result = await world.reconcile("InferencePool", "chat")
    assert result.requeue_after_s == 10
    world.pass_time(10)
    await world.pool()
    assert world.pod_names() != [name]


async def test_a_pod_on_a_node_that_died_while_it_drained_is_removed_without_any_event() -> None:
    world = World(build_model(), build_pool())
    await serve(world)
    change(world, replicas=0)
    await world.pool()
    world.pass_time(3)
    await world.pool()
    (pod,) = world.pods()
    assert "deletionTimestamp" in pod["metadata"]
    for _ in range(10):
        result = await world.reconcile("InferencePool", "chat")
        if not world.pods():
            break
        assert result.requeue_after_s is not None, "nobody else would wake this pool"
        world.pass_time(result.requeue_after_s)
    assert world.pods() == []


async def test_events_are_cut_by_bytes_as_the_server_counts() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    (name,) = world.pod_names()
    world.fail_pod(name, None, exit_code=1)
    terminated = {"exitCode": 1, "message": "überlang 🙂 " * 300, "finishedAt": world.stamp()}
    world.kube.set_status(
        PODS, name, NAMESPACE, containerStatuses=[{"name": "engine", "state": {"terminated": terminated}}]
    )
    await world.pool()
    note = world.kube.events[-1]["note"]
    assert world.kube.events[-1]["reason"] == "EngineCrashed"
    assert 900 < len(note.encode()) <= 1024


async def test_a_hung_worker_is_not_given_the_time_of_a_drain() -> None:
    world = World(build_model(), build_pool(drain={"timeoutSeconds": 86400}))
    await world.pool()
    (engine,) = world.pods()[0]["spec"]["containers"]
    assert engine["livenessProbe"]["terminationGracePeriodSeconds"] == 30


async def test_a_pool_is_not_blamed_for_a_model_that_cannot_be_read() -> None:
    world = World(build_model(), build_pool())
    await world.pool()
    world.start_pods()
    assert condition(await world.pool())["reason"] == "Ready"
    (model,) = world.kube.all(LLM_MODELS)
    world.kube.put({**model, "spec": {**model["spec"], "format": "of-a-newer-version"}})
    told = await world.pool()
    assert condition(told)["reason"] == "InvalidSpec"
    assert "LLMModel smollm2: the LLMModel's spec.format: " in condition(told)["message"]
    assert told["status"]["readyReplicas"] == 1, "what runs goes on"
    world.kube.put(model)
    assert condition(await world.pool())["reason"] == "Ready"
