"""From observed pods to replicas: pods that carry the same replica label are one gang and live and die together.

How many pods a gang has stands on its pods, for those of an earlier revision may be fewer or more. Workers are made
before their leader: a leader without one of them has lost it, while workers that have not begun may wait for a leader
that is still to be made. What becomes of the pods of a broken gang is `gang_endings`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from llmos.api.names import (
    ANNOTATION_DRAIN_STARTED,
    ANNOTATION_FAILURE,
    CONTAINER_ENGINE,
    KUEUE_QUEUE,
    LABEL_REPLICA,
    LABEL_REVISION,
    LABEL_SERVING,
)
from llmos.api.reasons import Reason
from llmos_operator.planning.failures import (
    Failure,
    build_failure,
    failure_of_finished_pod,
    failure_of_own_end,
    failure_of_slow_creation,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_attempt,
    read_time,
)
from llmos_operator.planning.kueue import is_stopped, waits_for_admission
from llmos_operator.planning.quota_pods import is_gated, read_class, read_rank, read_size
from llmos_operator.planning.quota_record import QuotaRecord, read_record
from llmos_operator.planning.replicas import STABLE_S, Replica, ReplicaState, compute_backoff_s

Pod = Mapping[str, Any]

_AT_ABOUT_THE_SAME_TIME = timedelta(seconds=2)
_LOST_AFTER = timedelta(seconds=60)
"""A deletionTimestamp lies at the end of the grace period. A kubelet then kills, unmounts and reports; one that has not
done so after this time is gone. To force the deletion earlier would give away accelerators that are still in use."""


@dataclass(frozen=True)
class _End:
    """How a pod of a gang ended, and when."""

    at: datetime
    failure: Failure
    pod: Pod
    is_own: bool
    """False if the operator had it ended, and noted why."""


@dataclass(frozen=True)
class PodTimes:
    """Limits that turn a slow start into a failure, in seconds."""

    unschedulable_after_s: float
    start_timeout_s: float
    image_pull_timeout_s: float = 60.0
    bind_after_s: float = 120.0
    """For so long a part of a gang may hold accelerators while another part finds no node."""


def build_replicas(
    pods: Iterable[Pod], *, times: PodTimes, now: datetime, in_flight: Mapping[str, int]
) -> tuple[Replica, ...]:
    """Group pods into replicas, oldest first.

    Args:
        pods: observed pods of one pool.
        times: when a slow start counts as a failure.
        now: the current time.
        in_flight: requests running and waiting, by name of the leader pod, where known.
    """
    gangs = group_by_replica(pods)
    replicas = (_build_replica(name, gang, times, now, in_flight) for name, gang in gangs.items())
    return tuple(sorted(replicas, key=lambda replica: (replica.created, replica.name)))


def group_by_replica(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    """Return the pods of each replica, by its name."""
    gangs: dict[str, list[Pod]] = {}
    for pod in pods:
        name = pod["metadata"]["labels"].get(LABEL_REPLICA, "")
        # A pod to which a person gave our labels is no replica.
        if name.rpartition("-")[2].isdecimal():
            gangs.setdefault(name, []).append(pod)
    return gangs


def _build_replica(
    name: str, gang: Sequence[Pod], times: PodTimes, now: datetime, in_flight: Mapping[str, int]
) -> Replica:
    leader = min(gang, key=read_rank)
    labels = leader["metadata"]["labels"]
    record = read_record(leader["metadata"])
    state = _state_of_gang(gang, now, record)
    failure, failed_at = failure_of_gang(gang, now) if state is ReplicaState.FAILED else (None, now)
    withdrawn = _find_successor(leader, gang, record, now) if state is ReplicaState.FAILED else None
    attempt = read_attempt(leader["metadata"])
    ran_stable = failure is not None and _ran_stable(leader)
    if ran_stable:
        attempt = 0
    return Replica(
        name=name,
        ordinal=int(name.rpartition("-")[2]),
        revision=labels.get(LABEL_REVISION, ""),
        state=state,
        created=_created(leader, now),
        was_ready=was_ready(leader),
        ready_at=_ready_at(gang) if state is ReplicaState.READY else None,
        in_flight=in_flight.get(leader["metadata"]["name"]),
        attempt=attempt,
        drain_started=_drain_started(gang),
        failure=failure,
        stuck=_first_stuck(gang, times, now) if state is ReplicaState.STARTING else None,
        retry_at=now if withdrawn else _retry_at(failure, failed_at, attempt, ran_stable=ran_stable),
        lost_at=max(_lost_times(gang), default=None),
        incomplete=len(gang) < read_size(gang) and state is ReplicaState.STARTING,
        is_torn=state is ReplicaState.TERMINATING and (not all(map(is_going, gang)) or _is_any_lost(gang, now)),
        # For one that was withdrawn another is made at once: it waits behind its gates, and the ledger counts this one.
        is_ending=failure is not None and withdrawn is None and any(map(is_holding, gang)),
        is_gated=state is ReplicaState.STARTING and all(waits_for_admission(pod) for pod in gang),
        admitted=datetime.fromtimestamp(record.admitted_s, UTC) if record.admitted_s else None,
        withdrawn=withdrawn,
        class_name=read_class(leader),
        succeeds=record.succeeds,
    )


def _find_successor(leader: Pod, gang: Sequence[Pod], record: QuotaRecord, now: datetime) -> QuotaRecord | None:
    """Return what the replica begins with that takes the place of this one; None if none is to."""
    if record.is_withdrawn:
        return record.for_successor()
    return record.for_other_class(leader["metadata"]["uid"], now.timestamp()) if _is_moved(gang, record) else None


def _is_moved(gang: Sequence[Pod], record: QuotaRecord) -> bool:
    """Whether the quota keeps room of another class for the replica than its pods were made for."""
    return record.is_moved and record.stop is None and all(map(is_gated, gang))


def _created(pod: Pod, now: datetime) -> datetime:
    return read_time(pod["metadata"].get("creationTimestamp")) or now


def _drain_started(gang: Sequence[Pod]) -> datetime | None:
    texts = (pod["metadata"].get("annotations", {}).get(ANNOTATION_DRAIN_STARTED) for pod in gang)
    return max((moment for text in texts if (moment := read_time(text))), default=None)


def _lost_times(gang: Iterable[Pod]) -> list[datetime]:
    deadlines = (read_time(pod["metadata"].get("deletionTimestamp")) for pod in gang)
    return [deadline + _LOST_AFTER for deadline in deadlines if deadline is not None]


def is_lost(pod: Pod, now: datetime) -> bool:
    """Whether a pod should long have ended: its node is gone, and nobody else will remove it."""
    return any(moment <= now for moment in _lost_times((pod,)))


def find_lost_at(pod: Pod) -> datetime | None:
    """Return when a pod that was asked to end counts as lost; None if nobody asked."""
    return next(iter(_lost_times((pod,))), None)


def _is_any_lost(gang: Sequence[Pod], now: datetime) -> bool:
    return any(is_lost(pod, now) for pod in gang)


def is_deleted(pod: Pod) -> bool:
    """Whether somebody asked for the end of the pod."""
    return "deletionTimestamp" in pod["metadata"]


def is_going(pod: Pod) -> bool:
    """Whether the end of the pod was asked for, or Kueue has taken it back and asks next."""
    return is_deleted(pod) or is_stopped(pod)


def has_finished(pod: Pod) -> bool:
    """Whether the pod has ended, whatever its end was."""
    return pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}


def _has_failed(pod: Pod) -> bool:
    """Whether the pod ended by itself: one that was asked to ends well or badly."""
    return has_finished(pod) and not is_going(pod)


def is_holding(pod: Pod) -> bool:
    """Whether the pod has its accelerators."""
    return bool(pod.get("spec", {}).get("nodeName")) and not has_finished(pod)


def find_missing(gang: Sequence[Pod]) -> list[int]:
    """Return the ranks of pods that the gang had and has no more. Leaders are made last."""
    missing = sorted(set(range(read_size(gang))) - {read_rank(pod) for pod in gang})
    has_begun = 0 not in missing or any(_engine_times(pod)[0] for pod in gang)
    return missing if has_begun else []


def _state_of_gang(gang: Sequence[Pod], now: datetime, record: QuotaRecord) -> ReplicaState:
    if _is_any_lost(gang, now) and all(is_lost(pod, now) or has_finished(pod) for pod in gang):
        return ReplicaState.LOST
    has_failed = any(map(_has_failed, gang))
    if any(map(is_going, gang)) and not has_failed:
        return ReplicaState.TERMINATING
    if record.is_withdrawn or has_failed or find_missing(gang) or _is_moved(gang, record):
        return ReplicaState.FAILED
    if any(pod["metadata"]["labels"].get(LABEL_SERVING) == "false" for pod in gang):
        return ReplicaState.DRAINING
    if len(gang) == read_size(gang) and all(_is_ready(pod) for pod in gang):
        return ReplicaState.READY
    return ReplicaState.STARTING


def _ready_condition(pod: Pod) -> Mapping[str, Any]:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition.get("type") == "Ready":
            return dict(condition)
    return {}


def _ready_at(gang: Sequence[Pod]) -> datetime | None:
    times = (read_time(_ready_condition(pod).get("lastTransitionTime")) for pod in gang)
    return max((moment for moment in times if moment is not None), default=None)


def _is_ready(pod: Pod) -> bool:
    return _ready_condition(pod).get("status") == "True"


def _engine_times(pod: Pod) -> tuple[datetime | None, datetime | None]:
    """Return when the engine container started and, if it did, finished."""
    for status in pod.get("status", {}).get("containerStatuses", ()):
        if status.get("name") == CONTAINER_ENGINE:
            state = status.get("state", {})
            running, terminated = state.get("running", {}), state.get("terminated", {})
            return read_time(running.get("startedAt") or terminated.get("startedAt")), read_time(
                terminated.get("finishedAt")
            )
    return None, None


def was_ready(pod: Pod) -> bool:
    """Whether the pod answered once: Ready changed after its engine had started."""
    condition = _ready_condition(pod)
    if condition.get("status") == "True":
        return True
    started, _ = _engine_times(pod)
    changed = read_time(condition.get("lastTransitionTime"))
    return started is not None and changed is not None and changed - started > timedelta(seconds=1)


def _ran_stable(leader: Pod) -> bool:
    started, finished = _engine_times(leader)
    return bool(started and finished and was_ready(leader) and (finished - started).total_seconds() >= STABLE_S)


def failure_of_gang(gang: Sequence[Pod], now: datetime) -> tuple[Failure | None, datetime]:
    """Return why a gang failed and when: what its first pod to end says, and not what followed from it."""
    if ends := [
        _End(_failed_at(pod, now), _failure_of_end(pod), pod, is_own=not _was_retired(pod))
        for pod in gang
        if _has_failed(pod)
    ]:
        cause = _find_cause(ends)
        return _name_pod(cause.failure, cause.pod, read_size(gang)) if cause.is_own else cause.failure, cause.at
    if any(map(is_going, gang)) or not (missing := find_missing(gang)):
        return None, now
    replica = gang[0]["metadata"]["labels"][LABEL_REPLICA]
    names = ", ".join(replica if rank == 0 else f"{replica}-{rank}" for rank in missing)
    return build_failure(Reason.GangBroken, f"Of replica {replica} these pods are gone: {names}."), now


def _find_cause(ends: Sequence[_End]) -> _End:
    """Return the end that the others followed from: the first one, but for pods that say that they only followed, and
    pods that the operator ended, which carry the cause that it saw.

    Kubelets tell times in whole seconds, and the pods of a gang end in any order within a moment. Of ends at about the
    same time, one with a reason of its own tells more than a crash does, and a worker that does not say that it
    followed its leader was followed by it.
    """
    own = _find_own(ends) or ends
    own = [end for end in own if end.failure.reason is not Reason.GangBroken] or own
    first = min(end.at for end in own)
    together = [end for end in own if end.at - first <= _AT_ABOUT_THE_SAME_TIME]
    return min(together, key=lambda end: (end.failure.reason is Reason.EngineCrashed, -read_rank(end.pod)))


def _find_own(ends: Sequence[_End]) -> list[_End]:
    """Return the ends that the operator did not bring about; none if it ended all of the pods.

    Kubelets report in any order. When the operator saw the first end and had the others ended, some of these may have
    ended by themselves already: whom the gang's failure is told of must not depend on who was heard first.
    """
    own = [end for end in ends if end.is_own]
    asked = [end for end in ends if not end.is_own] if own else []
    told = ((end, failure_of_own_end(end.pod)) for end in asked)
    return own + [replace(end, failure=failure, is_own=True) for end, failure in told if failure is not None]


def _was_retired(pod: Pod) -> bool:
    return ANNOTATION_FAILURE in pod["metadata"].get("annotations", {})


def _failure_of_end(pod: Pod) -> Failure:
    if pod["status"]["phase"] == "Failed":
        return failure_of_finished_pod(pod)
    name = pod["metadata"]["name"]
    return build_failure(Reason.EngineCrashed, f"The engine of pod {name} ended without being asked.")


def _name_pod(failure: Failure, pod: Pod, size: int) -> Failure:
    """Say which pod of a gang it was."""
    name = pod["metadata"]["name"]
    if size == 1 or name in failure.message:
        return failure
    return Failure(failure.reason, f"Pod {name}: {failure.message}")


def _failed_at(pod: Pod, now: datetime) -> datetime:
    finished = [
        read_time(status.get("state", {}).get("terminated", {}).get("finishedAt"))
        for key in ("initContainerStatuses", "containerStatuses")
        for status in pod.get("status", {}).get(key, ())
    ]
    known = [moment for moment in finished if moment is not None]
    if known:
        return max(known)
    # A pod that its kubelet refused (no free device, for example) has neither containers nor conditions.
    ready = read_time(_ready_condition(pod).get("lastTransitionTime"))
    return ready or read_time(pod.get("status", {}).get("startTime")) or _created(pod, now)


def _retry_at(failure: Failure | None, failed_at: datetime, attempt: int, *, ran_stable: bool) -> datetime | None:
    if failure is None or not failure.may_retry:
        return None
    if ran_stable:
        return failed_at
    return failed_at + timedelta(seconds=compute_backoff_s(attempt + 1))


def _first_stuck(gang: Sequence[Pod], times: PodTimes, now: datetime) -> Failure | None:
    is_fresh = was_just_admitted(gang, now, times.unschedulable_after_s)
    for pod in gang:
        stuck = (
            (None if is_fresh else failure_of_unscheduled_pod(pod, now, times.unschedulable_after_s))
            or failure_of_waiting_pod(pod)
            or failure_of_slow_start(pod, times, now)
        )
        if stuck is not None:
            return stuck
    return None


def was_just_admitted(gang: Sequence[Pod], now: datetime, within_s: float) -> bool:
    """Whether the gang was admitted so lately, or Kueue admitted it and nobody has noted when.

    A pod was unscheduled all the time that it waited for its quota: only what came after counts.
    """
    leader = min(gang, key=read_rank)["metadata"]
    admitted_s = read_record(leader).admitted_s
    if not admitted_s and leader["labels"].get(KUEUE_QUEUE):
        return True
    return now.timestamp() - admitted_s < within_s


def failure_of_slow_start(pod: Pod, times: PodTimes, now: datetime) -> Failure | None:
    """The engine runs but never answered, or does not even begin to run: the net below the worker's own deadline."""
    started, _ = _engine_times(pod)
    if started is None:
        return failure_of_slow_creation(pod, now, times.start_timeout_s, Reason.ReplicaFailed)
    if was_ready(pod) or (now - started).total_seconds() < times.start_timeout_s:
        return None
    name = pod["metadata"]["name"]
    return build_failure(
        Reason.ReadinessNeverReached, f"Pod {name} runs since {started:%H:%M:%S} UTC without answering."
    )
