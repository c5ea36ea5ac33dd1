"""Turns: what a tenant's own limit keeps out for long comes before what its tenant asks for later.

Room that is kept for a large gang (`ledger`, patience) would help nothing where the limit of its own tenant keeps it
out: what others give back is not for it. There its tenant's small gangs would follow each other for ever, each of them
within the limit, and the large one never. So the first gang of a tenant and class that waited beyond all patience gets
a turn: nothing of its tenant starts in that class that comes after it in the queue and would not fit the limit beside
it, replicas up to minReplicas excepted.

How long the others run is not known, and what is kept back lies idle. So turns alternate with breaks of the same
length, in which everybody may start, and each is twice as long as the one before, up to `LONGEST`. With T the first
length and x the time since patience ended, in units of T:

    k = floor(log2(x / 2 + 1))      begins at 2 (2^k - 1), lasts 2^k, and then as long a break

As soon as 2^k T is more than the longest of the others runs, all of them end within the turn. So beyond its patience a
gang that only they keep out waits less than five times as long as that (or T, if they are shorter): less than four
times for the turns and breaks before. All of it is reckoned from the time of creation, so nothing has to be remembered.

A gang has no turn if it could not start though all jobs had ended: its tenant's replicas, and those that other tenants'
guarantees cover, stay. Who stays is looked at once for each look of the ledger: what is admitted in it changes no turn
but by being admitted in its turn, and a ledger that wakes lines finds the same as one that looks at all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import floor, log2
from typing import Final

from llmos_operator.planning.quota.holdings import Holdings
from llmos_operator.planning.quota.order import Keys, Rank, rank_of
from llmos_operator.planning.quota.queues import Lines
from llmos_operator.planning.quota.values import Gang, GangKind, QuotaRules

LONGEST: Final = 8
"""Doublings of a turn, at most: 256 times the first, 43 hours by default."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The first gang of a tenant and class that waited beyond patience."""

    gang: Gang
    place: tuple[Rank, str]
    ends_s: float
    """When its turn, or its break, ends."""
    is_on: bool


@dataclass(slots=True)
class Turns:
    """Finds whose turn it is. `begin` has to be called before each look."""

    holdings: Holdings
    lines: Lines
    keys: Keys
    rules: QuotaRules
    _now_s: float = 0.0
    _staying: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Accelerators by tenant and class that replicas hold."""
    _known: dict[str, Mapping[str, Turn]] = field(default_factory=dict)
    """By tenant and class, for this look."""

    def begin(self, now_s: float) -> None:
        """Look anew at who waits and who stays."""
        self._now_s = now_s
        self._staying = dict(self.holdings.staying)
        self._known = {}

    def turn_before(self, gang: Gang, class_name: str) -> Turn | None:
        """The turn of another gang of the tenant that a waiting gang has to let go first."""
        limit = self.holdings.then.quota(gang.tenant, class_name).limit
        if limit is None or gang.kind is GangKind.REPLICA:
            return None
        turn = self.find(gang.tenant, class_name)
        if turn is None or not turn.is_on or turn.place >= _place(gang, self.rules):
            return None
        books = self.holdings.now, self.holdings.then
        used = max(book.used(gang.tenant, class_name) for book in books)
        return turn if used + turn.gang.accelerators + gang.accelerators > limit else None

    def find(self, tenant: str, class_name: str) -> Turn | None:
        """The gang of a tenant and class that has turns and breaks."""
        if tenant not in self._known:
            self._known[tenant] = self._find_all(tenant)
        return self._known[tenant].get(class_name)

    def leave(self, gang: Gang) -> list[str]:
        """Note that a gang waits no more; return the classes in which it had turns and breaks.

        Nothing else that leaves a line changes whose turn it is: whoever comes up in its place is younger.
        """
        known = self._known.get(gang.tenant, {})
        classes = [name for name in gang.classes if (turn := known.get(name)) and turn.gang.id == gang.id]
        if classes:
            del self._known[gang.tenant]
        return classes

    def _find_all(self, tenant: str) -> Mapping[str, Turn]:
        turns: dict[str, Turn] = {}
        for head in self._heads(tenant):
            if self._now_s < head.created_s + self.rules.patience_s:
                continue
            place = _place(head, self.rules)
            is_on, until_s = compute_turn(self._now_s - head.created_s, self.rules)
            turn = Turn(head, place, head.created_s + until_s, is_on)
            for name in head.classes:
                if (name not in turns or place < turns[name].place) and self._may_start(head, name):
                    turns[name] = turn
        return turns

    def _heads(self, tenant: str) -> Iterator[Gang]:
        for lines in self.lines.of_tenant(tenant).values():
            yield from filter(None, (line.head() for line in lines.values()))

    def _may_start(self, gang: Gang, class_name: str) -> bool:
        """Whether the gang could start if all jobs had ended."""
        book, tenant = self.holdings.then, gang.tenant
        wanted = self._staying.get((tenant, class_name), 0) + gang.accelerators
        quota = book.quota(tenant, class_name)
        if quota.limit is None or wanted > book.reach(tenant, class_name):
            return False
        if wanted > quota.guaranteed and wanted > book.reach(tenant, class_name) - self._keep(tenant, class_name):
            return False
        return self.keys.is_possible(gang, class_name)

    def _keep(self, tenant: str, class_name: str) -> int:
        """Of what the tenant's cohort lends, what replicas of others hold by guarantee."""
        book = self.holdings.then
        cohort = book.tenant(tenant).cohort_key
        kept = 0
        for other in book.tenants():
            if other.name != tenant and other.cohort_key == cohort:
                quota = book.quota(other.name, class_name)
                covered = min(self._staying.get((other.name, class_name), 0), quota.guaranteed)
                kept += max(0, covered - (quota.guaranteed - quota.lendable))
        return kept


def compute_turn(waited_s: float, rules: QuotaRules) -> tuple[bool, float]:
    """Return whether it is the turn of a gang that waited so long, and the age at which that changes.

    Args:
        waited_s: seconds since it was created.
        rules: how long its patience is, and the first turn.
    """
    passed = (waited_s - rules.patience_s) / rules.reservation_s
    if passed < 0:
        return False, rules.patience_s
    doublings = min(floor(log2(passed / 2 + 1)), LONGEST)
    length = 2.0**doublings
    begin = 2 * (length - 1)
    begin += 2 * length * floor((passed - begin) / (2 * length))
    is_turn = passed < begin + length
    end = begin + length if is_turn else begin + 2 * length
    return is_turn, rules.patience_s + end * rules.reservation_s


def _place(gang: Gang, rules: QuotaRules) -> tuple[Rank, str]:
    return rank_of(gang, rules.aging_s), gang.id
