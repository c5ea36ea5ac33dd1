"""From pods to attempts: the pods of an attempt that trains on several nodes are one gang, which is planned like one
pod. Pure.

- Pods are made workers first, leader last, and the status that names the attempt is written after them. So a gang that
  lacks a pod is completed while the status does not name it: its making was cut off. Later it has lost that pod, and
  ends.
- It is completed only with pods like those that it has. Where they would be made otherwise by now (the operator was
  upgraded meanwhile, and trains with another image; the job was edited), it never began, and the next attempt is made
  whole: ranks of two versions would fail, or worse, not fail.
- The first pod that ends takes the others along: the attempt has ended, counts once, and what still runs of it is
  deleted. The next attempt begins when all of it has ended.
- The end of rank 0 with a result is the end of the attempt with a result. Other ranks that are done before it have left
  in order. While rank 0 makes the result, nothing is asked of them any more: their pods and nodes may go. Where the
  model is sharded, all of them make it, and all are needed to the end. What the pods were made with decides that, for
  the spec and the class may have changed since.
- A rank that ended only because another one did says `PeerLost`, or repeats what the other one said. Where that is all
  that is known, what the other one's kubelet has to say (killed for its memory, evicted) is waited for a little.
- That the quota moved the attempt to another class stands in the leader's record, and holds for all.
- Preemption is told by the leader's record, which the ledger writes, or by any pod, where Kueue stops it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Final

from llmos.api.names import COMPONENT_TRAIN
from llmos.api.reasons import Reason
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.finetune_pods import End, JobPod, PodState
from llmos_operator.planning.finetune_reports import Message

SETTLE: Final = timedelta(seconds=20)
"""So long after a pod has said that it lost another one, what that one says is waited for."""
_AT_ABOUT_THE_SAME_TIME: Final = timedelta(seconds=2)
_OWN_WORDS_FIRST: Final = {"final": 0, "user": 1, "infrastructure": 2}
_ALIVE: Final = (PodState.RUNNING, PodState.STARTING, PodState.WAITING)


def build_attempts(
    pods: Iterable[JobPod], *, noted: int, now: datetime, is_evaluating: bool = False
) -> tuple[JobPod, ...]:
    """Return one pod for each attempt: itself, or what stands for its gang.

    Args:
        pods: pods of one job.
        noted: the attempt that the job's status names: its gang was made in full.
        now: the current time.
        is_evaluating: rank 0 of that attempt makes the result.
    """
    ordered = sorted(pods, key=lambda pod: (pod.number, pod.component, pod.rank))
    grouped = groupby(ordered, key=lambda pod: (pod.number, pod.component))
    return tuple(
        _build_attempt(tuple(members), noted=noted, now=now, is_evaluating=is_evaluating) for _, members in grouped
    )


def end_outdated(attempts: Iterable[JobPod], number: int) -> tuple[JobPod, ...]:
    """Return the attempts such that the one of this number, which never began, has to go: it counts as one that
    moved."""
    return tuple(
        replace(each, end=End("moved"), must_go=True, missing=())
        if each.component == COMPONENT_TRAIN and each.number == number and each.missing
        else each
        for each in attempts
    )


def _build_attempt(members: Sequence[JobPod], *, noted: int, now: datetime, is_evaluating: bool) -> JobPod:
    leader, size = members[0], max(member.size for member in members)
    if leader.component != COMPONENT_TRAIN or size == 1:
        return replace(leader, members=tuple(members))
    is_making = is_evaluating and leader.number == noted and leader.rank == 0 and leader.state is PodState.RUNNING
    is_alone = is_making and not leader.is_sharded
    needed = (leader,) if is_alone else members
    missing = () if is_alone else tuple(sorted(set(range(size)) - {member.rank for member in members}))
    end = _find_end(needed, missing if leader.number <= noted else (), now)
    state = _state_of(needed, end)
    return replace(
        leader,
        name=leader.gang,
        state=state,
        end=end,
        stuck=next((member.stuck for member in needed if member.stuck), None) if end is None else None,
        must_go=end is not None and state is not PodState.ENDED,
        is_lost=any(member.is_lost for member in needed),
        is_deleted=all(member.is_deleted for member in members),
        size=size,
        members=tuple(members),
        message=leader.message if leader.rank == 0 else Message(),
        missing=missing if end is None and state in _ALIVE else (),
    )


def _state_of(members: Sequence[JobPod], end: End | None) -> PodState:
    states = {member.state for member in members} - {PodState.ENDED}
    if not states:
        return PodState.ENDED
    if end is not None:
        return next((state for state in _ALIVE if state in states), PodState.STOPPING)
    if PodState.STOPPING in states:
        return PodState.STOPPING
    return states.pop() if len(states) == 1 else PodState.STARTING


def _find_end(members: Sequence[JobPod], lost: Sequence[int], now: datetime) -> End | None:
    """Return how an attempt ended, or has to end; None if it goes on."""
    if members[0].end is not None and members[0].end.kind in {"complete", "moved"}:
        return members[0].end
    ends = [(member, member.end) for member in members if member.end is not None and member.end.failure is not None]
    if preempted := next((end for _, end in ends if end.kind == "preempted"), None):
        return preempted
    if ends:
        return _choose_cause(ends, members, now)
    if lost:
        names = ", ".join(_name(members[0].gang, rank) for rank in lost)
        return End("infrastructure", build_failure(Reason.NodeLost, f"Of {members[0].gang} these are gone: {names}."))
    return _find_torn(members)


def _choose_cause(ends: Sequence[tuple[JobPod, End]], members: Sequence[JobPod], now: datetime) -> End | None:
    """Return the end that the others followed from: the first one that is not a mere consequence."""
    own = [(pod, end) for pod, end in ends if end.failure and end.failure.reason is not Reason.PeerLost]
    if not own and _may_tell_more(ends, members, now):
        return None
    chosen = own or ends
    first = min(pod.ended_at or now for pod, _ in chosen)
    together = [(pod, end) for pod, end in chosen if (pod.ended_at or now) - first <= _AT_ABOUT_THE_SAME_TIME]
    pod, end = min(together, key=lambda each: (_OWN_WORDS_FIRST.get(each[1].kind, 3), each[0].rank))
    return End(end.kind, _name_pod(end.failure, pod))


def _may_tell_more(ends: Sequence[tuple[JobPod, End]], members: Sequence[JobPod], now: datetime) -> bool:
    is_all_over = all(member.state is PodState.ENDED for member in members)
    latest = max((pod.ended_at for pod, _ in ends if pod.ended_at), default=None)
    return not is_all_over and latest is not None and now - latest < SETTLE


def _name_pod(failure: Failure | None, pod: JobPod) -> Failure | None:
    if failure is None or pod.name in failure.message:
        return failure
    return Failure(failure.reason, f"Pod {pod.name}: {failure.message}")


def _find_torn(members: Sequence[JobPod]) -> End | None:
    """Return that a gang that nobody placed is bound in part only, and holds what another gang may lack."""
    unbound = next((member.unbound for member in members if member.unbound), None)
    is_waiting = any(member.state is PodState.WAITING for member in members)
    if unbound is None or is_waiting or members[0].is_placed or not any(member.is_holding for member in members):
        return None
    return End("infrastructure", unbound)


def _name(gang: str, rank: int) -> str:
    return f"{gang}-{rank}" if rank else gang
