"""Which kinds of accelerator the nodes offer, read from the labels of GPU feature discovery. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmos.api import AcceleratorClass, AcceleratorClassStatus, Reason
from llmos.api.names import CONDITION_READY
from llmos_operator.planning.conditions import build_conditions, is_false, is_true
from llmos_operator.planning.failures import describe
from llmos_operator.planning.quantities import parse_quantity_bytes

Node = Mapping[str, Any]

LABEL_PRODUCT = "nvidia.com/gpu.product"
LABEL_MEMORY_MIB = "nvidia.com/gpu.memory"
LABEL_COUNT = "nvidia.com/gpu.count"
RESOURCE = "nvidia.com/gpu"

_FREE_TAINTS = frozenset(
    {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable"}
)


@dataclass(frozen=True)
class DiscoveredClass:
    """A GPU product found on nodes that no AcceleratorClass names yet."""

    name: str
    product: str
    memory_mib: int
    count_per_node: int
    tolerations: tuple[tuple[str, str, str], ...] = ()
    """Key, value and effect of the taints that all its nodes carry."""


def compute_class_name(product: str) -> str:
    """Return a DNS label for a product such as `NVIDIA-H100-80GB-HBM3`."""
    return re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-")[:63].strip("-")


def plan_discovery(nodes: Iterable[Node], known: Iterable[AcceleratorClass]) -> tuple[DiscoveredClass, ...]:
    """Return classes to create for products that no existing class selects."""
    known = list(known)
    names = {accelerator.metadata.name for accelerator in known}
    selected = {accelerator.spec.node_selector.get(LABEL_PRODUCT) for accelerator in known}
    found: dict[str, list[Node]] = {}
    for node in nodes:
        labels = node["metadata"].get("labels", {})
        product = labels.get(LABEL_PRODUCT)
        if product and product not in selected and labels.get(LABEL_MEMORY_MIB, "").isdecimal():
            found.setdefault(product, []).append(node)
    classes = (_discover(product, members) for product, members in sorted(found.items()))
    return tuple(discovered for discovered in classes if discovered.name not in names)


def _discover(product: str, nodes: list[Node]) -> DiscoveredClass:
    labels = [node["metadata"]["labels"] for node in nodes]
    counts = [int(text) for label in labels if (text := label.get(LABEL_COUNT, "")).isdecimal()]
    taints = [_taints(node) for node in nodes]
    return DiscoveredClass(
        name=compute_class_name(product),
        product=product,
        memory_mib=min(int(label[LABEL_MEMORY_MIB]) for label in labels),
        count_per_node=max([*counts, 1]),
        tolerations=tuple(sorted(set.intersection(*taints))),
    )


def _taints(node: Node) -> set[tuple[str, str, str]]:
    return {
        (taint["key"], taint.get("value", ""), taint.get("effect", ""))
        for taint in node.get("spec", {}).get("taints", ())
        if taint["key"] not in _FREE_TAINTS
    }


def build_class_status(accelerator: AcceleratorClass, nodes: Iterable[Node], now: datetime) -> AcceleratorClassStatus:
    """Count the accelerators on the nodes that a class selects."""
    resource = accelerator.spec.resource_name
    counts = [count for node in nodes if (count := _allocatable(node, accelerator, resource)) > 0]
    if counts:
        fact = is_true(CONDITION_READY, Reason.NodesFound, f"{sum(counts)} accelerators on {len(counts)} nodes.")
    else:
        selector = (
            ", ".join(f"{key}={value}" for key, value in sorted(accelerator.spec.node_selector.items())) or "any label"
        )
        detail = f"No node with {selector} offers {resource}."
        fact = is_false(CONDITION_READY, Reason.NoNodeHasAccelerator, describe(Reason.NoNodeHasAccelerator, detail))
    generation = accelerator.metadata.generation
    return AcceleratorClassStatus(
        observed_generation=generation,
        nodes=len(counts),
        capacity=sum(counts),
        largest_node=max(counts, default=0),
        conditions=build_conditions((fact,), accelerator.status.conditions, generation, now),
    )


def _allocatable(node: Node, accelerator: AcceleratorClass, resource: str) -> int:
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in accelerator.spec.node_selector.items()):
        return 0
    return parse_quantity_bytes(str(node.get("status", {}).get("allocatable", {}).get(resource, "0")))
