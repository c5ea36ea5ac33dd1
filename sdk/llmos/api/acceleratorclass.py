"""AcceleratorClass: one kind of GPU, found on the nodes' labels or written by an administrator."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmos.api.meta import (
    ApiModel,
    Conditions,
    KindInfo,
    Metadata,
    PrinterColumn,
    Quantity,
    Rule,
    Toleration,
)
from llmos.api.names import API_VERSION

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]
LabelKeys = Rule(
    "self.all(key, key.size() <= 317 && "
    "key.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",
    "keys must be label names, for example nvidia.com/gpu.product",
)


class AcceleratorClassSpec(ApiModel):
    """What one kind of accelerator is, and on which nodes it stands."""

    resource_name: Annotated[
        str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    ] = "nvidia.com/gpu"
    """Extended resource that the device plugin publishes."""
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16), LabelKeys] = Field(default_factory=dict)
    """Labels of the nodes that hold this kind."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints of those nodes that pods must tolerate."""
    memory: Quantity
    """Physical memory of one accelerator, for example 80Gi."""
    count_per_node: Annotated[int, Field(ge=1, le=64)] = 8
    """Accelerators on one node: a replica that asks for more has several pods."""
    autoprovisioned: bool = False
    """Nodes are added on demand by a cluster autoscaler: make pods even while no node has this accelerator."""
    cost_weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Price of one accelerator relative to others, for fair shares."""


class AcceleratorClassStatus(ApiModel):
    """What the nodes offer now."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation that this status speaks about."""
    nodes: Annotated[int, Field(ge=0)] = 0
    """Nodes that match."""
    capacity: Annotated[int, Field(ge=0)] = 0
    """Accelerators on them that may be allocated."""
    largest_node: Annotated[int, Field(ge=0)] = 0
    """Most accelerators on a single node."""
    conditions: Conditions = ()
    """Ready: at least one node has it."""


class AcceleratorClass(ApiModel):
    """One kind of accelerator. The operator makes one for each GPU product it finds on the nodes; edit it freely."""

    info: ClassVar[KindInfo] = KindInfo(
        kind="AcceleratorClass",
        plural="acceleratorclasses",
        singular="acceleratorclass",
        short_names=("accel",),
        scope="Cluster",
        columns=(
            PrinterColumn("Resource", "string", ".spec.resourceName", "Extended resource"),
            PrinterColumn("Memory", "string", ".spec.memory", "Memory of one accelerator"),
            PrinterColumn("Nodes", "integer", ".status.nodes", "Nodes that have it"),
            PrinterColumn("Capacity", "integer", ".status.capacity", "Accelerators in all"),
            PrinterColumn(
                "Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "At least one node has it"
            ),
            PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
        ),
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.metadata.name != 'cpu'",
            "the class cpu is built in: it needs no AcceleratorClass; choose another name",
            field_path=".metadata.name",
        ),
    )

    api_version: Literal["llmos.dev/v1alpha1"] = API_VERSION
    kind: Literal["AcceleratorClass"] = "AcceleratorClass"
    metadata: Metadata
    spec: AcceleratorClassSpec
    """What this kind of accelerator is."""
    status: AcceleratorClassStatus = AcceleratorClassStatus()
    """What the nodes offer now."""
