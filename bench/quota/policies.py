"""What is compared: the ledger, and two policies that know no tenants, on the same nodes.

FIFO serves strictly in the order of arrival: if the first does not fit, everybody waits. Strict priority serves the
highest priority first, then the oldest, and whatever fits; nobody is asked to go. Neither has quotas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Protocol

from bench.quota.workload import ACCELERATOR, Workload
from llmos_operator.planning.quota import Gang, GangState, Ledger, Placement, Snapshot
from llmos_operator.planning.quota.room import ClassRoom


@dataclass(frozen=True)
class Outcome:
    """What a policy decided at one moment: ids of gangs."""

    admitted: Sequence[str] = ()
    asked: Sequence[str] = ()
    """They save their work, and then wait again."""
    ended: Sequence[str] = ()
    next_s: float | None = None
    """When to ask again even if nothing happens."""


class Policy(Protocol):
    """Decides who runs. The other methods tell it what happens."""

    def arrive(self, gang: Gang) -> None:
        """A gang asks for accelerators."""

    def finish(self, gang_id: str) -> None:
        """A gang is done, and its pods are gone."""

    def answer(self, gang_id: str) -> None:
        """A gang that was asked to go has saved its work."""

    def leave(self, gang_id: str) -> None:
        """The pods of an ended gang are gone; it waits again."""

    def decide(self, now_s: float) -> Outcome:
        """Decide for this moment."""


class LedgerPolicy:
    """The operator's ledger, told of everything that a cluster would tell it."""

    def __init__(self, workload: Workload, *, reclaim_every_s: float) -> None:
        self._ledger = Ledger(Snapshot(0.0, workload.tenants, workload.nodes, ()))
        self._reclaim_every_s = reclaim_every_s
        self._reclaim_s = 0.0

    def arrive(self, gang: Gang) -> None:
        self._ledger.observe(gang)

    def finish(self, gang_id: str) -> None:
        self._ledger.forget(gang_id)

    def answer(self, gang_id: str) -> None:
        gang = self._known(gang_id)
        if gang.stop is not None:
            self._ledger.observe(replace(gang, stop=replace(gang.stop, is_answered=True)))

    def leave(self, gang_id: str) -> None:
        self._ledger.observe(replace(self._known(gang_id), state=GangState.WAITING, placement=None, stop=None))

    def decide(self, now_s: float) -> Outcome:
        reclaim = now_s >= self._reclaim_s
        if reclaim:
            self._reclaim_s = now_s + self._reclaim_every_s
        plan = self._ledger.plan(now_s, reclaim=reclaim)
        for admit in plan.admit:
            self._ledger.observe(replace(self._known(admit.gang_id), state=GangState.RUNNING))
        moments = [moment for moment in (plan.next_s, self._reclaim_s) if moment is not None and moment > now_s]
        return Outcome(
            [admit.gang_id for admit in plan.admit],
            [ask.gang_id for ask in plan.ask],
            [end.gang_id for end in plan.end],
            min(moments, default=None),
        )

    def _known(self, gang_id: str) -> Gang:
        gang = self._ledger.gang(gang_id)
        if gang is None:
            raise KeyError(gang_id)
        return gang


class Plain:
    """FIFO, or strict priority."""

    def __init__(self, workload: Workload, *, by_priority: bool) -> None:
        self._room = ClassRoom(ACCELERATOR, workload.nodes)
        self._by_priority = by_priority
        # One line for each size of gang: if the first of a line does not fit, no other of it does.
        self._lines: dict[tuple[int, int], list[tuple[float, float, str]]] = {}
        self._gangs: dict[str, Gang] = {}
        self._placements: dict[str, Placement] = {}

    def arrive(self, gang: Gang) -> None:
        self._gangs[gang.id] = gang
        line = (gang.pods, gang.accelerators_per_pod) if self._by_priority else (0, 0)
        key = (-float(gang.priority) if self._by_priority else 0.0, gang.created_s, gang.id)
        heappush(self._lines.setdefault(line, []), key)

    def finish(self, gang_id: str) -> None:
        placement, gang = self._placements.pop(gang_id), self._gangs.pop(gang_id)
        self._room.add(placement.nodes, -gang.accelerators_per_pod, now=True, then=True)

    def answer(self, gang_id: str) -> None:
        raise AssertionError(f"{gang_id} was never asked to go")

    def leave(self, gang_id: str) -> None:
        raise AssertionError(f"{gang_id} was never asked to go")

    def decide(self, now_s: float) -> Outcome:
        admitted: list[str] = []
        lines = [line for line in self._lines.values() if line]
        while lines:
            line = min(lines, key=lambda line: line[0])
            gang = self._gangs[line[0][2]]
            placement = self._room.find(gang, {})
            if placement is None:
                lines.remove(line)
                continue
            heappop(line)
            self._room.add(placement.nodes, gang.accelerators_per_pod, now=True, then=True)
            self._placements[gang.id] = placement
            admitted.append(gang.id)
            lines = [line for line in lines if line]
        return Outcome(admitted)


def build_policies(workload: Workload, *, reclaim_every_s: float) -> Iterator[tuple[str, Policy]]:
    """Yield all policies by name, each with nodes of its own."""
    yield "LLMOS ledger", LedgerPolicy(workload, reclaim_every_s=reclaim_every_s)
    yield "FIFO", Plain(workload, by_priority=False)
    yield "strict priority", Plain(workload, by_priority=True)
