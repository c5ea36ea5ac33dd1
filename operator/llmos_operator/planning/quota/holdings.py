"""Who holds what, and who will when everybody who was asked to go is gone: accounts, nodes and gangs in step.

Every change goes through `replace`: the effect of the gang as it was is taken away, the effect of the gang as it is now
is added. Nothing else touches accounts or nodes, so they cannot drift from the gangs, and a change that was only tried
is taken back by replacing it again. What a gang counts for:

    state               accounts and nodes now    then
    waiting             -                         -
    waiting, a reservation    -                         the reservation
    starting, running   yes                       yes
    stopping, ending    yes                       -
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from llmos_operator.planning.quota.books import Book, Verdict
from llmos_operator.planning.quota.room import ClassRoom
from llmos_operator.planning.quota.values import Gang, GangKind, GangState, Node, Placement, TenantQuota

GaveBack = Callable[[Gang], None]
Importance = tuple[bool, int]
"""No replica of the minimum, negative priority: a guarantee covers the smallest first (`victims.compute_covered`)."""

StayingOn = tuple[str, str, str, bool]
"""Tenant, class, node, whether they are replicas of the minimum."""

STANDING = frozenset({GangState.STARTING, GangState.RUNNING})
_LEAVING = frozenset({GangState.STOPPING, GangState.ENDING})
_NO_REPLICAS: Mapping[str, int] = {}
_NO_HOLDINGS: Mapping[Importance, int] = {}


class Holdings:
    """The mutable state of the ledger. `gave_back` is called with the gang as it was whenever one changed or went."""

    def __init__(
        self,
        tenants: Iterable[TenantQuota],
        nodes: Iterable[Node],
        costs: Mapping[str, float],
        gave_back: GaveBack,
    ) -> None:
        tenants, nodes = tuple(tenants), tuple(nodes)
        self.now = Book(tenants, nodes, costs)
        self.then = Book(tenants, nodes, costs)
        by_class: dict[str, list[Node]] = {}
        for node in nodes:
            by_class.setdefault(node.class_name, []).append(node)
        self.rooms = {name: ClassRoom(name, members) for name, members in by_class.items()}
        self.gangs: dict[str, Gang] = {}
        self.reservations: dict[str, Gang] = {}
        """Waiting gangs for which room is kept."""
        self.staying: dict[StayingOn, int] = {}
        """Accelerators of replicas but those asked to go: they do not end by themselves."""
        self._gave_back = gave_back
        self._held: dict[tuple[str, str], dict[str, Gang]] = {}
        self._held_by_importance: dict[tuple[str, str], dict[Importance, int]] = {}
        self._changes: dict[str, int] = {}
        self._replicas: dict[str, dict[str, int]] = {}
        self._promised: dict[str, set[str]] = {}

    def replace(self, new: Gang, *, on_trial: bool = False) -> None:
        """Put a gang in the place of the one with the same id, or add it. Nobody is told of what is only tried."""
        old = self.gangs.get(new.id)
        if old is not None:
            self._count(old, -1)
        self.gangs[new.id] = new
        self._count(new, 1)
        if old is not None and not on_trial:
            self._gave_back(old)

    def lift(self, gang: Gang) -> None:
        """Reckon as if the gang were gone in the end. Only tried: `put_back` has to follow."""
        self._try_then(gang, -1)

    def put_back(self, gang: Gang) -> None:
        """Take `lift` back."""
        self._try_then(gang, 1)

    def _try_then(self, gang: Gang, sign: int) -> None:
        placement = placement_of(gang)
        if placement is None:
            return
        self.then.add(gang.tenant, placement.class_name, sign * gang.accelerators)
        room = self.rooms.get(placement.class_name)
        if room is not None:
            room.add(placement.nodes, sign * gang.accelerators_per_pod, now=False, then=True)

    def remove(self, gang_id: str) -> Gang | None:
        """Forget a gang and everything that it holds."""
        old = self.gangs.pop(gang_id, None)
        if old is not None:
            self._count(old, -1)
            self._gave_back(old)
        return old

    def held_by(self, tenant: str, class_name: str) -> Iterable[Gang]:
        """Gangs of a tenant that hold accelerators of a class and were not asked to go."""
        return self._held.get((tenant, class_name), {}).values()

    def leaving_for(self, gang_id: str) -> frozenset[str]:
        """Gangs that were asked to go for this one and are not gone."""
        return frozenset(self._promised.get(gang_id, ()))

    def fits_quota(self, gang: Gang, class_name: str, *, then: bool = False) -> Verdict:
        """Whether the quota lets the gang in: now and after all promises are kept, or only then."""
        wanted = gang.accelerators
        verdict = self.then.judge(gang.tenant, class_name, wanted)
        if then or verdict is not Verdict.YES:
            return verdict
        return self.now.judge(gang.tenant, class_name, wanted)

    def find_place(self, gang: Gang, class_name: str, *, then: bool = False) -> Placement | None:
        """Nodes for the gang."""
        room = self.rooms.get(class_name)
        if room is None:
            return None
        return room.find(gang, self._replicas.get(gang.owner, _NO_REPLICAS), then=then)

    def held_by_importance(self, tenant: str, class_name: str) -> Mapping[Importance, int]:
        """Accelerators of a class that a tenant's gangs hold who were not asked to go, or that are kept for them."""
        return self._held_by_importance.get((tenant, class_name), _NO_HOLDINGS)

    def changes(self, tenant: str) -> int:
        """A number that is another one whenever the tenant holds something else; what `lift` tries does not count."""
        return self._changes.get(tenant, 0)

    def _count(self, gang: Gang, sign: int) -> None:
        placement = placement_of(gang)
        if placement is None:
            return
        now, then = gang.state is not GangState.WAITING, gang.state not in _LEAVING
        accelerators = sign * gang.accelerators
        self._changes[gang.tenant] = self.changes(gang.tenant) + 1
        if now:
            self.now.add(gang.tenant, placement.class_name, accelerators)
        if then:
            self.then.add(gang.tenant, placement.class_name, accelerators)
        room = self.rooms.get(placement.class_name)
        if room is not None:
            room.add(placement.nodes, sign * gang.accelerators_per_pod, now=now, then=then)
        if then:
            held = self._held_by_importance.setdefault((gang.tenant, placement.class_name), {})
            importance = importance_of(gang)
            held[importance] = held.get(importance, 0) + accelerators
            if not held[importance]:
                del held[importance]
        self._index(gang, placement, sign)

    def _index(self, gang: Gang, placement: Placement, sign: int) -> None:
        if gang.state is GangState.WAITING:
            _set(self.reservations, gang.id, gang, sign)
        elif gang.state in STANDING:
            _set(self._held.setdefault((gang.tenant, placement.class_name), {}), gang.id, gang, sign)
        if gang.state in _LEAVING and gang.stop is not None:
            promised = self._promised.setdefault(gang.stop.for_id, set())
            promised.add(gang.id) if sign > 0 else promised.discard(gang.id)
            if not promised:
                del self._promised[gang.stop.for_id]
        if gang.kind is not GangKind.JOB and gang.state in STANDING:
            self._count_replicas(gang.owner, placement.nodes, sign)
            for node in placement.nodes:
                key = gang.tenant, placement.class_name, node, gang.kind is GangKind.REPLICA
                self.staying[key] = self.staying.get(key, 0) + sign * gang.accelerators_per_pod
                if not self.staying[key]:
                    del self.staying[key]

    def _count_replicas(self, owner: str, nodes: Iterable[str], sign: int) -> None:
        counts = self._replicas.setdefault(owner, {})
        for node in dict.fromkeys(nodes):
            counts[node] = counts.get(node, 0) + sign
            if counts[node] <= 0:
                del counts[node]
        if not counts:
            del self._replicas[owner]


def placement_of(gang: Gang) -> Placement | None:
    """Where a gang stands, or will stand if room is kept for it."""
    if gang.state is GangState.WAITING:
        return gang.reservation.placement if gang.reservation is not None else None
    return gang.placement


def importance_of(gang: Gang) -> Importance:
    """What its tenant's guarantee covers it after."""
    return gang.kind is not GangKind.REPLICA, -gang.priority


def _set(members: dict[str, Gang], gang_id: str, gang: Gang, sign: int) -> None:
    if sign > 0:
        members[gang_id] = gang
    else:
        members.pop(gang_id, None)
