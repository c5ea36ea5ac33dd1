"""Turns: what a tenant's own limit keeps out for long comes before what its tenant asks for later.

Room that is kept for a large gang (`ledger`, patience) would help nothing where the limit of its own tenant keeps it
out: what others give back is not for it. There its tenant's small gangs would follow each other for ever, each of them
within the limit, and the large one never. So the first gang of a tenant and class that waited beyond all patience and
does not fit the limit gets a turn: nothing of its tenant that comes after it in the queue starts in that class.

How long the others run is not known, and what is kept back lies idle. So turns alternate with breaks of the same
length, in which everybody may start, and each is twice as long as the one before. With T the first length and x the
time since patience ended, in units of T:

    k = floor(log2(x / 2 + 1))      begins at 2 (2^k - 1), lasts 2^k, and then as long a break

As soon as 2^k T is more than the longest of the others runs, all of them end within the turn. So beyond its patience a
gang waits less than five times as long as that (or T, if they are shorter): less than four times for the turns and
breaks before. A tenant keeps back for no longer than it lets start. All of it is reckoned from the time of creation, so
nothing has to be remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import floor, inf, log2

from llmos_operator.planning.quota.books import Verdict
from llmos_operator.planning.quota.holdings import Holdings
from llmos_operator.planning.quota.order import Rank, rank_of
from llmos_operator.planning.quota.queues import Lines
from llmos_operator.planning.quota.values import Gang, QuotaRules


@dataclass(frozen=True, slots=True)
class Turn:
    """A gang before which nothing of its tenant starts that comes after it."""

    gang: Gang
    place: tuple[Rank, str]
    ends_s: float


@dataclass(slots=True)
class Turns:
    """Finds whose turn it is. What is found holds until the tenant's holdings or lines change, or a moment passes."""

    holdings: Holdings
    lines: Lines
    rules: QuotaRules
    _known: dict[str, tuple[int, int, float, Mapping[str, Turn]]] = field(default_factory=dict)
    """By tenant: the changes of its holdings and lines and the moment up to which they are right, turns by class."""

    def turn_before(self, gang: Gang, class_name: str, now_s: float) -> Turn | None:
        """The turn of another gang of the tenant that a waiting gang has to let go first."""
        if self.holdings.then.quota(gang.tenant, class_name).limit is None:
            return None
        turn = self._turns_of(gang.tenant, now_s).get(class_name)
        return turn if turn is not None and turn.place < _place(gang, self.rules) else None

    def _turns_of(self, tenant: str, now_s: float) -> Mapping[str, Turn]:
        held, waiting = self.holdings.changes(tenant), self.lines.changes(tenant)
        known = self._known.get(tenant)
        if known is None or known[:2] != (held, waiting) or known[2] <= now_s:
            turns: dict[str, Turn] = {}
            next_s = inf
            for head in self._heads(tenant):
                is_turn, until_s = compute_turn(now_s - head.created_s, self.rules)
                next_s = min(next_s, head.created_s + until_s)
                if is_turn:
                    turn = Turn(head, _place(head, self.rules), head.created_s + until_s)
                    for name in filter(lambda name: self._is_kept_out(turn.gang, name), head.classes):
                        turns[name] = min(turn, turns.get(name, turn), key=lambda each: each.place)
            known = self._known[tenant] = (held, waiting, next_s, turns)
        return known[3]

    def _heads(self, tenant: str) -> Iterator[Gang]:
        for lines in self.lines.of_tenant(tenant).values():
            yield from filter(None, (line.head() for line in lines.values()))

    def _is_kept_out(self, gang: Gang, class_name: str) -> bool:
        """Whether it is the limit that keeps the gang out, and would not if what ends by itself had ended."""
        if self.holdings.fits_quota(gang, class_name) is not Verdict.LIMIT:
            return False
        held = self.holdings.held_by_importance(gang.tenant, class_name)
        stays = sum(accelerators for (ends, _), accelerators in held.items() if not ends)
        if stays + gang.accelerators > self.holdings.then.reach(gang.tenant, class_name):
            return False
        room = self.holdings.rooms.get(class_name)
        return room is not None and room.could_hold(gang)


def compute_turn(waited_s: float, rules: QuotaRules) -> tuple[bool, float]:
    """Return whether a gang that its tenant's limit keeps out has its turn, and the age at which that changes.

    Args:
        waited_s: seconds since it was created.
    """
    passed = (waited_s - rules.patience_s) / rules.reservation_s
    if passed < 0:
        return False, rules.patience_s
    doublings = floor(log2(passed / 2 + 1))
    length = 2.0**doublings
    begin = 2 * (length - 1)
    is_turn = passed < begin + length
    end = begin + length if is_turn else begin + 2 * length
    return is_turn, rules.patience_s + end * rules.reservation_s


def _place(gang: Gang, rules: QuotaRules) -> tuple[Rank, str]:
    return rank_of(gang, rules.aging_s), gang.id
