"""From observed pods to replicas: pods that carry the same replica label are one gang and live and die together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from llmos.api.names import (
    ANNOTATION_DRAIN_STARTED,
    CONTAINER_ENGINE,
    LABEL_REPLICA,
    LABEL_REVISION,
    LABEL_SERVING,
)
from llmos.api.reasons import Reason
from llmos_operator.planning.failures import (
    Failure,
    build_failure,
    failure_of_finished_pod,
    failure_of_slow_creation,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_attempt,
    read_time,
)
from llmos_operator.planning.quota_record import QuotaRecord, read_record
from llmos_operator.planning.quota_view import is_gated, read_rank
from llmos_operator.planning.replicas import STABLE_S, Replica, ReplicaState, compute_backoff_s

Pod = Mapping[str, Any]

_LOST_AFTER = timedelta(seconds=60)
"""A deletionTimestamp lies at the end of the grace period. A kubelet then kills, unmounts and reports; one that has not
done so after this time is gone. To force the deletion earlier would give away accelerators that are still in use."""


@dataclass(frozen=True)
class PodTimes:
    """Limits that turn a slow start into a failure, in seconds."""

    unschedulable_after_s: float
    start_timeout_s: float
    image_pull_timeout_s: float = 60.0


def build_replicas(
    pods: Iterable[Pod], *, gang_size: int, times: PodTimes, now: datetime, in_flight: Mapping[str, int]
) -> tuple[Replica, ...]:
    """Group pods into replicas, oldest first.

    Args:
        pods: observed pods of one pool.
        gang_size: pods of a complete replica.
        times: when a slow start counts as a failure.
        now: the current time.
        in_flight: requests running and waiting, by name of the leader pod, where known.
    """
    gangs: dict[str, list[Pod]] = {}
    for pod in pods:
        name = pod["metadata"]["labels"].get(LABEL_REPLICA, "")
        # A pod to which a person gave our labels is no replica.
        if name.rpartition("-")[2].isdecimal():
            gangs.setdefault(name, []).append(pod)
    replicas = (_build_replica(name, gang, gang_size, times, now, in_flight) for name, gang in gangs.items())
    return tuple(sorted(replicas, key=lambda replica: (replica.created, replica.name)))


def _build_replica(
    name: str, gang: Sequence[Pod], gang_size: int, times: PodTimes, now: datetime, in_flight: Mapping[str, int]
) -> Replica:
    leader = min(gang, key=read_rank)
    labels = leader["metadata"]["labels"]
    record = read_record(leader["metadata"])
    state = _state_of_gang(gang, gang_size, now, record)
    failure, failed_at = _failure_of_gang(gang, now) if state is ReplicaState.FAILED else (None, now)
    withdrawn = record.for_successor() if record.is_withdrawn and state is ReplicaState.FAILED else None
    attempt = read_attempt(leader["metadata"])
    ran_stable = failure is not None and _ran_stable(gang)
    if ran_stable:
        attempt = 0
    return Replica(
        name=name,
        ordinal=int(name.rpartition("-")[2]),
        revision=labels.get(LABEL_REVISION, ""),
        state=state,
        created=_created(leader, now),
        was_ready=any(_was_ready(pod) for pod in gang),
        ready_at=_ready_at(gang) if state is ReplicaState.READY else None,
        in_flight=in_flight.get(leader["metadata"]["name"]),
        attempt=attempt,
        drain_started=_drain_started(gang),
        failure=failure,
        stuck=_first_stuck(gang, times, now) if state is ReplicaState.STARTING else None,
        retry_at=now if withdrawn else _retry_at(failure, failed_at, attempt, ran_stable=ran_stable),
        lost_at=max(_lost_times(gang), default=None),
        incomplete=len(gang) < gang_size and state is ReplicaState.STARTING,
        is_gated=state is ReplicaState.STARTING and all(is_gated(pod) for pod in gang),
        admitted=datetime.fromtimestamp(record.admitted_s, UTC) if record.admitted_s else None,
        withdrawn=withdrawn,
    )


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


def _state_of_gang(gang: Sequence[Pod], gang_size: int, now: datetime, record: QuotaRecord) -> ReplicaState:
    if any(is_lost(pod, now) for pod in gang):
        return ReplicaState.LOST
    if any("deletionTimestamp" in pod["metadata"] for pod in gang):
        return ReplicaState.TERMINATING
    if record.is_withdrawn or any(pod.get("status", {}).get("phase") in {"Failed", "Succeeded"} for pod in gang):
        return ReplicaState.FAILED
    if any(pod["metadata"]["labels"].get(LABEL_SERVING) == "false" for pod in gang):
        return ReplicaState.DRAINING
    if len(gang) == gang_size and all(_is_ready(pod) for pod in gang):
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


def _was_ready(pod: Pod) -> bool:
    """Whether the pod answered once: Ready changed after its engine had started."""
    condition = _ready_condition(pod)
    if condition.get("status") == "True":
        return True
    started, _ = _engine_times(pod)
    changed = read_time(condition.get("lastTransitionTime"))
    return started is not None and changed is not None and changed - started > timedelta(seconds=1)


def _ran_stable(gang: Sequence[Pod]) -> bool:
    for pod in gang:
        started, finished = _engine_times(pod)
        if started and finished and _was_ready(pod) and (finished - started).total_seconds() >= STABLE_S:
            return True
    return False


def _failure_of_gang(gang: Sequence[Pod], now: datetime) -> tuple[Failure | None, datetime]:
    for pod in gang:
        phase = pod.get("status", {}).get("phase")
        if phase == "Failed":
            return failure_of_finished_pod(pod), _failed_at(pod, now)
        if phase == "Succeeded":
            name = pod["metadata"]["name"]
            return build_failure(
                Reason.EngineCrashed, f"The engine of pod {name} ended without being asked."
            ), _failed_at(pod, now)
    return None, now


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
    # A pod was unscheduled all the time that it waited for its quota: only what came after counts.
    admitted_s = read_record(min(gang, key=read_rank)["metadata"]).admitted_s
    is_fresh = now.timestamp() - admitted_s < times.unschedulable_after_s
    for pod in gang:
        stuck = (
            (None if is_fresh else failure_of_unscheduled_pod(pod, now, times.unschedulable_after_s))
            or failure_of_waiting_pod(pod)
            or _failure_of_slow_start(pod, times, now)
        )
        if stuck is not None:
            return stuck
    return None


def _failure_of_slow_start(pod: Pod, times: PodTimes, now: datetime) -> Failure | None:
    """The engine runs but never answered, or does not even begin to run: the net below the worker's own deadline."""
    started, _ = _engine_times(pod)
    if started is None:
        return failure_of_slow_creation(pod, now, times.start_timeout_s, Reason.ReplicaFailed)
    if _was_ready(pod) or (now - started).total_seconds() < times.start_timeout_s:
        return None
    name = pod["metadata"]["name"]
    return build_failure(
        Reason.ReadinessNeverReached, f"Pod {name} runs since {started:%H:%M:%S} UTC without answering."
    )


def pods_to_retire(pods: Sequence[Pod], times: PodTimes, now: datetime) -> list[tuple[str, Failure]]:
    """Return pods that hold accelerators although they cannot start or their gang has failed, with the reason.

    An image that cannot be pulled and an engine that never answers would hold accelerators for ever: such a pod is
    ended (by a
    deadline of one second) and stays as the record of its failure, without accelerators, until its next attempt.
    """
    failed = {
        pod["metadata"]["labels"].get(LABEL_REPLICA): failure
        for pod in pods
        if (failure := _failure_of_gang((pod,), now)[0]) is not None
    }
    retired: list[tuple[str, Failure]] = []
    for pod in pods:
        if pod.get("status", {}).get("phase") not in {"Pending", "Running"} or "deletionTimestamp" in pod["metadata"]:
            continue
        if not pod.get("spec", {}).get("nodeName"):
            continue
        waiting = failure_of_waiting_pod(pod)
        age_s = (now - (read_time(pod.get("status", {}).get("startTime")) or now)).total_seconds()
        if waiting is None or age_s < times.image_pull_timeout_s:
            waiting = _failure_of_slow_start(pod, times, now)
        if failure := waiting or failed.get(pod["metadata"]["labels"].get(LABEL_REPLICA)):
            retired.append((pod["metadata"]["name"], failure))
    return retired
