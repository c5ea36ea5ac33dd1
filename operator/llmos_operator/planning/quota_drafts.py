"""Replicas of pools as gangs of the ledger, drawn anew only where something changed. Pure but for what it remembers.

The ledger looks at all pods several times a second, and of thousands of gangs few change from one look to the next. A
sheet has the gangs of a pool, and a draft is one of them. They stay as long as the pods do, by identity (the roster
hands out the same as long as nothing changed), and the terms of pool and tenant. Nothing depends on it but speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from llmos.api import AcceleratorClass, InferencePool, Tenant
from llmos_operator.planning.quota import Gang, GangKind, GangState, Placement
from llmos_operator.planning.quota_pods import (
    are_same,
    clamp_priority,
    count_requested,
    has_ended,
    has_gate,
    read_class,
    read_classes,
    read_created_s,
    read_node,
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
    gang: Gang | None
    """None: it neither waits nor holds anything."""
    succeeds: str = ""
    """Uid of the leader of the gang whose room it holds now."""
    minimum: Gang | None = None
    """The same as one of the replicas that its pool always has."""

    @property
    def leader_uid(self) -> str:
        return str(self.pods[0]["metadata"]["uid"])

    def is_of(self, pods: Sequence[JsonObject]) -> bool:
        return self.pods is pods or are_same(self.pods, pods)

    def as_minimum(self, gang: Gang) -> Gang:
        if self.minimum is None:
            self.minimum = replace(gang, kind=GangKind.REPLICA)
        return self.minimum


@dataclass(frozen=True, slots=True)
class _Sheet:
    replicas: Mapping[str, Sequence[JsonObject]]
    terms: _Terms
    minimum: int
    drafts: Mapping[str, _Draft]
    """By replica."""
    gangs: Sequence[Gang]


class Drafts:
    """Gangs of this look and of the last one, by pool."""

    def __init__(self) -> None:
        self._classes: tuple[AcceleratorClass, ...] = ()
        self._last: dict[str, _Sheet] = {}
        self._now: dict[str, _Sheet] = {}

    def begin(self, classes: Iterable[AcceleratorClass]) -> None:
        """Begin a look: what the last one did not need is forgotten, and all of it if the classes changed."""
        before, self._classes = self._classes, tuple(classes)
        is_same = are_same(before, self._classes)
        self._last, self._now = self._now if is_same else {}, {}

    def build_gangs(
        self,
        pool: InferencePool,
        replicas: Mapping[str, Sequence[JsonObject]],
        tenant_name: str,
        tenant: Tenant | None,
        minimum: int,
    ) -> Sequence[Gang]:
        """Return the replicas of a pool that wait or hold something.

        Args:
            pool: the pool, or its stand-in.
            replicas: their pods, leaders first, by the name of the replica; what is given is not changed any more.
            tenant_name: whose the namespace is; empty if nobody's.
            tenant: the same, if it can be read.
            minimum: replicas of the pool that are not a burst.
        """
        terms = _read_terms(pool, tenant_name, tenant)
        sheet = self._last.get(terms.owner)
        is_same = sheet is not None and sheet.terms == terms
        if sheet is None or not (is_same and sheet.replicas is replicas and sheet.minimum == minimum):
            known = sheet.drafts if sheet is not None and is_same else {}
            drafts = {
                name: self._draw(known.get(name), f"{pool.metadata.namespace}/{name}", pods, terms, tenant)
                for name, pods in replicas.items()
            }
            sheet = _Sheet(replicas, terms, minimum, drafts, _choose_minimum(drafts.values(), minimum))
        self._now[terms.owner] = sheet
        return sheet.gangs

    def _draw(
        self, known: _Draft | None, gang_id: str, pods: Sequence[JsonObject], terms: _Terms, tenant: Tenant | None
    ) -> _Draft:
        if known is not None and known.is_of(pods):
            return known
        return _Draft(pods, _build_gang(gang_id, pods, terms, tenant, self._classes), _find_succeeded(pods))


def _choose_minimum(drawn: Iterable[_Draft], minimum: int) -> tuple[Gang, ...]:
    """Return the gangs, those first that hold something, then the oldest; the first are the minimum of their pool."""
    drafts = [(draft.gang, draft) for draft in drawn if draft.gang is not None]
    if succeeded := {draft.succeeds for _, draft in drafts if draft.succeeds}:
        drafts = [each for each in drafts if each[1].leader_uid not in succeeded]
    drafts.sort(key=lambda each: (each[0].state is GangState.WAITING, each[0].created_s, each[0].id))
    gangs = []
    for gang, draft in drafts:
        is_minimum = minimum > 0 and gang.state in _STAYING
        minimum -= is_minimum
        gangs.append(draft.as_minimum(gang) if is_minimum else gang)
    return tuple(gangs)


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
    succeeds = read_record(pods[0]["metadata"]).succeeds
    return succeeds if len(pods) >= read_size(pods) else ""


def _build_gang(
    gang_id: str, pods: Sequence[JsonObject], terms: _Terms, tenant: Tenant | None, classes: Iterable[AcceleratorClass]
) -> Gang | None:
    """Return the gang; None if it has ended, or waits and not all of its pods were made yet."""
    if all(map(has_ended, pods)):
        return None
    leader, size = pods[0], read_size(pods)
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
    return Placement(class_name, tuple(name for pod in pods if (name := read_node(pod))))
