"""Accelerator classes: what the labels of nodes say, and what the nodes offer."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import AcceleratorClass
from llmos_operator.planning.accelerators import build_class_status, compute_class_name, plan_discovery

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def node(
    name: str = "n", *, offers: str = "8", taints: list[dict[str, str]] | None = None, **labels: str
) -> dict[str, Any]:
    gpu = {f"nvidia.com/gpu.{key}": value for key, value in labels.items()}
    return {
        "metadata": {"name": name, "labels": gpu},
        "spec": {"taints": taints or []},
        "status": {"allocatable": {"nvidia.com/gpu": offers}},
    }


def h100(name: str = "n", **more: Any) -> dict[str, Any]:
    return node(name, **{"product": "NVIDIA-H100", "memory": "81559", "count": "8"} | more)


def accelerator(name: str = "h100", **spec: Any) -> AcceleratorClass:
    body = {"memory": "80Gi", "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100"}, **spec}
    return AcceleratorClass.model_validate({"metadata": {"name": name, "generation": 3}, "spec": body})


@given(product=st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", fullmatch=True))
def test_every_label_value_gives_a_name_that_the_api_server_takes(product: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", compute_class_name(product))


def test_nodes_of_one_product_are_one_class_as_small_as_the_smallest_of_them() -> None:
    (found,) = plan_discovery([h100("a"), h100("b", memory="80000", count="4")], [])
    assert (found.name, found.memory_mib, found.count_per_node) == ("nvidia-h100", 80000, 8)


def test_a_class_tolerates_the_taints_that_all_its_nodes_carry_and_not_those_of_a_sick_node() -> None:
    gpu = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    sick = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
    (found,) = plan_discovery([h100("a", taints=[gpu, sick]), h100("b", taints=[gpu])], [])
    assert found.tolerations == (("gpu", "yes", "NoSchedule"),)


NOT_DISCOVERED: dict[str, tuple[dict[str, Any], list[AcceleratorClass]]] = {
    "a class selects the product already": (h100(), [accelerator("by-hand")]),
    "a class has the name already, whatever it selects": (
        h100(),
        [accelerator("nvidia-h100", nodeSelector={"x": "y"})],
    ),
    "the node has no GPU": (node(), []),
    "the memory is not known": (node(product="NVIDIA-H100"), []),
    "the memory is no number": (h100(memory="much"), []),
}


@pytest.mark.parametrize(("item", "known"), NOT_DISCOVERED.values(), ids=NOT_DISCOVERED.keys())
def test_nothing_is_discovered_when(item: dict[str, Any], known: list[AcceleratorClass]) -> None:
    assert plan_discovery([item], known) == ()


def test_a_count_that_is_no_number_counts_as_one() -> None:
    (found,) = plan_discovery([h100(count="some")], [])
    assert found.count_per_node == 1


def test_the_accelerators_of_a_class_are_counted_on_the_nodes_that_it_selects() -> None:
    nodes = [h100("a"), h100("b", offers="2"), h100("full", offers="0"), node("c", product="NVIDIA-L4")]
    status = build_class_status(accelerator(), nodes, NOW)
    assert (status.nodes, status.capacity, status.largest_node, status.observed_generation) == (2, 10, 8, 3)
    assert status.conditions[0].status == "True"


def test_an_amount_with_a_suffix_is_counted_too() -> None:
    status = build_class_status(accelerator(), [h100(offers="1k")], NOW)
    assert status.capacity == 1000


def test_a_class_without_a_selector_counts_every_node_that_offers_the_resource() -> None:
    assert build_class_status(accelerator(nodeSelector={}), [h100(), node("c")], NOW).nodes == 2


def test_a_class_that_no_node_has_says_what_it_looked_for() -> None:
    (ready,) = build_class_status(accelerator(), [node()], NOW).conditions
    assert ready.reason == "NoNodeHasAccelerator"
    assert "nvidia.com/gpu.product=NVIDIA-H100" in ready.message
