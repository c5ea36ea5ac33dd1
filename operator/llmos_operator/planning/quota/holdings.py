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
from llmos_operator.planning.quota.queues import Cover, OrderKey, compute_key
from llmos_operator.planning.quota.room import ClassRoom
from llmos_operator.planning.quota.values import Gang, GangKind, GangState, Node, Placement, TenantQuota

GaveBack = Callable[[Gang], None]

STANDING = frozenset({GangState.STARTING, GangState.RUNNING})
_LEAVING = frozenset({GangState.STOPPING, GangState.ENDING})
_NO_REPLICAS: Mapping[str, int] = {}
_NO_HOLDINGS: Mapping[tuple[bool, int], int] = {}


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
        self._gave_back = gave_back
        self._held: dict[tuple[str, str], dict[str, Gang]] = {}
        self._held_by_importance: dict[tuple[str, str], dict[tuple[bool, int], int]] = {}
        """Accelerators of gangs that were not asked to go, and of those for which room is kept."""
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

    def order_key(self, gang: Gang, aging_s: float, heads: Iterable[Gang]) -> OrderKey:
        """What orders waiting gangs: the smallest is served first. `heads` are the first of the tenant's lines."""
        return (
            self._find_cover(gang, aging_s, heads),
            self.then.share(gang.tenant),
            *_rank(gang, aging_s),
            gang.id,
        )

    def _find_cover(self, gang: Gang, aging_s: float, heads: Iterable[Gang]) -> Cover:
        if not self._fits_guarantee(gang):
            return Cover.CLAIM if self._has_claim(gang) else Cover.NONE
        rank = _rank(gang, aging_s)
        for other in heads:
            if (
                _rank(other, aging_s) < rank
                and self._has_claim(other)
                and not self._fits_guarantee(other)
                and not set(gang.classes).isdisjoint(other.classes)
            ):
                return Cover.BEHIND_CLAIM
        return Cover.LEFT

    def _fits_guarantee(self, gang: Gang) -> bool:
        """Whether the guarantee covers it beside all that its tenant holds, in one of the classes that will do."""
        tenant, accelerators, book = gang.tenant, gang.accelerators, self.then
        return any(book.is_within_guarantee(tenant, name, accelerators) for name in gang.classes)

    def _has_claim(self, gang: Gang) -> bool:
        """Whether the guarantee covers it beside what gangs of its tenant hold that are not less important."""
        importance = _importance(gang)
        for name in gang.classes:
            left = self.then.quota(gang.tenant, name).guaranteed - gang.accelerators
            if left < 0:
                continue
            for other, held in self._held_by_importance.get((gang.tenant, name), _NO_HOLDINGS).items():
                if other <= importance:
                    left -= held
            if left >= 0:
                return True
        return False

    def _count(self, gang: Gang, sign: int) -> None:
        placement = placement_of(gang)
        if placement is None:
            return
        now, then = gang.state is not GangState.WAITING, gang.state not in _LEAVING
        accelerators = sign * gang.accelerators
        if now:
            self.now.add(gang.tenant, placement.class_name, accelerators)
        if then:
            self.then.add(gang.tenant, placement.class_name, accelerators)
        room = self.rooms.get(placement.class_name)
        if room is not None:
            room.add(placement.nodes, sign * gang.accelerators_per_pod, now=now, then=then)
        if then:
            held = self._held_by_importance.setdefault((gang.tenant, placement.class_name), {})
            importance = _importance(gang)
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


def _importance(gang: Gang) -> tuple[bool, int]:
    """What a guarantee covers first, as `victims.compute_covered` reckons; the smallest is the most important."""
    return gang.kind is not GangKind.REPLICA, -gang.priority


def _rank(gang: Gang, aging_s: float) -> tuple[bool, float]:
    """Place of a gang within its tenant, waiting counted in."""
    return gang.kind is not GangKind.REPLICA, compute_key(gang, aging_s)


def _set(members: dict[str, Gang], gang_id: str, gang: Gang, sign: int) -> None:
    if sign > 0:
        members[gang_id] = gang
    else:
        members.pop(gang_id, None)
