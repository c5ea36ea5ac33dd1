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

A gang has no turn if it could not start though all jobs had ended: its tenant's replicas stay where they are, and
those of other tenants up to minReplicas. Nor has one that fits the limit and lacks something else, which others have to
give back: a turn would do nothing for it, and the next one may need it.

Whose turn it is is found out at one moment of each look. What is admitted in it changes that only by being the one
whose turn it was, so a ledger that wakes lines finds the same as one that looks at all of them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, log2
from typing import Final

from llmos_operator.planning.quota.books import Verdict
from llmos_operator.planning.quota.holdings import Holdings, StayingOn
from llmos_operator.planning.quota.order import Keys, Rank, rank_of
from llmos_operator.planning.quota.queues import Lines
from llmos_operator.planning.quota.values import Gang, GangKind, QuotaRules

LONGEST: Final = 12
"""Doublings of a turn, at most: 4096 times the first, four weeks by default."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A gang that has turns and breaks."""

    gang: Gang
    place: tuple[Rank, str]
    ends_s: float
    """When its turn, or its break, ends."""
    is_on: bool


class Turns:
    """Finds whose turn it is. `begin` has to be called in each look, before anything is admitted."""

    def __init__(self, holdings: Holdings, lines: Lines, keys: Keys, rules: QuotaRules) -> None:
        self._holdings, self._lines, self._keys, self._rules = holdings, lines, keys, rules
        self._now_s = 0.0
        self._staying = Counter[tuple[str, str]]()
        """Accelerators by tenant and class that replicas hold."""
        self._staying_on: Mapping[StayingOn, int] = {}
        self._patient: dict[str, list[tuple[tuple[Rank, str], Gang]]] = {}
        """First of their lines that waited beyond patience, by tenant in the order of their places."""
        self._turns: dict[tuple[str, str], Turn | None] = {}
        """By tenant and class."""
        self._may_start: dict[tuple[object, ...], bool] = {}

    def begin(self, now_s: float) -> None:
        """Look anew at who waits and who stays."""
        self._now_s = now_s
        self._staying_on = dict(self._holdings.staying)
        self._staying = Counter[tuple[str, str]]()
        for (tenant, class_name, _, _), accelerators in self._staying_on.items():
            self._staying[tenant, class_name] += accelerators
        self._turns, self._may_start, self._patient = {}, {}, {}
        for line in self._lines.all():
            head = line.head()
            if head is not None and self._is_patient(head) and self._has_limit(head):
                self._patient.setdefault(head.tenant, []).append((self._place(head), head))
        for tenant, waiting in self._patient.items():
            waiting.sort(key=lambda each: each[0])
            for class_name in {name for _, gang in waiting for name in gang.classes}:
                self._turns[tenant, class_name] = self._find(tenant, class_name)

    def turn_before(self, gang: Gang, class_name: str) -> Turn | None:
        """The turn of another gang of the tenant that a waiting gang has to let go first."""
        turn = self._turns.get((gang.tenant, class_name))
        if turn is None or not turn.is_on or gang.kind is GangKind.REPLICA or turn.place >= self._place(gang):
            return None
        limit = self._holdings.then.quota(gang.tenant, class_name).limit
        books = self._holdings.now, self._holdings.then
        used = max(book.used(gang.tenant, class_name) for book in books)
        needed = used + turn.gang.accelerators + gang.accelerators
        return turn if limit is not None and needed > limit else None

    def find(self, tenant: str, class_name: str) -> Turn | None:
        """The gang of a tenant and class that has turns and breaks."""
        return self._turns.get((tenant, class_name))

    def left(self, gang: Gang) -> list[str]:
        """Note that a gang left its line; return the classes in which it had turns and breaks.

        Nothing else that leaves changes whose turn it is: whoever comes up in its place is younger.
        """
        waiting = self._patient.get(gang.tenant)
        if waiting is None:
            return []
        at = bisect_left(waiting, self._place(gang), key=lambda each: each[0])
        if at == len(waiting) or waiting[at][1].id != gang.id:
            return []
        del waiting[at]
        head = self._lines.head_of(gang)
        if head is not None and self._is_patient(head):
            insort(waiting, (self._place(head), head), key=lambda each: each[0])
        classes = []
        for name in gang.classes:
            turn = self._turns.get((gang.tenant, name))
            if turn is not None and turn.gang.id == gang.id:
                classes.append(name)
                self._turns[gang.tenant, name] = self._find(gang.tenant, name)
        return classes

    def _find(self, tenant: str, class_name: str) -> Turn | None:
        for place, gang in self._patient.get(tenant, ()):
            if class_name in gang.classes and self._needs_it(gang, class_name):
                is_on, until_s = compute_turn(self._now_s - gang.created_s, self._rules)
                return Turn(gang, place, gang.created_s + until_s, is_on)
        return None

    def _is_patient(self, gang: Gang) -> bool:
        return self._now_s >= gang.created_s + self._rules.patience_s

    def _has_limit(self, gang: Gang) -> bool:
        book = self._holdings.then
        return any(book.quota(gang.tenant, name).limit is not None for name in gang.classes)

    def _needs_it(self, gang: Gang, class_name: str) -> bool:
        """Whether it is the limit that keeps the gang out, or only what is served before it, and it could start."""
        if self._holdings.then.quota(gang.tenant, class_name).limit is None:
            return False
        verdict = self._holdings.fits_quota(gang, class_name)
        if verdict is Verdict.YES:
            return self._holdings.find_place(gang, class_name) is not None
        return verdict is Verdict.LIMIT and self._could_start(gang, class_name)

    def _could_start(self, gang: Gang, class_name: str) -> bool:
        """Whether the gang could start if all jobs had ended."""
        key = gang.tenant, class_name, gang.pods, gang.accelerators_per_pod, gang.node_selector
        if key not in self._may_start:
            self._may_start[key] = (
                self._fits_beside_replicas(gang, class_name)
                and self._keys.is_possible(gang, class_name)
                and self._has_room_beside_replicas(gang, class_name)
            )
        return self._may_start[key]

    def _fits_beside_replicas(self, gang: Gang, class_name: str) -> bool:
        book, tenant = self._holdings.then, gang.tenant
        wanted = self._staying[tenant, class_name] + gang.accelerators
        reach, quota = book.reach(tenant, class_name), book.quota(tenant, class_name)
        if wanted <= quota.guaranteed:
            return wanted <= reach
        return wanted <= reach - self._kept_by_others(tenant, class_name)

    def _kept_by_others(self, tenant: str, class_name: str) -> int:
        """Of what the tenant's cohort lends, what replicas of others hold by guarantee."""
        book = self._holdings.then
        cohort = book.tenant(tenant).cohort_key
        kept = 0
        for other in book.tenants():
            if other.name != tenant and other.cohort_key == cohort:
                quota = book.quota(other.name, class_name)
                covered = min(self._staying[other.name, class_name], quota.guaranteed)
                kept += max(0, covered - (quota.guaranteed - quota.lendable))
        return kept

    def _has_room_beside_replicas(self, gang: Gang, class_name: str) -> bool:
        held: dict[str, int] = {}
        for (tenant, name, node, is_minimum), accelerators in self._staying_on.items():
            if name == class_name and (tenant == gang.tenant or is_minimum):
                held[node] = held.get(node, 0) + accelerators
        return self._holdings.rooms[class_name].slots_beside(gang, held) >= gang.pods

    def _place(self, gang: Gang) -> tuple[Rank, str]:
        return rank_of(gang, self._rules.aging_s), gang.id


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
