"""Accelerator classes: found on the nodes, counted, never overwritten."""

from __future__ import annotations

from typing import Any

from llmos_operator.kube.resources import ACCELERATOR_CLASSES
from tests.operator.reconcilers.world import World, condition


def node(name: str, product: str = "NVIDIA-H100-80GB-HBM3", count: int = 8) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "nvidia.com/gpu.product": product,
                "nvidia.com/gpu.memory": "81559",
                "nvidia.com/gpu.count": str(count),
            },
        },
        "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]},
        "status": {"allocatable": {"nvidia.com/gpu": str(count)}},
    }


async def test_a_product_on_the_nodes_becomes_a_class_with_its_memory_and_tolerations() -> None:
    world = World(node("a"), node("b", count=4), node("c", "NVIDIA-L4", 1))
    await world.reconcile("AcceleratorClass", "", "")
    h100, l4 = world.kube.all(ACCELERATOR_CLASSES)
    assert (h100["metadata"]["name"], l4["metadata"]["name"]) == ("nvidia-h100-80gb-hbm3", "nvidia-l4")
    assert h100["spec"]["memory"] == "81559Mi"
    assert h100["spec"]["tolerations"][0]["key"] == "gpu"
    assert h100["status"] | {"nodes": 2, "capacity": 12, "largestNode": 8} == h100["status"]
    world.kube.forget_writes()
    await world.reconcile("AcceleratorClass", "", "")
    assert world.kube.writes == []


async def test_a_class_that_a_person_edited_is_never_written_again() -> None:
    world = World(node("a"))
    await world.reconcile("AcceleratorClass", "", "")
    (stored,) = world.kube.all(ACCELERATOR_CLASSES)
    world.kube.put({**stored, "spec": {**stored["spec"], "costWeight": 3.5, "memory": "79Gi"}})
    await world.reconcile("AcceleratorClass", "", "")
    (stored,) = world.kube.all(ACCELERATOR_CLASSES)
    assert (stored["spec"]["costWeight"], stored["spec"]["memory"]) == (3.5, "79Gi")


async def test_a_class_without_nodes_says_so() -> None:
    spec = {"memory": "80Gi", "nodeSelector": {"gpu": "none"}}
    world = World(
        {"apiVersion": "llmos.dev/v1alpha1", "kind": "AcceleratorClass", "metadata": {"name": "x"}, "spec": spec}
    )
    await world.reconcile("AcceleratorClass", "x", "")
    (stored,) = world.kube.all(ACCELERATOR_CLASSES)
    assert condition(stored)["reason"] == "NoNodeHasAccelerator"
    assert "gpu=none" in condition(stored)["message"]


async def test_a_class_that_cannot_be_read_says_so_and_keeps_no_other_from_being_found() -> None:
    broken = {"memory": "80Gi", "costWeight": -1}
    world = World(
        {
            "apiVersion": "llmos.dev/v1alpha1",
            "kind": "AcceleratorClass",
            "metadata": {"name": "nvidia-l4"},
            "spec": broken,
        },
        node("a"),
        node("b", "NVIDIA-L4", 1),
    )
    await world.reconcile("AcceleratorClass", "", "")
    h100, l4 = world.kube.all(ACCELERATOR_CLASSES)
    assert condition(h100)["reason"] == "NodesFound"
    assert condition(l4)["reason"] == "InvalidSpec"
    assert "spec.costWeight" in condition(l4)["message"]
    assert l4["spec"] == broken, "nothing was found over it"
