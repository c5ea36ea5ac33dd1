"""From observed tenants, nodes, pools and pods to the ledger's snapshot: what is whose, and what holds accelerators.

The rules that are decided here:

- A namespace has one tenant. If two Tenants name it, it stays with the older one.
- Quota is on as soon as there is a Tenant. From then on the pods of every pool on accelerators are made with a
  scheduling gate; pods on the processor never are. Pods that were made before have no gate and count as admitted, where
  they stand or, as long as they have no node, nowhere in particular.
- Of a pool's replicas, the first minReplicas (or all of a fixed number) are its minimum: those that hold accelerators
  before those that wait, then the oldest. The others are burst replicas.
- A replica whose pool is gone, or cannot be read, holds what it holds (`quota_orphans`).
- A gang of which not all pods were made yet does not wait for anything: it would be admitted in part.
- A gang is waiting while all of its pods are gated. One that has lost some gates was admitted: releasing is one write
  for each pod, and an operator may be killed in between.
- One of which a pod is gone had them all when it was released. It has not waited too long for a node: its pool says
  that it broke, and ends it.
- An attempt of a FineTuneJob is a gang, too (`quota_jobs`).
- A node that takes no new pods counts with what stands on it, so that nothing is promised there.
- A node belongs to the class with the most specific node selector that selects it: an accelerator is counted once.
- What a gang holds on a node of another class than its own, because that one was deleted or another one selects the
  node by now, is taken there.

What each tenant may hold `quota_tenants` says. Reading the objects is the reconciler's (`reconcilers/quota.py`), what
becomes of the plan `quota_writes` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from llmos.api import AcceleratorClass, FineTuneJob, InferencePool, Toleration
from llmos.api.names import (
    CPU_CLASS,
    LABEL_FABRIC_DOMAIN,
    LABEL_JOB,
    LABEL_POOL,
    LABEL_REPLICA,
)
from llmos.api.tenancy import Owners, find_owners
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.quantities import parse_quantity_bytes
from llmos_operator.planning.quota import (
    Gang,
    Node,
    QuotaRules,
    Snapshot,
    Swap,
)
from llmos_operator.planning.quota_drafts import Drafts
from llmos_operator.planning.quota_jobs import build_job_gangs, is_train_pod
from llmos_operator.planning.quota_orphans import build_stand_in
from llmos_operator.planning.quota_pods import (
    FINISHED,
    count_requested,
    read_labels,
    read_node,
    read_phase,
    requests_accelerators,
)
from llmos_operator.planning.quota_record import read_record
from llmos_operator.planning.quota_tenants import build_tenant_quotas
from llmos_operator.planning.schedule import find_limits

JsonObject = Mapping[str, Any]

DOMAIN_LABELS = (LABEL_FABRIC_DOMAIN, "nvidia.com/gpu.clique")
"""Labels that tell which nodes a fast network connects; the first one that a node has counts."""

_NO_NEW_PODS = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True)
class Observed:
    """Objects as they were read, all at one time."""

    now: datetime
    tenants: Tenants = field(default_factory=Tenants)
    classes: tuple[AcceleratorClass, ...] = ()
    pools: tuple[InferencePool, ...] = ()
    nodes: tuple[JsonObject, ...] = ()
    pods: tuple[JsonObject, ...] = ()
    """Of all who may hold accelerators, not of LLMOS alone."""
    jobs: tuple[FineTuneJob, ...] = ()


def needs_gate(class_name: str, tenants: Sequence[object]) -> bool:
    """Whether pods on accelerators of a class are made with a scheduling gate."""
    return bool(tenants) and class_name != CPU_CLASS


def find_swaps(pods: Iterable[JsonObject]) -> tuple[Swap, ...]:
    """Return who was asked to go for whom, as the records of those tell for whom it was."""
    return tuple(swap for pod in pods for swap in read_record(pod["metadata"]).swaps)


def build_snapshot(
    observed: Observed,
    *,
    rules: QuotaRules,
    swaps: Iterable[Swap] = (),
    untenanted: Mapping[str, int] | None = None,
    domain_labels: Sequence[str] = DOMAIN_LABELS,
    drafts: Drafts | None = None,
) -> Snapshot:
    """Return what the ledger decides from.

    Args:
        observed: the objects.
        rules: times of the ledger.
        swaps: who was asked to go for whom, as earlier plans said.
        untenanted: accelerators by class for namespaces of no tenant, all together.
        domain_labels: node labels that tell which nodes a fast network connects.
        drafts: of the last look; what comes out is the same without them.
    """
    owners = find_owners(observed.tenants.all)
    gangs = build_gangs(observed, owners, drafts)
    return Snapshot(
        now_s=observed.now.timestamp(),
        tenants=build_tenant_quotas(observed.tenants, untenanted or {}, gangs),
        nodes=build_nodes(observed, gangs, domain_labels),
        gangs=gangs,
        costs={accelerator.metadata.name: accelerator.spec.cost_weight for accelerator in observed.classes},
        swaps=tuple(swaps),
        rules=rules,
    )


def build_nodes(observed: Observed, gangs: Sequence[Gang], domain_labels: Sequence[str]) -> tuple[Node, ...]:
    """Return the accelerators of all nodes, each under one class."""
    held = _held_by_gangs(gangs)
    by_node = {str(node["metadata"]["name"]): _classes_of(node, observed.classes) for node in observed.nodes}
    taken = _held_by_others(observed, {gang.id for gang in gangs}) + _held_by_misplaced(observed, gangs, by_node)
    nodes = []
    for node in sorted(observed.nodes, key=lambda node: str(node["metadata"]["name"])):
        for accelerator in by_node[str(node["metadata"]["name"])]:
            name, class_name = node["metadata"]["name"], accelerator.metadata.name
            count = _allocatable(node, accelerator.spec.resource_name)
            if not _takes_pods(node, accelerator):
                count = held[name, class_name]
            nodes.append(
                Node(
                    name=name,
                    class_name=class_name,
                    accelerators=count,
                    taken=min(count, taken[name, accelerator.spec.resource_name]),
                    domain=_domain(node, domain_labels),
                    labels=frozenset(read_labels(node).items()),
                )
            )
    return tuple(nodes)


def build_gangs(observed: Observed, owners: Owners, drafts: Drafts | None = None) -> tuple[Gang, ...]:
    """Return the replicas of all pools on accelerators, those that wait and those that hold some, those that hold some
    and have no pool any more, and the attempts of jobs."""
    pools = {(pool.metadata.namespace or "", pool.metadata.name): pool for pool in observed.pools}
    tenants = {tenant.metadata.name: tenant for tenant in observed.tenants.readable}
    replicas: dict[tuple[str, str], dict[str, list[JsonObject]]] = {}
    for pod in observed.pods:
        labels = read_labels(pod)
        key = pod["metadata"]["namespace"], labels.get(LABEL_POOL, "")
        if LABEL_REPLICA in labels and not is_train_pod(pod) and (key in pools or _holds_any(pod, observed.classes)):
            replicas.setdefault(key, {}).setdefault(labels[LABEL_REPLICA], []).append(pod)
    drafts = drafts if drafts is not None else Drafts()
    drafts.begin(observed.classes)
    gangs = []
    for key, members in replicas.items():
        pool = pools.get(key) or build_stand_in(*key, list(chain(*members.values())), observed.classes)
        if pool is not None and pool.spec.accelerator.class_name != CPU_CLASS:
            name = owners.by_namespace.get(key[0], "")
            minimum = _count_minimum(pool, observed.now)
            gangs += drafts.build_gangs(pool, members, name, tenants.get(name), minimum)
    return (*gangs, *build_job_gangs(observed.pods, observed.classes, observed.jobs, owners, tenants))


def _holds_any(pod: JsonObject, classes: Iterable[AcceleratorClass]) -> bool:
    return bool(read_node(pod)) and read_phase(pod) not in FINISHED and requests_accelerators(pod, classes)


def _count_minimum(pool: InferencePool, now: datetime) -> int:
    """Replicas of the pool that are not a burst."""
    if pool.spec.scaling is None or pool.spec.replicas is not None:
        return pool.spec.replicas or 0
    return find_limits(pool.spec.scaling, now).min_replicas


def _held_by_gangs(gangs: Iterable[Gang]) -> Counter[tuple[str, str]]:
    held: Counter[tuple[str, str]] = Counter()
    for gang in gangs:
        if gang.placement is not None:
            for node in gang.placement.nodes:
                held[node, gang.placement.class_name] += gang.accelerators_per_pod
    return held


def _held_by_others(observed: Observed, gangs: Container[str]) -> Counter[tuple[str, str]]:
    """Accelerators by node and resource that pods hold that are of no gang."""
    resources = {accelerator.spec.resource_name for accelerator in observed.classes}
    taken: Counter[tuple[str, str]] = Counter()
    for pod in observed.pods:
        node = read_node(pod)
        if not node or read_phase(pod) in FINISHED:
            continue
        labels = read_labels(pod)
        is_ours = LABEL_POOL in labels or LABEL_JOB in labels
        if is_ours and f"{pod['metadata']['namespace']}/{labels.get(LABEL_REPLICA)}" in gangs:
            continue
        for resource in resources:
            taken[node, resource] += sum(
                count_requested(container, resource) for container in pod["spec"]["containers"]
            )
    return taken


def _held_by_misplaced(
    observed: Observed, gangs: Iterable[Gang], by_node: Mapping[str, Iterable[AcceleratorClass]]
) -> Counter[tuple[str, str]]:
    """Accelerators by node and resource that gangs hold on nodes that belong to another class than theirs by now."""
    names = {node: {each.metadata.name for each in classes} for node, classes in by_node.items()}
    misplaced = {gang.id: nodes for gang in gangs if (nodes := _find_misplaced(gang, names))}
    taken: Counter[tuple[str, str]] = Counter()
    if not misplaced:
        return taken
    resources = {accelerator.spec.resource_name for accelerator in observed.classes}
    for pod in observed.pods:
        gang = f"{pod['metadata']['namespace']}/{read_labels(pod).get(LABEL_REPLICA)}"
        # Each pod of a gang asks for the same: the first one tells.
        for node in misplaced.pop(gang, ()):
            for resource in resources:
                taken[node, resource] += sum(
                    count_requested(container, resource) for container in pod["spec"]["containers"]
                )
    return taken


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
