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
- A pod that is being deleted and has no node will never have one: a gang of such pods holds nothing any more.
- An attempt of a FineTuneJob is a gang, too (`quota_jobs`).

What nodes have `quota_nodes` says, and what each tenant may hold `quota_tenants`. Reading the objects is the
reconciler's (`reconcilers/quota.py`), what becomes of the plan `quota_writes` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from operator import itemgetter
from typing import Any

from llmos.api import AcceleratorClass, FineTuneJob, InferencePool
from llmos.api.names import CPU_CLASS
from llmos.api.tenancy import Owners, find_owners
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.quota import Gang, QuotaRules, Snapshot
from llmos_operator.planning.quota_drafts import Drafts
from llmos_operator.planning.quota_jobs import build_job_gangs
from llmos_operator.planning.quota_nodes import DOMAIN_LABELS, NodeDrafts
from llmos_operator.planning.quota_orphans import build_stand_in
from llmos_operator.planning.quota_pods import FINISHED, read_node, read_phase, requests_accelerators
from llmos_operator.planning.quota_roster import Members, Roster
from llmos_operator.planning.quota_tenants import build_tenant_quotas
from llmos_operator.planning.schedule import find_limits

JsonObject = Mapping[str, Any]


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


class LastLook:
    """What is kept from one look for the next: nothing depends on it but speed."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.drafts = Drafts()
        self.nodes = NodeDrafts()


def build_snapshot(
    observed: Observed,
    *,
    rules: QuotaRules,
    untenanted: Mapping[str, int] | None = None,
    domain_labels: Sequence[str] = DOMAIN_LABELS,
    last: LastLook | None = None,
) -> Snapshot:
    """Return what the ledger decides from.

    Args:
        observed: the objects.
        rules: times of the ledger.
        untenanted: accelerators by class for namespaces of no tenant, all together.
        domain_labels: node labels that tell which nodes a fast network connects.
        last: of the last look, which this one takes over; what comes out is the same without it.
    """
    last = last if last is not None else LastLook()
    last.roster.follow(observed.pods)
    gangs = build_gangs(observed, find_owners(observed.tenants.all), last)
    return Snapshot(
        now_s=observed.now.timestamp(),
        tenants=build_tenant_quotas(observed.tenants, untenanted or {}, gangs),
        nodes=last.nodes.build(observed.nodes, observed.classes, domain_labels, gangs, last.roster),
        gangs=gangs,
        costs={accelerator.metadata.name: accelerator.spec.cost_weight for accelerator in observed.classes},
        swaps=tuple(last.roster.find_swaps()),
        rules=rules,
    )


def build_gangs(observed: Observed, owners: Owners, last: LastLook) -> tuple[Gang, ...]:
    """Return the replicas of all pools on accelerators, those that wait and those that hold some, those that hold some
    and have no pool any more, and the attempts of jobs."""
    pools = {(pool.metadata.namespace or "", pool.metadata.name): pool for pool in observed.pools}
    tenants = {tenant.metadata.name: tenant for tenant in observed.tenants.readable}
    last.drafts.begin(observed.classes)
    gangs: list[Gang] = []
    # In their order: where two owners have a gang of the same name, the last one counts.
    for key, members in sorted(last.roster.pools.items(), key=itemgetter(0)):
        pool, replicas = pools.get(key), members
        if pool is None:
            replicas = _select_holding(members, observed.classes)
            held = sorted(chain(*replicas.values()), key=lambda pod: str(pod["metadata"]["name"]))
            pool = build_stand_in(*key, held, observed.classes) if held else None
        if pool is not None and pool.spec.accelerator.class_name != CPU_CLASS:
            name = owners.by_namespace.get(key[0], "")
            minimum = _count_minimum(pool, observed.now)
            gangs += last.drafts.build_gangs(pool, replicas, name, tenants.get(name), minimum)
    attempts = sorted(last.roster.attempts.items(), key=itemgetter(0))
    return (*gangs, *build_job_gangs(attempts, observed.classes, observed.jobs, owners, tenants))


def _select_holding(replicas: Mapping[str, Members], classes: Sequence[AcceleratorClass]) -> dict[str, Members]:
    """Return those of some pods that hold accelerators, by replica in the order of their names."""
    held = {name: tuple(pod for pod in replicas[name] if _holds_any(pod, classes)) for name in sorted(replicas)}
    return {name: pods for name, pods in held.items() if pods}


def _holds_any(pod: JsonObject, classes: Iterable[AcceleratorClass]) -> bool:
    return bool(read_node(pod)) and read_phase(pod) not in FINISHED and requests_accelerators(pod, classes)


def _count_minimum(pool: InferencePool, now: datetime) -> int:
    """Replicas of the pool that are not a burst."""
    if pool.spec.scaling is None or pool.spec.replicas is not None:
        return pool.spec.replicas or 0
    return find_limits(pool.spec.scaling, now).min_replicas
