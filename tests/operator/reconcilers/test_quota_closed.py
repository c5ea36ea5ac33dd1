"""Tenants that get nothing more: deleted and not gone yet, or not to be read."""

from __future__ import annotations

from typing import Any

from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS, TENANTS
from tests.operator.reconcilers.quota_world import Cluster, gpu_pool, tenant
from tests.operator.reconcilers.tenants import surroundings
from tests.operator.reconcilers.world import NAMESPACE, condition


def closing_world(*objects: dict[str, Any]) -> Cluster:
    """Tenant a holds its guarantee in a namespace that is kept apart; others may be there."""
    places = surroundings(NAMESPACE, "team-b")
    return Cluster(*places, tenant("a", NAMESPACE), gpu_pool("chat", replicas=2), *objects)


async def scale(world: Cluster, replicas: int) -> None:
    pool = world.status("chat")
    world.kube.put({**pool, "spec": {**pool["spec"], "replicas": replicas}})
    await world.settle(3)


def break_tenant(world: Cluster, name: str) -> None:
    """Store what a newer version might have written."""
    stored = world.kube.stored(TENANTS, "", name)
    world.kube.put({**stored, "spec": {**stored["spec"], "weight": "heavy"}})


async def test_the_only_tenant_keeps_the_quota_on_until_it_is_gone_and_gets_nothing_more() -> None:
    world = closing_world()
    await world.settle()
    await world.kube.delete(TENANTS, "a")
    await world.reconcile("Tenant", "a", "")
    await scale(world, 3)
    assert condition({"status": world.tenant_status("a")})["reason"] == "Offboarding"
    assert len(world.held(NAMESPACE)) == 2
    told = condition(world.status("chat"), "Admitted")
    assert told["reason"] == "TenantClosed"
    assert "Tenant a is being deleted" in told["message"]
    await world.kube.delete(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    world.kube.collect_garbage()
    await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []


async def test_a_tenant_that_is_being_deleted_loses_no_namespace_to_a_younger_one_and_lends_what_it_leaves() -> None:
    world = closing_world(gpu_pool("other", "team-b", replicas=2))
    await world.settle()
    await world.kube.delete(TENANTS, "a")
    world.pass_time(10)
    world.kube.put(tenant("b", NAMESPACE, "team-b", guaranteed=2, borrowLimit=0))
    await world.reconcile("Tenant", "b", "")
    await scale(world, 3)
    told = condition({"status": world.tenant_status("b")}, "NamespacesOwned")
    assert (told["reason"], f"{NAMESPACE} belongs to Tenant a" in told["message"]) == ("NamespaceTaken", True)
    assert (len(world.held(NAMESPACE)), len(world.held("team-b"))) == (2, 2)
    assert world.tenant_status("b")["accelerators"] == "2/2"


async def test_a_tenant_that_cannot_be_read_keeps_what_runs_gets_nothing_more_and_says_what_is_wrong() -> None:
    world = closing_world()
    await scale(world, 3)
    held = world.held(NAMESPACE)
    assert len(held) == 3, "one of them is borrowed"
    break_tenant(world, "a")
    world.pass_time(10)
    world.kube.put(tenant("b", NAMESPACE, "team-b", guaranteed=4))
    world.kube.put(gpu_pool("other", "team-b", replicas=2))
    for name in ("a", "b"):
        await world.reconcile("Tenant", name, "")
    await scale(world, 4)
    for _ in range(3):
        await world.turn()
        world.end_pods()
        world.bind()
    assert world.held(NAMESPACE) == held
    told = condition(world.status("chat"), "Admitted")
    assert told["reason"] == "TenantClosed"
    assert "Tenant a cannot be read (spec.weight: " in told["message"]
    assert "spec.weight" in condition({"status": world.tenant_status("a")})["message"]
    assert condition({"status": world.tenant_status("b")}, "NamespacesOwned")["reason"] == "NamespaceTaken"
    assert len(world.held("team-b")) == 1


async def test_a_tenant_that_can_be_read_again_goes_on_where_it_was() -> None:
    world = closing_world()
    await world.settle()
    seconds = world.tenant_status("a")["thisMonth"]["gpuSeconds"]
    break_tenant(world, "a")
    await scale(world, 3)
    stored = world.kube.stored(TENANTS, "", "a")
    world.kube.put({**stored, "spec": {**stored["spec"], "weight": 1}})
    world.pass_time(60)
    await world.settle()
    assert len(world.held(NAMESPACE)) == 3
    assert seconds < world.tenant_status("a")["thisMonth"]["gpuSeconds"] < seconds + 3 * 120
