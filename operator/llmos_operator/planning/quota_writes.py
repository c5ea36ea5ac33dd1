"""What becomes of a plan: the writes to pods that carry each decision out, and the line that the audit log keeps. Pure.

All that a decision changes about one pod is one patch, so that a pod is never half decided. Where a decision takes
several writes their order is such that whoever finds only the first of them goes on:

- swaps stand in the record of the gang for which somebody goes, written before anybody is asked;
- a gang's leader is released first, with the placement in its record: a gang that has lost one gate was admitted, and
  the rest of its gates are lifted by `build_completions`;
- a withdrawn gang is only marked. Its pool makes the next one, which carries the attempts on, before it deletes it.
- a gang that is admitted to another class than its pods were made for is only marked as well (`move`): nothing can
  change what a pod asks for. The mark holds the room. Its owner makes pods for that class whose record has the same
  placement, before it deletes it, and `build_completions` releases them when all are there.

Every patch names the pod's uid: a pod of the same name that replaced it is not meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from llmos.api.names import (
    ANNOTATION_DRAIN_STARTED,
    GATE_QUOTA,
    LABEL_SERVING,
)
from llmos_operator.planning.quota import Gang, GangKind, Placement, QuotaPlan, Reservation, Stop, Swap
from llmos_operator.planning.quota_pods import is_gated, read_class, read_rank, read_size
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation, read_record

JsonObject = Mapping[str, Any]
Action = Literal["swap", "unreserve", "ask", "end", "withdraw", "reserve", "admit", "move"]


@dataclass(frozen=True)
class PodWrite:
    """A merge patch of one pod, or its deletion."""

    namespace: str
    name: str
    uid: str
    patch: JsonObject | None = None
    """None: the pod is deleted."""


@dataclass(frozen=True)
class Audit:
    """One decision for the audit log."""

    action: Action
    gang: str
    tenant: str
    pool: str
    accelerators: int
    why: str
    old: str
    new: str
    for_gang: str = ""


@dataclass(frozen=True)
class Decision:
    """One decision: what to write, in this order, and what to log."""

    audit: Audit
    writes: tuple[PodWrite, ...]


def build_decisions(
    plan: QuotaPlan, gangs: Mapping[str, Gang], pods: Mapping[str, Sequence[JsonObject]], now: datetime, window_s: float
) -> tuple[Decision, ...]:
    """Return what carries out a plan, in order.

    Args:
        plan: what the ledger decided.
        gangs: all gangs by id, as they were when it decided.
        pods: their pods, leaders first (`Roster.gangs`).
        now: the time of the plan.
        window_s: how long a swap is remembered.
    """
    desk = _Desk(gangs, pods, now.timestamp(), window_s)
    desk.remember(plan.swaps)
    for unreserve in plan.unreserve:
        desk.change(unreserve.gang_id, "unreserve", unreserve.why, reservation=None)
    for ask in plan.ask:
        stop = Stop(ask.for_id, now.timestamp(), ask.deadline_s)
        desk.ask(ask.gang_id, stop, ask.why)
    for end in plan.end:
        desk.end(end.gang_id, end.for_id, end.why)
    for withdraw in plan.withdraw:
        fields: dict[str, Any] = {"attempts": withdraw.attempts, "retry_at_s": withdraw.retry_at_s}
        desk.change(withdraw.gang_id, "withdraw", withdraw.why, is_withdrawn=True, stop=None, **fields)
    for reserve in plan.reserve:
        desk.change(reserve.gang_id, "reserve", reserve.why, reservation=reserve.reservation)
    for admit in plan.admit:
        desk.admit(admit.gang_id, admit.placement, is_borrowed=admit.is_borrowed)
    return tuple(desk.decisions)


def build_completions(pods: Mapping[str, Sequence[JsonObject]]) -> tuple[PodWrite, ...]:
    """Return what lifts the remaining gates of gangs that were admitted, but not released in full.

    Args:
        pods: of gangs, leaders first; those of `Roster.unfinished` are enough.
    """
    writes: list[PodWrite] = []
    for members in pods.values():
        record = read_record(members[0]["metadata"])
        if record.placement is None or record.is_withdrawn or record.is_moved:
            continue
        # One that goes on from a moved gang has its place before it is released; that may be written only for all.
        if is_gated(members[0]) and (record.stop is not None or len(members) < read_size(members)):
            continue
        if any("deletionTimestamp" in pod["metadata"] for pod in members):
            continue
        pinned = _pin(members, record.placement)
        writes += [_patch(pod, spec=build_release(pod, node)) for pod, node in pinned if is_gated(pod)]
    return tuple(writes)


def build_liftings(pods: Iterable[JsonObject]) -> tuple[PodWrite, ...]:
    """Return what lifts all gates, for a cluster that has no Tenants any more: then kube-scheduler alone decides."""
    return tuple(
        _patch(pod, spec={"schedulingGates": _other_gates(pod)})
        for pod in pods
        if is_gated(pod) and "deletionTimestamp" not in pod["metadata"]
    )


def build_release(pod: JsonObject, node: str) -> dict[str, Any]:
    """Return the change of a pod's spec that lifts its gate and pins it to a node.

    While a pod is gated its node affinity may be made narrower: the name is demanded in each of its terms, and
    kube-scheduler looks at that node only.
    """
    name = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get(_REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    pinned = [{**term, "matchFields": [*term.get("matchFields", ()), name]} for term in terms]
    return {
        "schedulingGates": _other_gates(pod),
        "affinity": {"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": pinned}}},
    }


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class _Desk:
    """Collects decisions; knows what was already changed about a gang in this plan."""

    def __init__(
        self, gangs: Mapping[str, Gang], pods: Mapping[str, Sequence[JsonObject]], now_s: float, window_s: float
    ) -> None:
        self.decisions: list[Decision] = []
        self._gangs, self._pods, self._now_s, self._window_s = gangs, pods, now_s, window_s
        self._records: dict[str, QuotaRecord] = {}

    def remember(self, swaps: Iterable[Swap]) -> None:
        """Write down who goes for whom, with whom it is for."""
        by_winner: dict[str, list[Swap]] = {}
        for swap in swaps:
            by_winner.setdefault(swap.winner_id, []).append(swap)
        for winner, new in by_winner.items():
            old = [swap for swap in self._record(winner).swaps if swap.at_s + self._window_s > self._now_s]
            losers = ", ".join(swap.loser_id for swap in new)
            self.change(winner, "swap", f"It takes the place of {losers}.", swaps=(*old, *new))

    def change(self, gang_id: str, action: Action, why: str, **fields: Any) -> None:
        """Change the record, and nothing else."""
        if leader := self._leader(gang_id):
            annotations = self._change_record(gang_id, **fields)
            self._decide(gang_id, action, why, (_patch(leader, metadata={"annotations": annotations}),))

    def ask(self, gang_id: str, stop: Stop, why: str) -> None:
        """Have a gang drained: out of the Service, with the time stamp that its pool goes on from. A job deletes the
        pods of its attempt, which then save their work."""
        started = datetime.fromtimestamp(self._now_s, UTC).isoformat()
        annotations = {**self._change_record(gang_id, stop=stop), ANNOTATION_DRAIN_STARTED: started}
        labels = {LABEL_SERVING: "false"}
        writes = []
        for pod in self._pods.get(gang_id, ()):
            writes.append(_patch(pod, metadata={"labels": labels, "annotations": annotations}))
            annotations = {ANNOTATION_DRAIN_STARTED: started}
        self._decide(gang_id, "ask", why, tuple(writes), for_gang=stop.for_id)

    def end(self, gang_id: str, for_id: str, why: str) -> None:
        """Delete a gang's pods; for whom is written first, for deleting takes its time.

        An attempt of a job is deleted by its job, which counts it first; here only if it did not by the next pass.
        """
        writes: list[PodWrite] = []
        leader, gang = self._leader(gang_id), self._gangs.get(gang_id)
        is_news = self._record(gang_id).stop is None
        if leader is not None and is_news:
            stop = Stop(for_id, self._now_s, self._now_s, is_answered=True)
            writes.append(_patch(leader, metadata={"annotations": self._change_record(gang_id, stop=stop)}))
        if not (is_news and gang is not None and gang.kind is GangKind.JOB):
            writes += [_identify(pod) for pod in self._pods.get(gang_id, ())]
        self._decide(gang_id, "end", why, tuple(writes), for_gang=for_id)

    def admit(self, gang_id: str, placement: Placement, *, is_borrowed: bool) -> None:
        """Release all pods, each to its node; where they are made for another class, mark them, which keeps the
        room."""
        leader = self._leader(gang_id)
        if leader is not None and read_class(leader) not in ("", placement.class_name):
            why = f"It is made for {read_class(leader)}; pods for {placement.class_name} take its place."
            fields: dict[str, Any] = {"placement": placement, "admitted_s": self._now_s, "reservation": None}
            self.change(gang_id, "move", why, is_moved=True, **fields)
            return
        annotations: dict[str, str] = self._change_record(
            gang_id, placement=placement, admitted_s=self._now_s, reservation=None
        )
        writes = []
        for pod, node in _pin(self._pods.get(gang_id, ()), placement):
            metadata = {"annotations": annotations} if annotations else {}
            writes.append(_patch(pod, metadata=metadata, spec=build_release(pod, node)))
            annotations = {}
        why = "It borrows what others leave idle." if is_borrowed else "The guarantee of its tenant covers it."
        self._decide(gang_id, "admit", why, tuple(writes), new=_say_place(placement))

    def _record(self, gang_id: str) -> QuotaRecord:
        if gang_id not in self._records:
            leader = self._leader(gang_id)
            self._records[gang_id] = read_record(leader["metadata"]) if leader else QuotaRecord()
        return self._records[gang_id]

    def _change_record(self, gang_id: str, **fields: Any) -> dict[str, str]:
        self._records[gang_id] = replace(self._record(gang_id), **fields)
        return build_record_annotation(self._records[gang_id])

    def _leader(self, gang_id: str) -> JsonObject | None:
        return next(iter(self._pods.get(gang_id, ())), None)

    def _decide(
        self,
        gang_id: str,
        action: Action,
        why: str,
        writes: tuple[PodWrite, ...],
        *,
        for_gang: str = "",
        new: str = "",
    ) -> None:
        gang = self._gangs.get(gang_id)
        if gang is None or not writes:
            return
        audit = Audit(
            action=action,
            gang=gang_id,
            tenant=gang.tenant,
            pool=gang.owner,
            accelerators=gang.accelerators,
            why=why,
            old=_say_state(gang),
            new=new or _AFTER[action],
            for_gang=for_gang,
        )
        self.decisions.append(Decision(audit, writes))


_AFTER: Mapping[Action, str] = {
    "swap": "waiting",
    "unreserve": "waiting",
    "ask": "stopping",
    "end": "ending",
    "withdraw": "ending",
    "reserve": "waiting, room is kept",
    "admit": "starting",
    "move": "admitted, to be made anew",
}


def _say_state(gang: Gang) -> str:
    place = gang.placement or _place_of(gang.reservation)
    return f"{gang.state.value} on {_say_place(place)}" if place else gang.state.value


def _place_of(reservation: Reservation | None) -> Placement | None:
    return reservation.placement if reservation else None


def _say_place(placement: Placement) -> str:
    return f"{', '.join(dict.fromkeys(placement.nodes)) or 'no node yet'} ({placement.class_name})"


def _other_gates(pod: JsonObject) -> list[JsonObject] | None:
    gates = [gate for gate in pod["spec"].get("schedulingGates", ()) if gate.get("name") != GATE_QUOTA]
    return gates or None


def _identify(pod: JsonObject) -> PodWrite:
    metadata = pod["metadata"]
    return PodWrite(metadata["namespace"], metadata["name"], metadata["uid"])


def _patch(pod: JsonObject, *, metadata: JsonObject | None = None, spec: JsonObject | None = None) -> PodWrite:
    patch: dict[str, Any] = {"metadata": {**(metadata or {}), "uid": pod["metadata"]["uid"]}}
    if spec is not None:
        patch["spec"] = spec
    return replace(_identify(pod), patch=patch)


def _pin(members: Iterable[JsonObject], placement: Placement) -> list[tuple[JsonObject, str]]:
    """Return each pod with its node: by rank, for one that is missing must not move the others."""
    return [(pod, placement.nodes[rank]) for pod in members if (rank := read_rank(pod)) < len(placement.nodes)]
