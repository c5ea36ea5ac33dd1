"""The ledger: which gangs may hold accelerators. It takes what is observed, and says what to do.

One moment's decisions, in this order:

1. gangs that were not bound in time are withdrawn whole; gangs that answered a request to stop, or ran out of time, are
   ended;
2. gangs for which room is kept get it as soon as it is free, or go elsewhere if that is sooner;
3. waiting gangs are admitted as far as quota and nodes allow, in the order of `order`;
4. for gangs that found no room, others are asked to go if a rule of `reclaim` allows it, and the room is kept for them;
5. for the first gang of each class that waited beyond all patience, room is kept as it comes free, so that small gangs
   do not starve a large one; where its own tenant's limit keeps it out, that tenant's later gangs wait (`turns`).

The ledger follows observations one by one and looks only at what they changed, so that a decision costs the same with a
hundred gangs waiting as with fifteen thousand. It believes its own decisions until it observes otherwise. Nothing of
its memory is needed to go on: a ledger built from a snapshot decides the same (a test holds the two side by side).
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heapify, heappop, heappush

from llmos_operator.planning.quota.books import OWN_MATTERS, Verdict
from llmos_operator.planning.quota.holdings import STANDING, Holdings, placement_of
from llmos_operator.planning.quota.order import Keys, Order, OrderKey
from llmos_operator.planning.quota.plan import (
    Admit,
    Ask,
    Decisions,
    End,
    How,
    Overcommitted,
    QuotaPlan,
    QuotaReport,
    Reserve,
    Unreserve,
    Withdraw,
)
from llmos_operator.planning.quota.queues import Line, Lines
from llmos_operator.planning.quota.reclaim import Search, Swaps, Takeover, build_leaving
from llmos_operator.planning.quota.report import build_report
from llmos_operator.planning.quota.turns import Turns, compute_turn
from llmos_operator.planning.quota.values import (
    Gang,
    GangKind,
    GangState,
    Placement,
    QuotaRules,
    Reservation,
    Snapshot,
    Stop,
    Swap,
)


def plan_quota(snapshot: Snapshot) -> QuotaPlan:
    """Return the decisions for one moment."""
    return Ledger(snapshot).plan(snapshot.now_s)


class Ledger:
    """Follows tenants, nodes and gangs, and plans. When tenants, nodes or costs change, build a new one."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._rules: QuotaRules = snapshot.rules
        self._now_s = snapshot.now_s
        self._lines = Lines()
        self._holdings = Holdings(snapshot.tenants, snapshot.nodes, snapshot.costs, self._gave_back)
        self._keys = Keys(self._holdings, self._lines, snapshot.rules.aging_s)
        self._turns = Turns(self._holdings, self._lines, self._keys, snapshot.rules)
        self._let_go_first: dict[tuple[str, str], Gang] = {}
        """Gangs whose turn lines sleep for, by tenant and class."""
        self._swaps = Swaps(snapshot.swaps, snapshot.rules.swap_window_s)
        self._timers: list[tuple[float, str]] = []
        self._overcommitted = self._find_overcommitted()
        for gang in snapshot.gangs:
            self.observe(gang)

    def follow(self, snapshot: Snapshot) -> None:
        """Take everything as a snapshot shows it: the ledger decides then as one that is built from it.

        Tenants, nodes, costs and rules have to be those that this one was built from, and time does not go back. What
        it believes of its own decisions is held against what is observed, so one that was not carried out is forgotten.
        """
        self._now_s = snapshot.now_s
        self._swaps = Swaps(snapshot.swaps, self._rules.swap_window_s)
        known = self._holdings.gangs
        for gang_id in known.keys() - {gang.id for gang in snapshot.gangs}:
            self.forget(gang_id)
        for gang in snapshot.gangs:
            believed = known.get(gang.id)
            if believed is not gang and believed != gang:
                self.observe(gang)

    def observe(self, gang: Gang) -> None:
        """Take a gang as it is now."""
        known = self._holdings.gangs.get(gang.id)
        if known is not None and known.state is GangState.WAITING:
            self._leave_line(known)
        self._put(gang)

    def forget(self, gang_id: str) -> None:
        """The gang is gone, with all its pods."""
        known = self._holdings.remove(gang_id)
        if known is not None and known.state is GangState.WAITING:
            self._leave_line(known)

    def plan(self, now_s: float, *, reclaim: bool = True) -> QuotaPlan:
        """Return what to do now.

        Args:
            now_s: the current time; it never goes back.
            reclaim: also look whom to ask to go. It looks at all lines, so callers with many events do it at a pace.
        """
        self._now_s = now_s
        self._swaps.forget_old(now_s)
        self._lines.let_join(now_s)
        decisions = Decisions()
        self._act_on_deadlines(decisions)
        self._serve_reservations(decisions)
        self._turns.begin(now_s)
        self._wake_whose_turn_ended()
        self._admit(decisions)
        search = Search(self._holdings, self._rules, self._swaps, self._turns, now_s)
        if reclaim:
            self._reclaim(search, decisions)
            self._keep_room_for_the_patient(decisions)
        # Room that was taken from a reservation is free at once: look again.
        next_s = now_s if decisions.unreserve else self._next_s(search)
        return decisions.as_plan(self._overcommitted, next_s)

    def report(self) -> QuotaReport:
        """Return how things stand: usage, shares, and why each gang waits. It looks at every gang."""
        self._turns.begin(self._now_s)
        return build_report(self._holdings, self._lines, self._keys, self._turns, self._rules, self._now_s)

    def gang(self, gang_id: str) -> Gang | None:
        """The gang as the ledger believes it to be."""
        return self._holdings.gangs.get(gang_id)

    def _put(self, gang: Gang) -> None:
        self._holdings.replace(gang)
        if gang.state is GangState.WAITING:
            if gang.reservation is None:
                self._lines.push(gang, self._now_s)
            return
        due_s = self._due_s(gang)
        if due_s is not None:
            heappush(self._timers, (due_s, gang.id))
            if len(self._timers) > 2 * len(self._holdings.gangs) + 64:  # most are of gangs that went on
                self._timers = [(s, g.id) for g in self._holdings.gangs.values() if (s := self._due_s(g)) is not None]
                heapify(self._timers)

    def _gave_back(self, gang: Gang) -> None:
        """The gang holds less than it did: wake whoever may wait for that."""
        placement = placement_of(gang)
        if placement is None:
            return
        cohort = self._holdings.then.tenant(gang.tenant).cohort_key
        for event in ("", f"tenant {gang.tenant}", f"cohort {cohort}"):
            self._lines.wake((event, placement.class_name))

    def _leave_line(self, gang: Gang) -> list[Line]:
        """Let a gang leave its line; return those that slept for its turn to end."""
        self._lines.remove(gang)
        classes = self._turns.left(gang)
        return [line for name in classes for line in self._lines.wake(_turn_event(gang.tenant, name))]

    def _wake_whose_turn_ended(self) -> None:
        for (tenant, class_name), gang in tuple(self._let_go_first.items()):
            turn = self._turns.find(tenant, class_name)
            if turn is None or not turn.is_on or turn.gang != gang:
                del self._let_go_first[tenant, class_name]
                self._lines.wake(_turn_event(tenant, class_name))

    def _due_s(self, gang: Gang) -> float | None:
        """When something is done about a gang that does not go on by itself."""
        if gang.state is GangState.STARTING:
            return gang.since_s + self._rules.bind_deadline_s
        if gang.state is GangState.STOPPING and gang.stop is not None:
            return self._now_s if gang.stop.is_answered else gang.stop.deadline_s
        return None

    # Deadlines

    def _act_on_deadlines(self, decisions: Decisions) -> None:
        due = []
        while self._timers and self._timers[0][0] <= self._now_s:
            _, gang_id = heappop(self._timers)
            gang = self._holdings.gangs.get(gang_id)
            due_s = self._due_s(gang) if gang is not None else None
            if gang is not None and due_s is not None and due_s <= self._now_s:
                due.append(gang)
        for gang in dict.fromkeys(sorted(due, key=lambda gang: gang.id)):
            if gang.state is GangState.STARTING:
                self._withdraw(gang, decisions)
            elif gang.stop is not None:
                self._end(gang, gang.stop, decisions)

    def _next_deadline_s(self) -> float | None:
        while self._timers:
            due_s, gang_id = self._timers[0]
            gang = self._holdings.gangs.get(gang_id)
            if gang is not None and self._due_s(gang) == due_s:
                return due_s
            heappop(self._timers)
        return None

    def _withdraw(self, gang: Gang, decisions: Decisions) -> None:
        attempts = gang.attempts + 1
        retry_at_s = self._now_s + compute_backoff_s(attempts, self._rules)
        why = f"Not all of its {gang.pods} pods had a node {self._now_s - gang.since_s:.0f} s after they were released."
        decisions.withdraw.append(Withdraw(gang.id, attempts, retry_at_s, why))
        self._put(replace(gang, state=GangState.ENDING, since_s=self._now_s, attempts=attempts, retry_at_s=retry_at_s))

    def _end(self, gang: Gang, stop: Stop, decisions: Decisions) -> None:
        why = "It answered." if stop.is_answered else f"It did not answer in {gang.grace_s:.0f} s."
        decisions.end.append(End(gang.id, stop.for_id, why))
        self._put(replace(gang, state=GangState.ENDING, since_s=self._now_s))

    # Admission

    def _serve_reservations(self, decisions: Decisions) -> None:
        """Admit whoever has room kept; let the room go that never comes free.

        Each is judged as if only those before it had reservations: those for whom somebody went, then those who wait.
        """
        reserved = list(self._holdings.reservations.values())
        for gang in reserved:
            self._holdings.replace(replace(gang, reservation=None), on_trial=True)
        for gang in sorted(reserved, key=self._reserved_key):
            reservation = gang.reservation
            bare = replace(gang, reservation=None)
            if reservation is None or self._try_to_admit(bare, decisions, room_was_kept=True) is None:
                self._gave_back(gang)  # it may have gone elsewhere
                continue
            if self._is_coming(gang, reservation):
                self._holdings.replace(gang, on_trial=True)
                continue
            self._put(gang)
            self._unreserve(
                gang, "The room that was kept for it did not come free, or its tenant may have it no more.", decisions
            )

    def _reserved_key(self, gang: Gang) -> tuple[bool, OrderKey]:
        return gang.reservation is None or not gang.reservation.of, self._keys.key_of(gang)

    def _is_coming(self, gang: Gang, reservation: Reservation) -> bool:
        """Whether the kept room will be the gang's when all have gone who have to, or may come free by itself."""
        class_name = reservation.placement.class_name
        room = self._holdings.rooms.get(class_name)
        asked = (self._holdings.gangs.get(name) for name in reservation.of)
        # An operator that was killed may have kept the room without having asked for it.
        if room is None or any(other is not None and other.state in STANDING for other in asked):
            return False
        if not self._may_wait_for_room(gang, class_name) or not room.has(reservation.placement.nodes):
            return False
        # Another gang that comes first may have taken what was made for this one.
        if reservation.of and not room.fits(reservation.placement.nodes, gang.accelerators_per_pod):
            return False
        expires_s = reservation.since_s + self._rules.reservation_s
        return bool(self._holdings.leaving_for(gang.id)) or self._now_s < expires_s

    def _admit(self, decisions: Decisions) -> None:
        """Serve the lines that may have a chance, best first."""
        order = Order(self._lines.awake(), self._keys)
        while (line := order.pop()) is not None:
            head = line.head()
            if head is None:
                continue
            waits_for = self._try_to_admit(head, decisions)
            if waits_for is not None:
                self._lines.let_sleep(line, until=waits_for)
                continue
            woken = self._leave_line(head)
            order.push_served(line)
            for other in woken:
                order.push_woken(other)

    def _try_to_admit(
        self, gang: Gang, decisions: Decisions, *, room_was_kept: bool = False
    ) -> list[tuple[str, str]] | None:
        """Admit a gang in the first class that has room; otherwise return the events that it waits for."""
        waits_for: list[tuple[str, str]] = []
        for class_name in gang.classes:
            verdict = self._holdings.fits_quota(gang, class_name)
            if verdict is Verdict.YES:
                turn = None if room_was_kept else self._turns.turn_before(gang, class_name)
                if turn is not None:
                    self._let_go_first[gang.tenant, class_name] = turn.gang
                    waits_for += [_turn_event(gang.tenant, class_name), (f"tenant {gang.tenant}", class_name)]
                    continue
                placement = self._holdings.find_place(gang, class_name)
                if placement is not None:
                    self._let_in(gang, placement, decisions)
                    return None
                waits_for.append(("", class_name))
            elif verdict is Verdict.LIMIT:
                waits_for.append((f"tenant {gang.tenant}", class_name))
            elif verdict is Verdict.NOTHING_TO_BORROW:
                waits_for.append(self._event_of_quota(gang, class_name))
        return waits_for

    def _event_of_quota(self, gang: Gang, class_name: str) -> tuple[str, str]:
        """What has to happen for more quota: if other cohorts hold of the spare, any of them may give back."""
        cohort = self._holdings.now.tenant(gang.tenant).cohort_key
        others = max(
            self._holdings.now.excess(class_name, without_cohort=cohort),
            self._holdings.then.excess(class_name, without_cohort=cohort),
        )
        return ("", class_name) if others > 0 else (f"cohort {cohort}", class_name)

    def _let_in(self, gang: Gang, placement: Placement, decisions: Decisions) -> None:
        self._put(
            replace(
                gang,
                state=GangState.STARTING,
                since_s=self._now_s,
                admitted_s=self._now_s,
                placement=placement,
                reservation=None,
            )
        )
        is_borrowed = self._holdings.then.borrowed(gang.tenant, placement.class_name) > 0
        decisions.admit.append(Admit(gang.id, placement, is_borrowed))

    # Reclaim

    def _reclaim(self, search: Search, decisions: Decisions) -> None:
        """Look for takeovers for all lines, best first, until the head of each line found none."""
        order = Order(self._lines.all(), self._keys)
        while (line := order.pop()) is not None:
            head = line.head()
            takeover = search.find(head) if head is not None else None
            if head is not None and takeover is not None:
                self._take_over(head, takeover, search, decisions)
                order.push_served(line)
                order.renew(victim.tenant for victim in takeover.victims)

    def _take_over(self, gang: Gang, takeover: Takeover, search: Search, decisions: Decisions) -> None:
        why = f"{gang.tenant}'s {gang.id} takes its place."
        for victim in takeover.victims:
            if victim.state is GangState.WAITING:
                self._unreserve(victim, f"{gang.tenant}'s guarantee comes first.", decisions)
                continue
            leaving = build_leaving(victim, gang.id, self._now_s)
            if leaving.state is GangState.STOPPING and leaving.stop is not None:
                how: How = "save" if victim.kind is GangKind.JOB else "drain"
                decisions.ask.append(Ask(victim.id, gang.id, how, leaving.stop.deadline_s, why))
            else:
                decisions.end.append(End(victim.id, gang.id, why))
            swap = Swap(gang.id, gang.owner, victim.id, victim.owner, self._now_s)
            self._swaps.add(swap)
            decisions.swaps.append(swap)
            self._put(leaving)
        of = tuple(victim.id for victim in takeover.victims if victim.state is not GangState.WAITING)
        why = f"{', '.join(of)} make room for it." if of else "Enough room was made already."
        self._reserve(gang, Reservation(takeover.placement, self._now_s, of), why, decisions)
        search.forget(takeover.placement.class_name)

    def _reserve(self, gang: Gang, reservation: Reservation, why: str, decisions: Decisions) -> None:
        self._leave_line(gang)
        self._put(replace(gang, reservation=reservation))
        decisions.reserve.append(Reserve(gang.id, reservation, why))

    def _unreserve(self, gang: Gang, why: str, decisions: Decisions) -> None:
        self._put(replace(gang, reservation=None))
        kept = len(decisions.reserve)
        decisions.reserve = [reserve for reserve in decisions.reserve if reserve.gang_id != gang.id]
        if len(decisions.reserve) == kept:
            decisions.unreserve.append(Unreserve(gang.id, why))

    # Patience

    def _keep_room_for_the_patient(self, decisions: Decisions) -> None:
        """Reserve room for one gang of each class that waited too long: more would leave too much idle."""
        taken = {
            gang.reservation.placement.class_name
            for gang in self._holdings.reservations.values()
            if gang.reservation is not None and not self._holdings.leaving_for(gang.id)
        }
        order = Order(self._lines.all(), self._keys)
        while (line := order.pop()) is not None:
            head = line.head()
            if head is None or self._now_s < head.created_s + self._rules.patience_s:
                continue
            placement = self._place_to_wait_for(head, taken)
            if placement is not None:
                taken.add(placement.class_name)
                waited_s = self._now_s - head.created_s
                why = f"It waits for {waited_s:.0f} s and is next."
                self._reserve(head, Reservation(placement, self._now_s), why, decisions)
                order.note_served(line)

    def _place_to_wait_for(self, gang: Gang, taken: set[str]) -> Placement | None:
        for class_name in gang.classes:
            room = self._holdings.rooms.get(class_name)
            if room is None or class_name in taken:
                continue
            has_to_wait = self._turns.turn_before(gang, class_name) is not None
            if not has_to_wait and self._may_wait_for_room(gang, class_name):
                return room.find_to_wait_for(gang)
        return None

    def _may_wait_for_room(self, gang: Gang, class_name: str) -> bool:
        """Whether others may be held back for the gang: not for one that its own tenant's limit keeps out."""
        then = self._holdings.then
        is_own_matter = then.judge(gang.tenant, class_name, gang.accelerators) in OWN_MATTERS
        return not is_own_matter and gang.accelerators <= then.reach(gang.tenant, class_name)

    # What is true for all classes, and when to look again

    def _find_overcommitted(self) -> tuple[Overcommitted, ...]:
        book = self._holdings.then
        return tuple(
            Overcommitted(name, book.guaranteed(name), book.capacity(name))
            for name in book.classes()
            if book.guaranteed(name) > book.capacity(name)
        )

    def _next_s(self, search: Search) -> float | None:
        rules, reserved = self._rules, (gang.reservation for gang in self._holdings.reservations.values())
        heads = (line.head() for line in self._lines.all())
        passing = [each.since_s + rules.reservation_s for each in reserved if each is not None]
        # For those who wait beyond it, patience ends and begins again with each turn.
        ages = ((head.created_s, compute_turn(self._now_s - head.created_s, rules)[1]) for head in heads if head)
        passing += [created_s + age_s for created_s, age_s in ages]
        moments = [search.next_s, self._lines.next_join_s(), self._next_deadline_s()]
        moments += [moment for moment in passing if moment > self._now_s]
        return min((moment for moment in moments if moment is not None), default=None)


def _turn_event(tenant: str, class_name: str) -> tuple[str, str]:
    return f"turn {tenant}", class_name


def compute_backoff_s(attempts: int, rules: QuotaRules) -> float:
    """Return the pause after a gang was withdrawn so many times."""
    doublings = min(max(attempts - 1, 0), 16)
    return float(min(rules.backoff_first_s * 2.0**doublings, rules.backoff_limit_s))
