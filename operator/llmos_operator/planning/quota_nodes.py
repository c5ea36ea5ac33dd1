"""The accelerators of all nodes for the ledger, each under one class. Pure but for what it remembers.

- A node that takes no new pods counts with what stands on it, so that nothing is promised there.
- A node belongs to the class with the most specific node selector that selects it: an accelerator is counted once.
- What a gang holds on a node of another class than its own, because that one was deleted or another one selects the
  node by now, is taken there.

Nodes and classes seldom change, and the ledger looks many times a second: what they alone say is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from llmos.api import AcceleratorClass, Toleration
from llmos.api.names import LABEL_FABRIC_DOMAIN, LABEL_JOB, LABEL_POOL, LABEL_REPLICA
from llmos_operator.planning.quantities import parse_quantity_bytes
from llmos_operator.planning.quota import Gang, Node
from llmos_operator.planning.quota_pods import FINISHED, are_same, count_requested, read_labels, read_node, read_phase
from llmos_operator.planning.quota_roster import Roster

JsonObject = Mapping[str, Any]
Held = Counter[tuple[str, str]]
"""Accelerators by node, and resource or class."""

DOMAIN_LABELS: Final = (LABEL_FABRIC_DOMAIN, "nvidia.com/gpu.clique")
"""Labels that tell which nodes a fast network connects; the first one that a node has counts."""

_NO_NEW_PODS: Final = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class _Draft:
    """A node for one class, with nothing taken."""

    node: Node
    resource: str
    takes_pods: bool


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What nodes and classes alone say, and from what it was made."""

    nodes: Sequence[JsonObject]
    classes: tuple[AcceleratorClass, ...]
    domain_labels: tuple[str, ...]
    drafts: tuple[_Draft, ...]
    names: Mapping[str, frozenset[str]]
    """Classes of each node."""
    closed: frozenset[str]
    """Nodes that take no new pods of some class of theirs."""

    def is_of(
        self, nodes: Sequence[JsonObject], classes: tuple[AcceleratorClass, ...], domain_labels: tuple[str, ...]
    ) -> bool:
        return are_same(classes, self.classes) and domain_labels == self.domain_labels and nodes == self.nodes


class NodeDrafts:
    """The sheet of the last look, and what came of it."""

    def __init__(self) -> None:
        self._sheet: _Sheet | None = None
        self._built: tuple[_Sheet, Held, Held, tuple[Node, ...]] | None = None
        """From which sheet, what others held, what gangs held of closed nodes, and the nodes."""

    def build(
        self,
        nodes: Sequence[JsonObject],
        classes: Sequence[AcceleratorClass],
        domain_labels: Sequence[str],
        gangs: Sequence[Gang],
        roster: Roster,
    ) -> tuple[Node, ...]:
        """Return the accelerators of all nodes; the same objects as the last time, if nothing changed.

        Args:
            nodes: as they are observed.
            classes: all that can be read.
            domain_labels: node labels that tell which nodes a fast network connects.
            gangs: all that the ledger knows.
            roster: all pods.
        """
        terms = nodes, tuple(classes), tuple(domain_labels)
        if self._sheet is None or not self._sheet.is_of(*terms):
            self._sheet = _draw(*terms)
        sheet = self._sheet
        resources = {accelerator.spec.resource_name for accelerator in classes}
        by_id = {gang.id: gang for gang in gangs}
        taken = _held_by_others(roster, resources, by_id)
        taken += _held_by_misplaced(roster, resources, by_id.values(), sheet.names)
        held = _held_by_gangs(gangs, sheet.closed) if sheet.closed else Counter()
        built = self._built
        if built is None or built[0] is not sheet or built[1:3] != (taken, held):
            built = self._built = sheet, taken, held, tuple(_fill(sheet, taken, held))
        return built[3]


def _draw(nodes: Sequence[JsonObject], classes: tuple[AcceleratorClass, ...], domain_labels: tuple[str, ...]) -> _Sheet:
    in_order = sorted(nodes, key=lambda node: str(node["metadata"]["name"]))
    by_node = {str(node["metadata"]["name"]): _classes_of(node, classes) for node in in_order}
    drafts = tuple(
        _Draft(
            Node(
                name=node["metadata"]["name"],
                class_name=accelerator.metadata.name,
                accelerators=_allocatable(node, accelerator.spec.resource_name),
                domain=_domain(node, domain_labels),
                labels=frozenset(read_labels(node).items()),
            ),
            accelerator.spec.resource_name,
            _takes_pods(node, accelerator),
        )
        for node in in_order
        for accelerator in by_node[str(node["metadata"]["name"])]
    )
    names = {name: frozenset(each.metadata.name for each in of_node) for name, of_node in by_node.items()}
    closed = frozenset(draft.node.name for draft in drafts if not draft.takes_pods)
    return _Sheet(nodes, classes, domain_labels, drafts, names, closed)


def _fill(sheet: _Sheet, taken: Held, held: Held) -> Iterable[Node]:
    for draft in sheet.drafts:
        node = draft.node
        count = node.accelerators if draft.takes_pods else held[node.name, node.class_name]
        yield replace(node, accelerators=count, taken=min(count, taken[node.name, draft.resource]))


def _held_by_gangs(gangs: Iterable[Gang], of: Container[str]) -> Held:
    """Accelerators by node and class that gangs hold of some nodes."""
    held: Held = Counter()
    for gang in gangs:
        if gang.placement is not None:
            for node in gang.placement.nodes:
                if node in of:
                    held[node, gang.placement.class_name] += gang.accelerators_per_pod
    return held


def _held_by_others(roster: Roster, resources: Iterable[str], gangs: Container[str]) -> Held:
    """Accelerators by node and resource that pods hold that are of no gang."""
    taken: Held = Counter()
    for pod in _find_others(roster, gangs):
        node = read_node(pod)
        if node and read_phase(pod) not in FINISHED:
            _count_pod(taken, node, pod, resources)
    return taken


def _find_others(roster: Roster, gangs: Container[str]) -> Iterable[JsonObject]:
    for pod in roster.loose:
        labels = read_labels(pod)
        is_ours = LABEL_POOL in labels or LABEL_JOB in labels
        if not (is_ours and f"{pod['metadata']['namespace']}/{labels.get(LABEL_REPLICA)}" in gangs):
            yield pod
    for gang_id, pods in roster.gangs.items():
        if gang_id not in gangs:
            yield from pods


def _held_by_misplaced(
    roster: Roster, resources: Iterable[str], gangs: Iterable[Gang], names: Mapping[str, Container[str]]
) -> Held:
    """Accelerators by node and resource that gangs hold on nodes that belong to another class than theirs by now."""
    taken: Held = Counter()
    for gang in gangs:
        for node in _find_misplaced(gang, names):
            # Each pod of a gang asks for the same: the first one tells.
            for pod in roster.find_pods(gang.id)[:1]:
                _count_pod(taken, node, pod, resources)
    return taken


def _count_pod(taken: Held, node: str, pod: JsonObject, resources: Iterable[str]) -> None:
    for resource in resources:
        if wanted := sum(count_requested(container, resource) for container in pod["spec"]["containers"]):
            taken[node, resource] += wanted


def _find_misplaced(gang: Gang, names: Mapping[str, Container[str]]) -> tuple[str, ...]:
    placement = gang.placement
    if placement is None:
        return ()
    return tuple(
        node for node in placement.nodes if placement.class_name not in names.get(node, (placement.class_name,))
    )


def _classes_of(node: JsonObject, classes: Iterable[AcceleratorClass]) -> list[AcceleratorClass]:
    """The class that each resource of the node belongs to."""
    labels = read_labels(node)
    found: dict[str, AcceleratorClass] = {}
    for accelerator in sorted(classes, key=lambda each: (-len(each.spec.node_selector), each.metadata.name)):
        resource = accelerator.spec.resource_name
        is_selected = all(labels.get(key) == value for key, value in accelerator.spec.node_selector.items())
        if is_selected and _allocatable(node, resource) > 0:
            found.setdefault(resource, accelerator)
    return list(found.values())


def _takes_pods(node: JsonObject, accelerator: AcceleratorClass) -> bool:
    """Whether new pods of the class may go there: no cordon, no taint that the class does not tolerate, and ready."""
    spec = node.get("spec", {})
    conditions = {each["type"]: each["status"] for each in node.get("status", {}).get("conditions", ())}
    if spec.get("unschedulable") or conditions.get("Ready", "True") != "True":
        return False
    return all(
        any(_tolerates(toleration, taint) for toleration in accelerator.spec.tolerations)
        for taint in spec.get("taints", ())
        if taint.get("effect") in _NO_NEW_PODS and taint["key"] != accelerator.spec.resource_name
    )


def _tolerates(toleration: Toleration, taint: JsonObject) -> bool:
    if toleration.effect not in ("", taint.get("effect")) or toleration.key not in ("", taint["key"]):
        return False
    return toleration.operator == "Exists" or toleration.value == taint.get("value", "")


def _domain(node: JsonObject, domain_labels: Sequence[str]) -> str:
    labels = read_labels(node)
    return next((str(labels[key]) for key in domain_labels if labels.get(key)), "")


def _allocatable(node: JsonObject, resource: str) -> int:
    return parse_quantity_bytes(str(node.get("status", {}).get("allocatable", {}).get(resource, "0")))
