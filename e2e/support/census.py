"""Who holds which accelerators, from the API server's own sequence of changes, and what may never be so. Pure.

A watch tells every change of pods in the order in which the API server made them. So what is counted here after each of
them was true at that moment, and a rule that is broken for a millisecond is seen.

A pod holds accelerators from the moment in which it has no gate any more until it is finished or gone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, Final

from llmos.api.names import ANNOTATION_QUOTA, GATE_QUOTA, LABEL_REPLICA

Object = dict[str, Any]

GPU: Final = "nvidia.com/gpu"
_FINISHED: Final = frozenset({"Succeeded", "Failed"})
PROBLEMS_KEPT: Final = 20


@dataclass(frozen=True)
class Grant:
    """What one tenant may have. All that is guaranteed may be lent."""

    cohort: str
    guaranteed: int
    borrow_limit: int


@dataclass(frozen=True)
class Holding:
    """One pod, as it was told last."""

    tenant: str
    replica: str
    gpus: int
    node: str
    """Where it is bound; empty before."""
    pinned: tuple[str, ...]
    """Where the ledger put its gang."""
    is_gated: bool
    is_going: bool
    created_s: float
    """When it was told of first."""
    admitted_s: float | None = None


@dataclass
class Waits:
    """Seconds from creation to admission."""

    guaranteed: list[float] = field(default_factory=list)
    """Of pods with which their tenant was within its guarantee."""
    borrowed: list[float] = field(default_factory=list)


class Census:
    """All pods of pools.

    Args:
        tenants: the grant of each tenant, by its namespace.
        capacity: accelerators of the cluster.
        per_node: accelerators of a node.
    """

    def __init__(self, tenants: Mapping[str, Grant], *, capacity: int, per_node: int) -> None:
        self._tenants, self._capacity, self._per_node = tenants, capacity, per_node
        self._pods: dict[str, Holding] = {}
        self.used: Counter[str] = Counter()
        """Accelerators by tenant."""
        self.on_node: Counter[str] = Counter()
        self.waits = Waits()
        self.admissions = 0
        self.changes = 0
        self.problems: list[str] = []
        """What was broken, the first ones in words."""
        self._held_gpu_s, self._since_s, self._began_s = 0.0, 0.0, 0.0

    @property
    def held(self) -> int:
        """Accelerators that are held now."""
        return self.used.total()

    @property
    def waiting(self) -> dict[str, list[Holding]]:
        """Pods behind their gate, by tenant."""
        found: dict[str, list[Holding]] = {}
        for pod in self._pods.values():
            if pod.is_gated:
                found.setdefault(pod.tenant, []).append(pod)
        return found

    def begin_use(self, now_s: float) -> None:
        """Reckon the mean use from now on."""
        self._held_gpu_s, self._since_s, self._began_s = 0.0, now_s, now_s

    def end_use(self, now_s: float) -> float:
        """Return the mean part of the cluster that was held since `begin_use`."""
        self._advance(now_s)
        return self._held_gpu_s / max(1e-9, now_s - self._began_s) / self._capacity

    def see(self, event: str, pod: Object, now_s: float) -> None:
        """Take note of one change, and look whether it broke anything."""
        self._advance(now_s)
        self.changes += 1
        uid = pod["metadata"]["uid"]
        before = self._pods.pop(uid, None)
        if before is not None:
            self._count(before, -1)
        if event == "DELETED" or pod.get("status", {}).get("phase") in _FINISHED:
            return
        after = _read(pod, before, now_s)
        self._pods[uid] = after
        self._count(after, 1)
        if not after.is_gated and (before is None or before.is_gated):
            self._admit(after, now_s)
        self._check(after, pod["metadata"]["name"])

    def find_half_bound(self, now_s: float, deadline_s: float) -> list[str]:
        """Return replicas of which a pod has waited for its node for longer than the deadline."""
        return sorted(
            {
                f"{pod.tenant}/{pod.replica}"
                for pod in self._pods.values()
                if not pod.is_gated and not pod.node and now_s - (pod.admitted_s or now_s) > deadline_s
            }
        )

    def find_denied(self, demand: Mapping[str, int]) -> list[str]:
        """Return pods that wait although their tenant would stay within its guarantee with them, and tenants of whose
        demand not even the pods are there."""
        asked: Counter[str] = Counter()
        for pod in self._pods.values():
            if not pod.is_going:
                asked[pod.tenant] += pod.gpus
        late = [
            f"{name}: pods for {asked[name]} of {wanted}" for name, wanted in demand.items() if asked[name] < wanted
        ]
        return late + [
            f"{tenant}: {pod.replica} wants {pod.gpus}, {self.used[tenant]} of {grant.guaranteed} are held"
            for tenant, pods in sorted(self.waiting.items())
            for grant in [self._tenants[tenant]]
            for pod in pods
            if self.used[tenant] + pod.gpus <= grant.guaranteed
        ]

    def compare(self, pods: list[Object]) -> list[str]:
        """Return how a list of all pods differs from what the changes told: nothing, if none was missed."""
        listed = {
            pod["metadata"]["uid"]: _read(pod, None, 0)
            for pod in pods
            if pod.get("status", {}).get("phase") not in _FINISHED
        }
        told = {uid: (pod.is_gated, pod.node) for uid, pod in self._pods.items()}
        return [
            f"{pod.tenant}/{pod.replica} {'waits' if pod.is_gated else f'is on {pod.node}'}"
            for uid, pod in listed.items()
            if told.get(uid) != (pod.is_gated, pod.node)
        ] + [f"{self._pods[uid].replica} ({uid}) is gone" for uid in told.keys() - listed.keys()]

    def _advance(self, now_s: float) -> None:
        self._held_gpu_s += self.held * (now_s - self._since_s)
        self._since_s = now_s

    def _count(self, pod: Holding, sign: int) -> None:
        if pod.is_gated:
            return
        self.used[pod.tenant] += sign * pod.gpus
        if pod.node:
            self.on_node[pod.node] += sign * pod.gpus

    def _admit(self, pod: Holding, now_s: float) -> None:
        self.admissions += 1
        is_guaranteed = self.used[pod.tenant] <= self._tenants[pod.tenant].guaranteed
        (self.waits.guaranteed if is_guaranteed else self.waits.borrowed).append(now_s - pod.created_s)

    def _check(self, pod: Holding, name: str) -> None:
        if pod.is_gated:
            if pod.node:
                self._blame(f"{name} is bound to {pod.node} behind its gate")
            return
        grant, used = self._tenants[pod.tenant], self.used[pod.tenant]
        if used > grant.guaranteed + grant.borrow_limit:
            self._blame(f"{pod.tenant} holds {used} of at most {grant.guaranteed + grant.borrow_limit}")
        if self.held > self._capacity:
            self._blame(f"all together hold {self.held} of {self._capacity}")
        excess = self._excess()
        spare = self._capacity - sum(each.guaranteed for each in self._tenants.values())
        if excess > spare:
            self._blame(f"cohorts hold {excess} beyond what they are guaranteed, {spare} are nobody's")
        if pod.node and self.on_node[pod.node] > self._per_node:
            self._blame(f"node {pod.node} has {self.on_node[pod.node]} of {self._per_node}")
        if pod.node and pod.node not in pod.pinned:
            self._blame(f"{name} is bound to {pod.node} and was admitted to {pod.pinned or 'no node'}")

    def _excess(self) -> int:
        of_cohort: Counter[str] = Counter()
        for name, grant in self._tenants.items():
            of_cohort[grant.cohort] += self.used[name] - grant.guaranteed
        return sum(max(0, excess) for excess in of_cohort.values())

    def _blame(self, problem: str) -> None:
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(problem)


def describe_waits(waits_s: list[float]) -> str:
    """Return number, median and 99th percentile in words."""
    if len(waits_s) < 2:
        return f"{len(waits_s)} admissions"
    points = quantiles(waits_s, n=100, method="inclusive")
    return f"{len(waits_s)} admissions, p50 {points[49]:.1f} s, p99 {points[98]:.1f} s, longest {max(waits_s):.1f} s"


def _read(pod: Object, before: Holding | None, now_s: float) -> Holding:
    metadata, spec = pod["metadata"], pod["spec"]
    is_gated = {"name": GATE_QUOTA} in spec.get("schedulingGates", [])
    admitted_s = before.admitted_s if before is not None else None
    return Holding(
        tenant=metadata["namespace"],
        replica=metadata["labels"].get(LABEL_REPLICA, metadata["name"]),
        gpus=sum(int(each.get("resources", {}).get("limits", {}).get(GPU, 0)) for each in spec["containers"]),
        node=spec.get("nodeName", ""),
        pinned=_read_pins(metadata),
        is_gated=is_gated,
        is_going="deletionTimestamp" in metadata,
        created_s=before.created_s if before is not None else now_s,
        admitted_s=None if is_gated else (now_s if admitted_s is None else admitted_s),
    )


def _read_pins(metadata: Object) -> tuple[str, ...]:
    record = json.loads((metadata.get("annotations") or {}).get(ANNOTATION_QUOTA, "{}"))
    return tuple((record.get("placement") or {}).get("nodes", ()))
