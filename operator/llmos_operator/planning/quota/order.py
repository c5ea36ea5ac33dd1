"""The order in which waiting gangs are served, kept up while serving one changes the places of others.

A guarantee is for its tenant's most important gangs. A gang that needs more than is left of it has a **claim** in a
class if the guarantee covers it beside what gangs of its tenant hold there that are not less important, and the nodes
could hold it. With g the guarantee, h(i) what gangs of importance i hold, n what the gang needs:

    it fits         sum of all h(i) + n <= g
    it has a claim  sum of h(i) over all i that are not less important + n <= g

What else its tenant has waiting for that class, with a later place in the queue, comes after it. Of several claims in a
class only the first in the queue matters, so a tenant's claims are one place for each class. They are looked for once
and again only when the tenant's holdings or lines changed, and only among lines that do not fit: there are none of
those while there is much left, and nobody asks for claims when nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappop, heappush
from math import inf

from llmos_operator.planning.quota.holdings import Holdings, Importance, importance_of
from llmos_operator.planning.quota.queues import Line, Lines, Need, Shape, compute_key
from llmos_operator.planning.quota.values import Gang, GangKind


class Cover(IntEnum):
    """What the guarantee of its tenant is for a waiting gang. The smallest is served first.

    If only what is left of it counted, a large gang would come after all small ones of its own tenant, however
    unimportant: as long as they hold a part of the guarantee, it needs more than is left.
    """

    LEFT = 0
    """It fits into what is left of the guarantee."""
    CLAIM = 1
    """It would fit, but for less important gangs of its tenant. When it is admitted, what these hold is borrowed."""
    BEHIND_CLAIM = 2
    """It fits into what is left, and one with a claim in one of its classes comes before it in its tenant."""
    NONE = 3
    """It would borrow."""


OrderKey = tuple[Cover, float, bool, float, str]
"""Cover, share, no replica of the minimum, priority with aging, id: the smallest is served first."""

Rank = tuple[bool, float]
"""Place within the tenant, waiting counted in: no replica of the minimum, priority with aging."""

_NOBODY, _EVERYBODY = (False, -inf), (True, inf)


@dataclass(slots=True)
class Keys:
    """Reckons what waiting gangs are ordered by."""

    holdings: Holdings
    lines: Lines
    aging_s: float
    _claims: dict[str, tuple[int, int, Mapping[str, Rank]]] = field(default_factory=dict)
    """By tenant, with the changes of its holdings and lines up to which they are right."""
    _bounds: dict[str, tuple[int, dict[tuple[str, int], tuple[bool, float]]]] = field(default_factory=dict)
    """By tenant, with the changes of its holdings up to which they are right, by class and accelerators."""
    _possible: dict[tuple[object, ...], bool] = field(default_factory=dict)

    def key_of(self, gang: Gang) -> OrderKey:
        """What orders waiting gangs: the smallest is served first."""
        cover = self._find_cover(gang)
        return cover, self.holdings.then.share(gang.tenant), *rank_of(gang, self.aging_s), gang.id

    def _find_cover(self, gang: Gang) -> Cover:
        if not self.fits(gang.tenant, (gang.classes, gang.accelerators)):
            return Cover.CLAIM if any(self._claimed_classes(gang)) else Cover.NONE
        claims = self.claims_of(gang.tenant)
        if claims:
            rank = rank_of(gang, self.aging_s)
            if any(name in claims and claims[name] < rank for name in gang.classes):
                return Cover.BEHIND_CLAIM
        return Cover.LEFT

    def claims_of(self, tenant: str) -> Mapping[str, Rank]:
        """The first of the tenant's claims in each class."""
        held, waiting = self.holdings.changes(tenant), self.lines.changes(tenant)
        known = self._claims.get(tenant)
        if known is None or known[:2] != (held, waiting):
            known = self._claims[tenant] = (held, waiting, self._find_claims(tenant))
        return known[2]

    def _find_claims(self, tenant: str) -> Mapping[str, Rank]:
        claims: dict[str, Rank] = {}
        for need, lines in self.lines.of_tenant(tenant).items():
            if self.fits(tenant, need):
                continue
            for head in filter(None, (line.head() for line in lines.values())):
                rank = rank_of(head, self.aging_s)
                for name in self._claimed_classes(head):
                    claims[name] = min(rank, claims.get(name, rank))
        return claims

    def fits(self, tenant: str, need: Need) -> bool:
        """Whether the guarantee covers so much beside all that its tenant holds, in one of the classes that will do."""
        classes, accelerators = need
        book = self.holdings.then
        return any(book.is_within_guarantee(tenant, name, accelerators) for name in classes)

    def _claimed_classes(self, gang: Gang) -> Iterator[str]:
        """Classes in which the guarantee covers it beside what is not less important, and the nodes could hold it."""
        importance = importance_of(gang)
        for name in gang.classes:
            if importance < self._bound(gang.tenant, name, gang.accelerators) and self.is_possible(gang, name):
                yield name

    def _bound(self, tenant: str, class_name: str, accelerators: int) -> tuple[bool, float]:
        """Above which importance (below which number) the guarantee covers so much beside what is not less important.

        The sum over what is not less important grows with the number, so it is where the sum becomes too much.
        """
        changes = self.holdings.changes(tenant)
        known = self._bounds.get(tenant)
        if known is None or known[0] != changes:
            known = self._bounds[tenant] = (changes, {})
        bounds = known[1]
        key = class_name, accelerators
        if key not in bounds:
            left = self.holdings.then.quota(tenant, class_name).guaranteed - accelerators
            held = self.holdings.held_by_importance(tenant, class_name)
            bounds[key] = _find_bound(held, left)
        return bounds[key]

    def is_possible(self, gang: Gang, class_name: str) -> bool:
        """Whether the nodes of a class could hold the gang if they were empty."""
        key = class_name, gang.pods, gang.accelerators_per_pod, gang.node_selector
        known = self._possible.get(key)
        if known is None:
            room = self.holdings.rooms.get(class_name)
            known = self._possible[key] = room is not None and room.could_hold(gang)
        return known


class Order:
    """Lines in the order of their heads, for one look.

    When a line is served its tenant holds more. Then nothing fits that did not, nothing has a claim that neither fitted
    nor had one, and the share does not fall. So keys of the tenant become worse, and it is enough to reckon them anew
    when they come up; those of other tenants stay. Only what is behind a claim may become better: the claim ends, or it
    does not fit any more and has a claim itself. Such lines are reckoned anew at once.

    When a tenant loses something, any of its keys may become better: whoever takes it says so (`renew`).
    """

    def __init__(self, lines: Iterable[Line], keys: Keys) -> None:
        self._keys = keys
        self._heap: list[tuple[OrderKey, int, int, Line]] = []
        """Key, number of the entry, how often the tenant was served before it was reckoned, line."""
        self._entries = 0
        self._served: dict[str, int] = {}
        self._standing: dict[str, dict[Shape, int]] = {}
        """Lines that were not taken, by tenant, with their last entry; others in the heap count for nothing."""
        self._behind: dict[str, dict[Shape, Line]] = {}
        self._claims: dict[str, Mapping[str, Rank]] = {}
        """By tenant: lines behind a claim, and the claims when the last of the tenant was served, if there were any."""
        for line in lines:
            self._push(line)

    def push_served(self, line: Line) -> None:
        """Put a line back whose head was served, if somebody waits in it."""
        self._push(line)
        self.note_served(line)

    def note_served(self, line: Line) -> None:
        """The head of a line was served, and the line is not to be looked at again."""
        tenant = line.shape.tenant
        self._served[tenant] = self._served.get(tenant, 0) + 1
        behind, known = self._behind.get(tenant), self._claims.pop(tenant, None)
        if not behind:
            return
        claims = self._keys.claims_of(tenant)
        fits = {need: self._keys.fits(tenant, need) for need in {shape.need for shape in behind}}
        for other in tuple(behind.values()):
            if claims != known or not fits[other.shape.need]:
                self._push(other)
        self._claims[tenant] = claims

    def renew(self, tenants: Iterable[str]) -> None:
        """These tenants lost something: reckon all their keys anew."""
        lost = frozenset(tenants)
        if not lost:
            return
        standing = [line for _, entry, _, line in self._heap if self._is_last(entry, line)]
        for line in standing:
            if line.shape.tenant in lost:
                self._claims.pop(line.shape.tenant, None)
                self._push(line)

    def push_woken(self, line: Line) -> None:
        """Take in a line that may have a chance only now."""
        self._push(line)

    def pop(self) -> Line | None:
        """Take the first line."""
        while self._heap:
            key, entry, served, line = heappop(self._heap)
            head = line.head()
            if not self._is_last(entry, line):
                continue
            tenant = line.shape.tenant
            if head is not None and served != self._served.get(tenant, 0) and self._keys.key_of(head) != key:
                self._push(line)
                continue
            del self._standing[tenant][line.shape]
            self._behind.get(tenant, {}).pop(line.shape, None)
            if head is not None:
                return line
        return None

    def _push(self, line: Line) -> None:
        """Reckon the key of a line; an entry that it has counts no more."""
        head = line.head()
        if head is None:
            return
        tenant, key = line.shape.tenant, self._keys.key_of(head)
        self._entries += 1
        self._standing.setdefault(tenant, {})[line.shape] = self._entries
        behind = self._behind.setdefault(tenant, {})
        if key[0] is Cover.BEHIND_CLAIM:
            behind[line.shape] = line
        else:
            behind.pop(line.shape, None)
        heappush(self._heap, (key, self._entries, self._served.get(tenant, 0), line))

    def _is_last(self, entry: int, line: Line) -> bool:
        return self._standing[line.shape.tenant].get(line.shape) == entry


def _find_bound(held: Mapping[Importance, int], left: int) -> tuple[bool, float]:
    if left < 0:
        return _NOBODY
    for importance in sorted(held):
        left -= held[importance]
        if left < 0:
            return importance
    return _EVERYBODY


def rank_of(gang: Gang, aging_s: float) -> Rank:
    """The place of a gang within its tenant."""
    return gang.kind is not GangKind.REPLICA, compute_key(gang, aging_s)
