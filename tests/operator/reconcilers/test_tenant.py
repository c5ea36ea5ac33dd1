"""Tenants: what their status says, and that it is written once."""

from __future__ import annotations

from typing import Any

from llmos_operator.kube.resources import TENANTS
from tests.operator.reconcilers.tenants import surroundings
from tests.operator.reconcilers.world import World, condition


def tenant(name: str, *namespaces: str, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"namespaces": list(namespaces), **spec},
    }


async def test_a_tenant_whose_namespaces_are_its_own_is_ready_and_is_written_once() -> None:
    world = World(tenant("a", "team-a"), *surroundings("team-a"))
    await world.reconcile("Tenant", "a", "")
    (stored,) = world.kube.all(TENANTS)
    assert stored["status"]["observedGeneration"] == 1
    assert condition(stored, "NamespacesOwned")["status"] == "True"
    assert condition(stored)["reason"] == "Available"
    assert world.kube.events == []
    world.kube.forget_writes()
    await world.reconcile("Tenant", "a", "")
    assert world.kube.writes == []


async def test_the_younger_of_two_tenants_that_name_a_namespace_is_told_whose_it_is() -> None:
    young = tenant("young", "x", "shared", created="2026-01-01T10:00:00Z")
    world = World(tenant("old", "shared"), young, *surroundings("x", "shared"))
    for name in ("old", "young"):
        await world.reconcile("Tenant", name, "")
    old, told = world.kube.all(TENANTS)
    assert condition(old)["status"] == "True"
    assert condition(told)["reason"] == condition(told, "NamespacesOwned")["reason"] == "NamespaceTaken"
    assert "shared belongs to Tenant old" in condition(told)["message"]
    assert "Remove the namespace" in condition(told)["message"]
    assert [event["reason"] for event in world.kube.events] == ["NamespaceTaken"]


async def test_a_tenant_that_cannot_be_read_says_which_field_is_wrong_and_does_not_disturb_the_others() -> None:
    world = World(tenant("a", "team-a"), tenant("b", "team-b", weight=0), *surroundings("team-a", "team-b"))
    for name in ("a", "b"):
        await world.reconcile("Tenant", name, "")
    a, b = world.kube.all(TENANTS)
    assert condition(a)["status"] == "True"
    assert condition(b)["reason"] == "InvalidSpec"
    assert "weight" in condition(b)["message"]


async def test_a_tenant_that_is_gone_or_going_is_left_alone() -> None:
    world = World()
    await world.reconcile("Tenant", "a", "")
    assert world.kube.writes == []


async def test_a_class_that_cannot_be_read_does_not_stop_any_tenant() -> None:
    broken = {"apiVersion": "llmos.dev/v1alpha1", "kind": "AcceleratorClass", "metadata": {"name": "h100"}, "spec": {}}
    world = World(tenant("a", "team-a"), broken, *surroundings("team-a"))
    await world.reconcile("Tenant", "a", "")
    (stored,) = world.kube.all(TENANTS)
    assert condition(stored)["reason"] == "Available"
