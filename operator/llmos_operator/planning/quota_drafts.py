"""Replicas of pools as gangs of the ledger, drawn anew only where something changed. Pure but for what it remembers.

The ledger looks at all pods several times a second, and of thousands of gangs few change from one look to the next. A
draft is the gang that the same pods gave last: the same objects, which an unchanged pod keeps from look to look, under
the same terms of its pool and tenant. Nothing depends on it but speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import is_
from typing import Any, NamedTuple

from llmos.api import AcceleratorClass, InferencePool, Tenant
from llmos_operator.planning.quota import Gang, GangKind, GangState, Placement
from llmos_operator.planning.quota_pods import (
    FINISHED,
    clamp_priority,
    count_requested,
    has_gate,
    read_class,
    read_classes,
    read_created_s,
    read_node,
    read_phase,
    read_rank,
    read_size,
    read_state,
    requests_accelerators,
)
from llmos_operator.planning.quota_record import read_record

JsonObject = Mapping[str, Any]

_STAYING = frozenset({GangState.WAITING, GangState.STARTING, GangState.RUNNING})


class _Terms(NamedTuple):
    """What pool and tenant say of a gang."""

    owner: str
    tenant: str
    class_name: str
    accelerators: int
    grace_s: float
    priorities: tuple[int, int] | None


@dataclass(slots=True)
class _Draft:
    pods: Sequence[JsonObject]
    terms: _Terms
    gang: Gang | None
    """None: it neither waits nor holds anything."""
    succeeds: str = ""
    """Uid of the leader of the gang whose room it holds now."""
    minimum: Gang | None = None
    """The same as one of the replicas that its pool always has."""

    @property
    def leader_uid(self) -> str:
        return str(min(self.pods, key=read_rank)["metadata"]["uid"])

    def is_of(self, pods: Sequence[JsonObject], terms: _Terms) -> bool:
        return self.terms == terms and len(self.pods) == len(pods) and all(map(is_, self.pods, pods))

    def as_minimum(self, gang: Gang) -> Gang:
        if self.minimum is None:
            self.minimum = replace(gang, kind=GangKind.REPLICA)
        return self.minimum


class Drafts:
    """Gangs of this look and of the last one, by id."""

    def __init__(self) -> None:
        self._classes: tuple[AcceleratorClass, ...] = ()
        self._last: dict[str, _Draft] = {}
        self._now: dict[str, _Draft] = {}

    def begin(self, classes: Iterable[AcceleratorClass]) -> None:
        """Begin a look: what the last one did not need is forgotten, and all of it if the classes changed."""
        before, self._classes = self._classes, tuple(classes)
        is_same = len(before) == len(self._classes) and all(map(is_, before, self._classes))
        self._last, self._now = self._now if is_same else {}, {}

    def build_gangs(
        self,
        pool: InferencePool,
        replicas: Mapping[str, list[JsonObject]],
        tenant_name: str,
        tenant: Tenant | None,
        minimum: int,
    ) -> list[Gang]:
        """Return the replicas of a pool that wait or hold something.

        Args:
            pool: the pool, or its stand-in.
            replicas: their pods by the name of the replica.
            tenant_name: whose the namespace is; empty if nobody's.
            tenant: the same, if it can be read.
            minimum: replicas of the pool that are not a burst.
        """
        terms = _read_terms(pool, tenant_name, tenant)
        namespace = pool.metadata.namespace
        drafts = [
            (draft.gang, draft)
            for name, pods in replicas.items()
            if (draft := self._draw(f"{namespace}/{name}", pods, terms, tenant)).gang is not None
        ]
        if succeeded := {draft.succeeds for _, draft in drafts if draft.succeeds}:
            drafts = [each for each in drafts if each[1].leader_uid not in succeeded]
        drafts.sort(key=lambda each: (each[0].state is GangState.WAITING, each[0].created_s, each[0].id))
        gangs = []
        for gang, draft in drafts:
            is_minimum = minimum > 0 and gang.state in _STAYING
            minimum -= is_minimum
            gangs.append(draft.as_minimum(gang) if is_minimum else gang)
        return gangs

    def _draw(self, gang_id: str, pods: list[JsonObject], terms: _Terms, tenant: Tenant | None) -> _Draft:
        draft = self._last.get(gang_id)
        if draft is None or not draft.is_of(pods, terms):
            gang = _build_gang(gang_id, pods, terms, tenant, self._classes)
            draft = _Draft(pods, terms, gang, _find_succeeded(pods))
        self._now[gang_id] = draft
        return draft


def _read_terms(pool: InferencePool, tenant_name: str, tenant: Tenant | None) -> _Terms:
    accelerator, priorities = pool.spec.accelerator, tenant.spec.priority_range if tenant is not None else None
    return _Terms(
        owner=f"{pool.metadata.namespace}/{pool.metadata.name}",
        tenant=tenant_name,
        class_name=accelerator.class_name,
        accelerators=accelerator.count,
        grace_s=float(pool.spec.drain.timeout_seconds),
        priorities=(priorities.min, priorities.max) if priorities is not None else None,
    )


def _find_succeeded(pods: Sequence[JsonObject]) -> str:
    """Return the gang in whose place this one is, if it is whole."""
    succeeds = read_record(min(pods, key=read_rank)["metadata"]).succeeds
    return succeeds if len(pods) >= read_size(pods) else ""


def _build_gang(
    gang_id: str, pods: Sequence[JsonObject], terms: _Terms, tenant: Tenant | None, classes: Iterable[AcceleratorClass]
) -> Gang | None:
    """Return the gang; None if it has ended, or waits and not all of its pods were made yet."""
    if all(read_phase(pod) in FINISHED for pod in pods):
        return None
    leader, size = min(pods, key=read_rank), read_size(pods)
    record = read_record(leader["metadata"])
    state = read_state(pods, record)
    if state is GangState.WAITING and len(pods) < size:
        return None
    class_name, accelerators = _read_made_for(leader, terms, classes)
    holds_nothing = state is GangState.WAITING or (record.placement is None and all(map(has_gate, pods)))
    created_s = read_created_s(leader)
    admitted_s = record.admitted_s or created_s
    return Gang(
        id=gang_id,
        tenant=terms.tenant,
        owner=terms.owner,
        kind=GangKind.BURST,
        classes=_read_will_do(leader, class_name, classes),
        pods=len(record.placement.nodes) if record.placement else max(len(pods), size),
        accelerators_per_pod=accelerators,
        priority=clamp_priority(leader, tenant),
        created_s=created_s,
        grace_s=terms.grace_s,
        state=state,
        since_s=admitted_s,
        placement=None if holds_nothing else record.placement or _place_without_record(class_name, pods),
        admitted_s=admitted_s,
        stop=record.stop,
        reservation=record.reservation if state is GangState.WAITING else None,
        attempts=record.attempts,
        retry_at_s=record.retry_at_s,
    )


def _read_will_do(leader: JsonObject, class_name: str, classes: Iterable[AcceleratorClass]) -> tuple[str, ...]:
    if read_class(leader) != class_name:
        return (class_name,)
    known = {each.metadata.name for each in classes}
    # A gang names a class always: what runs holds its accelerators after all of its classes are gone.
    return tuple(name for name in read_classes(leader) if name in known) or (class_name,)


def _read_made_for(leader: JsonObject, terms: _Terms, classes: Iterable[AcceleratorClass]) -> tuple[str, int]:
    """Return the class and the accelerators of each pod that these pods were made with.

    Those of an earlier revision hold what they were made with. Otherwise whoever writes a smaller count into a pool
    whose rollout does not go on would hold what nobody counts.
    """
    wanted = leader["spec"].get("nodeSelector") or {}
    asked = {each.metadata.name: each for each in classes if requests_accelerators(leader, (each,))}
    if not asked:
        return terms.class_name, terms.accelerators
    made_for = [name for name, each in sorted(asked.items()) if each.spec.node_selector == wanted] or [terms.class_name]
    name = next((each for each in (read_class(leader), terms.class_name) if each in made_for), made_for[0])
    resource = (asked.get(name) or next(iter(asked.values()))).spec.resource_name
    return name, sum(count_requested(container, resource) for container in leader["spec"]["containers"])


def _place_without_record(class_name: str, pods: Sequence[JsonObject]) -> Placement:
    """Where pods stand that were made before there was any quota: those that have no node yet hold some somewhere."""
    return Placement(class_name, tuple(name for pod in sorted(pods, key=read_rank) if (name := read_node(pod))))
