"""Replicas of several pods under a quota: all gates or none, all nodes or none, and back-off when that fails."""

from __future__ import annotations

import random
from typing import Any

import pytest

from llmos_operator.kube.resources import INFERENCE_POOLS, PODS
from tests.operator.reconcilers.quota_world import Cluster, accelerator, gpu_pool, node, tenant
from tests.operator.reconcilers.world import NAMESPACE, condition


def cluster(*objects: dict[str, Any], nodes: int = 2, guaranteed: int = 8) -> Cluster:
    """Nodes of four accelerators, and a class that says so."""
    more = [node(f"n{number}") for number in range(2, nodes + 1)]
    a_class = accelerator()
    a_class["spec"]["countPerNode"] = 4
    a_class["status"] |= {"capacity": 4 * nodes, "nodes": nodes}
    return Cluster(*more, a_class, tenant("a", NAMESPACE, guaranteed=guaranteed), *objects)


def gang_pool(name: str = "chat", *, pods: int = 2, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    return gpu_pool(name, replicas=replicas, accelerator={"class": "h100", "count": 4 * pods}, **spec)


def gangs(world: Cluster) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for pod in world.pods():
        labels = pod["metadata"]["labels"]
        if "llmos.dev/gang-size" in labels:
            found.setdefault(labels["llmos.dev/replica"], []).append(pod)
    return found


async def test_a_gang_is_held_until_it_is_admitted_and_then_released_as_a_whole_each_pod_to_its_node() -> None:
    world = cluster(gang_pool())
    await world.reconcile("InferencePool", "chat")
    assert [world.is_gated(pod) for pod in world.pods()] == [True, True]
    await world.turn()
    assert sorted(map(world.pin, world.pods())) == ["n1", "n2"]
    assert not any(map(world.is_gated, world.pods()))
    await world.settle()
    stored = world.status("chat")
    assert condition(stored)["reason"] == "Ready"
    assert stored["status"]["accelerators"] == 8
    assert world.tenant_status("a")["accelerators"] == "8/8"


async def test_a_gang_that_finds_one_node_of_two_is_not_released_at_all() -> None:
    world = cluster(gpu_pool("small", replicas=1), guaranteed=9)
    await world.settle(2)
    world.kube.put(gang_pool())
    await world.settle(3)
    ((*gang,),) = gangs(world).values()
    assert [world.is_gated(pod) for pod in gang] == [True, True]
    assert condition(world.status("chat"), "Admitted")["status"] == "False"
    world.kube.put(with_status(world, gpu_pool("small", replicas=0)))
    for _ in range(6):
        await world.settle(2)
        world.end_pods()
    assert condition(world.status("chat"))["reason"] == "Ready"


async def test_a_gang_that_lost_a_pod_after_a_day_is_broken_and_not_one_that_found_no_node() -> None:
    world = cluster(gang_pool())
    await world.settle()
    audits: list[Any] = []
    world.context.quota.on_pass = lambda each: audits.extend(each.audits if each else ())
    world.pass_time(86400)
    (worker,) = [pod["metadata"]["name"] for pod in world.pods() if pod["metadata"]["labels"]["llmos.dev/rank"] == "1"]
    await world.kube.delete(PODS, worker, NAMESPACE)
    world.kube.finish_deletion(PODS, worker, NAMESPACE)
    await world.quota()
    await world.turn()
    assert audits == []
    stored = world.status("chat")
    assert condition(stored)["reason"] == "GangBroken"
    assert f"gone: {worker}." in condition(stored)["message"]
    assert world.tenant_status("a")["accelerators"] == "8/8", "what is left of it still runs"


async def test_an_operator_that_was_killed_between_two_gates_is_followed_by_one_that_lifts_the_other() -> None:
    world = cluster(gang_pool(pods=3), nodes=3, guaranteed=12)
    await world.reconcile("InferencePool", "chat")
    await world.turn()
    for pod in world.pods():  # as if only the leader's gate had been lifted
        if pod["metadata"]["labels"]["llmos.dev/rank"] != "0":
            spec = {key: value for key, value in pod["spec"].items() if key != "affinity"}
            world.kube.put({**pod, "spec": {**spec, "schedulingGates": [{"name": "llmos.dev/quota"}]}})
    pins = {pod["metadata"]["name"]: world.pin(pod) for pod in world.pods()}
    await world.quota()
    after = {pod["metadata"]["name"]: world.pin(pod) for pod in world.pods()}
    assert not any(map(world.is_gated, world.pods()))
    assert sorted(after.values()) == ["n1", "n2", "n3"], "each has a node of its own"
    assert all(after[name] == pin for name, pin in pins.items() if pin)


async def test_a_gang_that_is_bound_in_part_when_its_time_is_up_is_withdrawn_whole_and_waits_longer_each_time() -> None:
    world = cluster(gang_pool())
    await world.turn()
    waits_s = []
    for _ in range(3):
        (name,) = gangs(world)
        leader, worker = gangs(world)[name]
        world.kube.put({**leader, "spec": {**leader["spec"], "nodeName": world.pin(leader)}})
        world.pass_time(125)
        for _ in range(3):
            await world.turn()
        assert "deletionTimestamp" in world.kube.stored(PODS, NAMESPACE, leader["metadata"]["name"])["metadata"]
        world.end_pods()
        assert worker["metadata"]["name"] not in world.pod_names()
        assert all(world.is_gated(pod) for pod in world.pods())
        waited_s = 0
        while any(map(world.is_gated, world.pods())):
            await world.turn()
            waited_s += 2
            assert waited_s < 100
        waits_s.append(waited_s)
    assert waits_s == sorted(waits_s)
    assert waits_s[-1] > waits_s[0] + 10
    await world.settle()
    assert condition(world.status("chat"))["reason"] == "Ready"


@pytest.mark.parametrize("seed", range(8))
async def test_gangs_and_small_ones_that_come_and_go_never_leave_half_a_gang(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a story, not a secret
    world = cluster(nodes=4, guaranteed=16)
    for _ in range(25):
        world.kube.put(with_status(world, gang_pool(replicas=dice.randrange(3))))
        world.kube.put(with_status(world, gpu_pool("small", replicas=dice.randrange(8))))
        for _ in range(dice.randrange(4)):
            await world.turn()
            assert_whole(world)
        if dice.random() < 0.7:
            world.bind()
        if dice.random() < 0.5:
            world.end_pods()
        world.pass_time(dice.choice((0, 5, 130)))
    world.kube.put(with_status(world, gang_pool(replicas=2)))
    world.kube.put(with_status(world, gpu_pool("small", replicas=0)))
    for _ in range(40):
        await world.turn()
        world.bind()
        world.end_pods()
        world.pass_time(20)
    assert world.status("chat")["status"]["readyReplicas"] == 2


def with_status(world: Cluster, pool: dict[str, Any]) -> dict[str, Any]:
    known = [item for item in world.kube.all(INFERENCE_POOLS) if item["metadata"]["name"] == pool["metadata"]["name"]]
    return {**pool, **({"status": known[0]["status"]} if known and "status" in known[0] else {})}


def assert_whole(world: Cluster) -> None:
    """Accelerators are never promised twice, and after a pass a gang has all of its gates or none."""
    held: dict[str, int] = {}
    for pod in world.pods():
        if not world.is_gated(pod):
            place = pod["spec"].get("nodeName") or world.pin(pod)
            count = pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
            held[place] = held.get(place, 0) + int(count)
    assert all(count <= 4 for count in held.values()), held
    for gang in gangs(world).values():
        going = [pod for pod in gang if "deletionTimestamp" in pod["metadata"]]
        assert going or len(gang) == 2
        assert len({world.is_gated(pod) for pod in gang}) == 1
