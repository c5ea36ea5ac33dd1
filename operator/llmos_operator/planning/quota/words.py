"""Says in words why a gang waits: what it waits for, how far down it stands, and what would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from llmos.api.reasons import Reason
from llmos_operator.planning.quota.books import Verdict
from llmos_operator.planning.quota.holdings import Holdings
from llmos_operator.planning.quota.order import Keys
from llmos_operator.planning.quota.plan import Waiting
from llmos_operator.planning.quota.turns import Turns
from llmos_operator.planning.quota.values import Gang, QuotaRules

_NAMED = 3
"""Names in a sentence; of more it says how many."""


class Explainer:
    """Explains all waiting gangs at one moment."""

    def __init__(self, holdings: Holdings, keys: Keys, turns: Turns, rules: QuotaRules, now_s: float) -> None:
        self._holdings = holdings
        self._keys = keys
        self._turns = turns
        self._rules = rules
        self._now_s = now_s
        self._told: dict[tuple[object, ...], tuple[Reason, str]] = {}
        self._owners: dict[tuple[str, str], frozenset[str]] = {}

    def explain(self, waiting: Iterable[Gang]) -> tuple[Waiting, ...]:
        """Return one explanation for each gang, first those that are served first."""
        ordered = sorted(waiting, key=self._keys.key_of)
        ahead: dict[str, int] = {}
        lines = [_line_of(gang) for gang in ordered]
        of = Counter(lines)
        explained = []
        for gang, line in zip(ordered, lines, strict=True):
            ahead[line] = ahead.get(line, 0) + 1
            reason, message = self._explain(gang)
            place = f" It is number {ahead[line]} of {of[line]} that wait." if of[line] > 1 else ""
            is_held = any(gang.owner in self._owners_that_hold(gang.tenant, name) for name in gang.classes)
            explained.append(Waiting(gang.id, reason, ahead[line], of[line], message + place, is_held))
        return tuple(explained)

    def _owners_that_hold(self, tenant: str, class_name: str) -> frozenset[str]:
        key = tenant, class_name
        if key not in self._owners:
            self._owners[key] = frozenset(gang.owner for gang in self._holdings.held_by(tenant, class_name))
        return self._owners[key]

    def _explain(self, gang: Gang) -> tuple[Reason, str]:
        if gang.reservation is not None:
            return self._explain_reservation(gang)
        if gang.retry_at_s > self._now_s:
            return Reason.NotBoundInTime, (
                f"It was withdrawn {_times(gang.attempts)} because its pods did not all find their nodes; tried again "
                f"at {_clock(gang.retry_at_s)}. The events of its pods say what the scheduler missed."
            )
        parts = [self._explain_in_class(gang, name) for name in gang.classes]
        if not parts:
            return Reason.QuotaExceeded, "It names no accelerator class."
        if len(parts) == 1:
            return parts[0]
        # Whatever the quota allows is nearer than what it does not.
        reason = min((reason for reason, _ in parts), key=lambda reason: reason is not Reason.WaitsForRoom)
        return reason, " ".join(dict.fromkeys(message for _, message in parts))

    def _explain_reservation(self, gang: Gang) -> tuple[Reason, str]:
        names = sorted(self._holdings.leaving_for(gang.id))
        if not names:
            return Reason.WaitsForRoom, (
                f"It waits since {_clock(gang.created_s)}; room is kept for it as it comes free on "
                f"{_list(sorted(set(gang.reservation.placement.nodes)) if gang.reservation else [])}."
            )
        stops = [self._holdings.gangs[name].stop for name in names]
        last_s = max((stop.deadline_s for stop in stops if stop is not None), default=self._now_s)
        who = f"{_list(names)} {'goes' if len(names) == 1 else 'go'}"
        return Reason.WaitsForReclaim, f"{who} to make room for it, by {_clock(last_s)} at the latest."

    def _explain_in_class(self, gang: Gang, class_name: str) -> tuple[Reason, str]:
        """Gangs of one tenant, class and size wait for the same: it is put into words once."""
        turn = self._turns.turn_before(gang, class_name)
        if turn is not None and self._holdings.fits_quota(gang, class_name) is Verdict.YES:
            return Reason.WaitsForRoom, (
                f"Tenant {gang.tenant}'s {turn.gang.id} needs {turn.gang.accelerators} {class_name}, waits since "
                f"{_clock(turn.gang.created_s)} and comes first: until {_clock(turn.ends_s)} the tenant starts nothing "
                "before it that came later. A higher borrowLimit would let both in."
            )
        key = gang.tenant, class_name, gang.pods, gang.accelerators_per_pod, gang.node_selector
        if key not in self._told:
            self._told[key] = self._put_into_words(gang, class_name)
        return self._told[key]

    def _put_into_words(self, gang: Gang, class_name: str) -> tuple[Reason, str]:
        if not gang.tenant:
            return Reason.NoTenant, (
                f"Its namespace belongs to no Tenant and gets no {class_name}. Add the namespace to a Tenant."
            )
        if closed := self._holdings.now.tenant(gang.tenant).closed:
            return Reason.TenantClosed, closed
        verdict = self._holdings.fits_quota(gang, class_name)
        if verdict is Verdict.NO_ENTRY:
            return Reason.QuotaExceeded, (
                f"Tenant {gang.tenant} has no quota of {class_name}. Add an entry to its spec.quota."
            )
        if verdict is Verdict.LIMIT:
            return Reason.QuotaExceeded, self._say_limit(gang, class_name)
        if verdict is Verdict.NOTHING_TO_BORROW:
            return Reason.QuotaExceeded, self._say_nothing_to_borrow(gang, class_name)
        return Reason.WaitsForRoom, self._say_no_room(gang, class_name)

    def _say_limit(self, gang: Gang, class_name: str) -> str:
        book = self._holdings.now
        quota, used = book.quota(gang.tenant, class_name), book.used(gang.tenant, class_name)
        return (
            f"Tenant {gang.tenant} holds {used} of at most {quota.limit} {class_name}; this needs {gang.accelerators}. "
            "Stop something of the tenant's, or raise guaranteed or borrowLimit."
        )

    def _say_nothing_to_borrow(self, gang: Gang, class_name: str) -> str:
        book = self._holdings.now
        beyond = book.used(gang.tenant, class_name) + gang.accelerators - book.quota(gang.tenant, class_name).guaranteed
        holders = [(book.borrowed(name, class_name), name) for name in book.holders(class_name) if name != gang.tenant]
        borrowers = [f"{name} ({borrowed})" for borrowed, name in sorted(holders, reverse=True) if borrowed]
        who = f" Borrowed by others: {_list(borrowers)}." if borrowers else ""
        if beyond > 0:
            return (
                f"Tenant {gang.tenant} would borrow {beyond} {class_name}, and others leave fewer idle.{who} It starts "
                "when they give back; a higher guarantee would not have to wait."
            )
        return f"Tenant {gang.tenant}'s guarantee of {class_name} is held by others.{who} It comes back if it can."

    def _say_no_room(self, gang: Gang, class_name: str) -> str:
        room = self._holdings.rooms.get(class_name)
        per_pod = gang.accelerators_per_pod
        if room is None:
            return f"No node has {class_name}. Add one, or name another class."
        if room.largest_node() < per_pod:
            return (
                f"It needs {per_pod} {class_name} on one node, and the largest has {room.largest_node()}. "
                "Ask for fewer, or add larger nodes."
            )
        if not room.could_hold(gang):
            return f"It needs {gang.accelerators} {class_name}, more than the nodes that it may use have. Add nodes."
        return (
            f"The quota allows it, but the nodes have no room: {room.free()} {class_name} are free, at most "
            f"{room.most_free()} on one node, and it needs {gang.pods} x {per_pod}. It starts when pods end; fewer "
            "accelerators for each pod would fit sooner."
        )


def _line_of(gang: Gang) -> str:
    return gang.classes[0] if gang.classes else ""


def _clock(moment_s: float) -> str:
    # A moment stays what it is; a span would be another message with every look.
    return f"{datetime.fromtimestamp(moment_s, UTC):%H:%M:%S} UTC"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _list(names: list[str]) -> str:
    shown = names[:_NAMED]
    return ", ".join(shown) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
