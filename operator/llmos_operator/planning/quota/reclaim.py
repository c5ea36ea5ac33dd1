"""Finds whom to ask to go so that one waiting gang gets its place: all of it, or nothing.

Three rules say who may be asked by whom:

- **guarantee**: for a gang that its tenant's guarantee covers, whatever another tenant borrowed;
- **fairness**: for a gang that would borrow, what another tenant borrowed, if afterwards the taker's share is not above
  the loser's: share(taker with it) <= share(loser without it). Both shares are then below the loser's share before, so
  the greater of the two falls with every such exchange; going back would raise it, and is therefore refused;
- **rank**: a gang of the same tenant that is less important.

The search is tried on the real accounts and taken back: gangs are taken in the order of what their going costs until
the waiting one fits quota and nodes; then each is given back, dearest first, unless it no longer fits without; then
each that is left is held against its rule once more, for giving some back may have raised the taker's share again (the
cause of Kueue's issue 14543). If one does not stand, the whole plan is dropped. Nobody is asked to go unless the gang
is then placed.

Two gangs that changed places do not change back within `swap_window_s`; for fairness and rank the same holds for any
two gangs of the same two owners, whose gangs may have new names. A guarantee is not held up by what another gang of the
owner did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from llmos_operator.planning.quota.books import Verdict
from llmos_operator.planning.quota.holdings import Holdings
from llmos_operator.planning.quota.turns import Turns
from llmos_operator.planning.quota.values import Gang, GangState, Placement, QuotaRules, Stop, Swap
from llmos_operator.planning.quota.victims import compute_covered, compute_victim_key, is_less_important


@dataclass(frozen=True, slots=True)
class Takeover:
    """A place for a waiting gang, and who has to go for it."""

    placement: Placement
    victims: tuple[Gang, ...]
    """As they are now; a waiting one among them loses its reservation."""


class Swaps:
    """Who was asked to go for whom, within the window."""

    def __init__(self, swaps: Iterable[Swap], window_s: float) -> None:
        self._window_s = window_s
        self._gangs: dict[tuple[str, str], float] = {}
        self._owners: dict[tuple[str, str], float] = {}
        for swap in swaps:
            self.add(swap)

    def add(self, swap: Swap) -> None:
        """Remember a swap; of several between the same the last one counts, in whatever order they come."""
        gangs, owners = (swap.winner_id, swap.loser_id), (swap.winner_owner, swap.loser_owner)
        self._gangs[gangs] = max(swap.at_s, self._gangs.get(gangs, swap.at_s))
        self._owners[owners] = max(swap.at_s, self._owners.get(owners, swap.at_s))

    def forget_old(self, now_s: float) -> None:
        """Drop what is out of the window."""
        for known in (self._gangs, self._owners):
            for pair in [pair for pair, at_s in known.items() if at_s + self._window_s <= now_s]:
                del known[pair]

    def would_reverse(self, winner: Gang, loser: Gang, *, owners: bool) -> bool:
        """Whether the loser, or if `owners` any gang of its owner, took the winner's place a short time ago."""
        return (loser.id, winner.id) in self._gangs or (owners and (loser.owner, winner.owner) in self._owners)


class Search:
    """Looks for takeovers at one moment. What it learns on the way tells when to look again."""

    def __init__(self, holdings: Holdings, rules: QuotaRules, swaps: Swaps, turns: Turns, now_s: float) -> None:
        self._holdings = holdings
        self._rules = rules
        self._swaps = swaps
        self._turns = turns
        self._now_s = now_s
        self._borrowed: dict[str, list[Gang]] = {}
        self.next_s: float | None = None
        """When the first gang that was spared for its minimum run time may be asked."""

    def forget(self, class_name: str) -> None:
        """Drop what is known about a class in which somebody was asked to go."""
        self._borrowed.pop(class_name, None)

    def find(self, gang: Gang) -> Takeover | None:
        """Return the takeover that costs least, None if there is none."""
        then = self._holdings.then
        for class_name in sorted(
            gang.classes, key=lambda name: not then.is_within_guarantee(gang.tenant, name, gang.accelerators)
        ):
            found = self._find_in_class(gang, class_name)
            if found is not None:
                return found
        return None

    def _find_in_class(self, gang: Gang, class_name: str) -> Takeover | None:
        then = self._holdings.then
        room = self._holdings.rooms.get(class_name)
        verdict = then.judge(gang.tenant, class_name, gang.accelerators)
        if verdict is Verdict.NO_ENTRY or room is None:
            return None
        if self._turns.turn_before(gang, class_name) is not None:
            return None
        placement = self._fit(gang, class_name)
        if placement is not None:
            # Enough goes already. If it goes for this gang, an operator was killed before it kept the room.
            return Takeover(placement, ()) if self._holdings.leaving_for(gang.id) else None
        is_guaranteed = then.is_within_guarantee(gang.tenant, class_name, gang.accelerators)
        for candidates in self._candidates(gang, class_name, verdict, is_guaranteed=is_guaranteed):
            if candidates and room.could_hold(gang):
                found = self._try(gang, class_name, candidates)
                if found is not None:
                    return found
        return None

    def _candidates(
        self, gang: Gang, class_name: str, verdict: Verdict, *, is_guaranteed: bool
    ) -> Iterator[list[Gang]]:
        """Yield whom to ask, cheapest first: others, the tenant's own, and both."""
        if is_guaranteed:  # all that the tenant holds is covered
            yield self._reservations_of_borrowers(gang, class_name) + self._others(gang, class_name, float("-inf"))
            return
        own, others = self._own(gang, class_name), []
        # At its own limit a tenant can only make room in itself.
        if verdict is not Verdict.LIMIT:
            share = self._holdings.then.share_with(gang.tenant, class_name, gang.accelerators)
            others = self._others(gang, class_name, share)
            yield others
        yield own
        if own and others:
            yield own + others

    def _others(self, gang: Gang, class_name: str, share: float) -> list[Gang]:
        """Borrowed gangs of other tenants that keep at least this share when one of them goes, cheapest first."""
        then = self._holdings.then
        is_fair = share >= 0
        may_go: dict[tuple[str, int], bool] = {}
        found: list[Gang] = []
        for other in self._borrowed_in_order(class_name):
            key = other.tenant, other.accelerators
            if key not in may_go:
                is_other = other.tenant != gang.tenant and then.share(other.tenant) > share
                may_go[key] = is_other and then.share_with(other.tenant, class_name, -other.accelerators) >= share
            if may_go[key] and not self._swaps.would_reverse(gang, other, owners=is_fair):
                found.append(other)
        return found

    def _reservations_of_borrowers(self, gang: Gang, class_name: str) -> list[Gang]:
        then = self._holdings.then
        return [
            waiting
            for waiting in self._holdings.reservations.values()
            if waiting.reservation is not None
            and waiting.reservation.placement.class_name == class_name
            # What others were only just asked for is not taken back in the same breath.
            and not (waiting.reservation.of and waiting.reservation.since_s >= self._now_s)
            and waiting.tenant != gang.tenant
            and then.borrowed(waiting.tenant, class_name) > 0
        ]

    def _own(self, gang: Gang, class_name: str) -> list[Gang]:
        """Gangs of the same tenant that are less important, cheapest first."""
        held = self._holdings.held_by(gang.tenant, class_name)
        lower = [other for other in held if is_less_important(other, gang, self._rules.aging_s)]
        lower = [other for other in lower if not self._swaps.would_reverse(gang, other, owners=True)]
        return self._in_order(self._without_protected(lower))

    def _borrowed_in_order(self, class_name: str) -> list[Gang]:
        """Gangs that no guarantee covers and that ran long enough, cheapest first."""
        known = self._borrowed.get(class_name)
        if known is None:
            then, found = self._holdings.then, []
            for tenant in then.borrowers(class_name):
                held = list(self._holdings.held_by(tenant, class_name))
                covered = compute_covered(held, then.quota(tenant, class_name).guaranteed)
                found += [gang for gang in held if gang.id not in covered]
            known = self._borrowed[class_name] = self._in_order(self._without_protected(found))
        return known

    def _without_protected(self, gangs: Iterable[Gang]) -> Iterator[Gang]:
        for gang in gangs:
            protected_until_s = gang.admitted_s + max(gang.min_runtime_s, self._rules.settle_s)
            if protected_until_s <= self._now_s:
                yield gang
            else:
                self.next_s = protected_until_s if self.next_s is None else min(self.next_s, protected_until_s)

    def _in_order(self, gangs: Iterable[Gang]) -> list[Gang]:
        then, now_s, fresh_s = self._holdings.then, self._now_s, self._rules.fresh_save_s
        return sorted(gangs, key=lambda gang: compute_victim_key(gang, then.share(gang.tenant), now_s, fresh_s))

    def _try(self, gang: Gang, class_name: str, candidates: list[Gang]) -> Takeover | None:
        taken: list[Gang] = []
        try:
            placement = self._take_until_it_fits(gang, class_name, candidates, taken)
            if placement is None:
                return None
            placement = self._give_back(gang, class_name, taken, placement)
            if not all(self._is_legal(gang, class_name, victim) for victim in taken):
                return None
            return Takeover(placement, tuple(taken))
        finally:
            for victim in taken:
                self._holdings.put_back(victim)

    def _take_until_it_fits(
        self, gang: Gang, class_name: str, candidates: list[Gang], taken: list[Gang]
    ) -> Placement | None:
        """Take one after the other. As long as it is the quota that lacks, whose going gives none is left aside."""
        then = self._holdings.then
        if not self._may_suffice(gang, class_name, candidates):
            return None
        aside: list[Gang] = []
        is_allowed = then.judge(gang.tenant, class_name, gang.accelerators) is Verdict.YES
        for queue in (candidates, aside):
            for candidate in queue:
                if not is_allowed and not then.may_relieve(gang.tenant, candidate.tenant, class_name):
                    aside.append(candidate)
                elif self._is_legal(gang, class_name, candidate, more=candidate.accelerators):
                    self._holdings.lift(candidate)
                    taken.append(candidate)
                    is_allowed = is_allowed or then.judge(gang.tenant, class_name, gang.accelerators) is Verdict.YES
                    placement = self._holdings.find_place(gang, class_name, then=True) if is_allowed else None
                    if placement is not None:
                        return placement
            if not is_allowed:
                return None
        return None

    def _may_suffice(self, gang: Gang, class_name: str, candidates: list[Gang]) -> bool:
        """Whether all that they hold, with what is free anyway, is enough; most searches end here."""
        free = self._holdings.rooms[class_name].free_then()
        return free + sum(candidate.accelerators for candidate in candidates) >= gang.accelerators

    def _give_back(self, gang: Gang, class_name: str, taken: list[Gang], placement: Placement) -> Placement:
        """Give back whoever is not needed, dearest first, and return the place that is left for the gang."""
        for victim in reversed(taken[:-1]):
            self._holdings.put_back(victim)
            found = self._fit(gang, class_name)
            if found is None:
                self._holdings.lift(victim)
            else:
                taken.remove(victim)
                placement = found
        # The place of the last fit may be that of somebody who has to stay after all.
        return self._fit(gang, class_name) or placement

    def _fit(self, gang: Gang, class_name: str) -> Placement | None:
        if self._holdings.fits_quota(gang, class_name, then=True) is not Verdict.YES:
            return None
        return self._holdings.find_place(gang, class_name, then=True)

    def _is_legal(self, gang: Gang, class_name: str, victim: Gang, *, more: int = 0) -> bool:
        """Whether the rule allows it, all who are taken by now and `more` of the victim's tenant being gone."""
        then = self._holdings.then
        if victim.tenant == gang.tenant:
            return is_less_important(victim, gang, self._rules.aging_s)
        if then.is_within_guarantee(gang.tenant, class_name, gang.accelerators):
            return True
        share = then.share_with(gang.tenant, class_name, gang.accelerators)
        return share <= then.share_with(victim.tenant, class_name, -more) and share != float("inf")


def build_leaving(gang: Gang, for_id: str, now_s: float) -> Gang:
    """Return the gang as it is after it was asked to go: one that does not run yet has nothing to drain or save."""
    if gang.state is GangState.WAITING:
        return replace(gang, reservation=None)
    if gang.state is GangState.RUNNING:
        return replace(gang, state=GangState.STOPPING, since_s=now_s, stop=Stop(for_id, now_s, now_s + gang.grace_s))
    return replace(gang, state=GangState.ENDING, since_s=now_s, stop=Stop(for_id, now_s, now_s, is_answered=True))
