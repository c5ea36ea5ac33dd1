"""From observed pods to replicas: pods that carry the same replica label are one gang and live and die together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llmos.api.names import (
    ANNOTATION_ATTEMPT,
    ANNOTATION_DRAIN_STARTED,
    CONTAINER_ENGINE,
    LABEL_RANK,
    LABEL_REPLICA,
    LABEL_REVISION,
    LABEL_SERVING,
)
from llmos.api.reasons import Reason
from llmos_operator.planning.failures import (
    Failure,
    build_failure,
    failure_of_finished_pod,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_time,
)
from llmos_operator.planning.replicas import STABLE_S, Replica, ReplicaState, compute_backoff_s

Pod = Mapping[str, Any]

_GONE_AFTER = timedelta(seconds=5)
"""A deletionTimestamp lies at the end of the grace period; so much later the node must have lost the pod."""


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
        gangs.setdefault(pod["metadata"]["labels"][LABEL_REPLICA], []).append(pod)
    replicas = (_build_replica(name, gang, gang_size, times, now, in_flight) for name, gang in gangs.items())
    return tuple(sorted(replicas, key=lambda replica: (replica.created, replica.name)))


def _build_replica(
    name: str, gang: Sequence[Pod], gang_size: int, times: PodTimes, now: datetime, in_flight: Mapping[str, int]
) -> Replica:
    leader = min(gang, key=lambda pod: int(pod["metadata"]["labels"].get(LABEL_RANK, "0")))
    labels = leader["metadata"]["labels"]
    state = _state_of_gang(gang, gang_size, now)
    failure, failed_at = _failure_of_gang(gang) if state is ReplicaState.FAILED else (None, None)
    attempt = int(leader["metadata"].get("annotations", {}).get(ANNOTATION_ATTEMPT, "0"))
    if failure is not None and _ran_stable(gang):
        attempt = -1
    return Replica(
        name=name,
        ordinal=int(name.rsplit("-", 1)[-1]),
        revision=labels.get(LABEL_REVISION, ""),
        state=state,
        created=_created(leader, now),
        was_ready=any(_was_ready(pod) for pod in gang),
        in_flight=in_flight.get(leader["metadata"]["name"]),
        attempt=attempt,
        drain_started=read_time(leader["metadata"].get("annotations", {}).get(ANNOTATION_DRAIN_STARTED)),
        failure=failure,
        stuck=_first_stuck(gang, times, now) if state is ReplicaState.STARTING else None,
        retry_at=_retry_at(failure, failed_at or now, attempt),
        incomplete=len(gang) < gang_size and state is ReplicaState.STARTING,
    )


def _created(pod: Pod, now: datetime) -> datetime:
    return read_time(pod["metadata"].get("creationTimestamp")) or now


def _state_of_gang(gang: Sequence[Pod], gang_size: int, now: datetime) -> ReplicaState:
    deadlines = [
        read_time(pod["metadata"]["deletionTimestamp"]) for pod in gang if "deletionTimestamp" in pod["metadata"]
    ]
    if any(deadline is not None and now - deadline > _GONE_AFTER for deadline in deadlines):
        return ReplicaState.LOST
    if deadlines:
        return ReplicaState.TERMINATING
    if any(pod.get("status", {}).get("phase") in {"Failed", "Succeeded"} for pod in gang):
        return ReplicaState.FAILED
    if any(pod["metadata"]["labels"].get(LABEL_SERVING) == "false" for pod in gang):
        return ReplicaState.DRAINING
    if len(gang) == gang_size and all(_is_ready(pod) for pod in gang):
        return ReplicaState.READY
    return ReplicaState.STARTING


def _ready_condition(pod: Pod) -> Mapping[str, Any]:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "Ready":
            return dict(condition)
    return {}


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


def _failure_of_gang(gang: Sequence[Pod]) -> tuple[Failure, datetime | None]:
    for pod in gang:
        phase = pod.get("status", {}).get("phase")
        if phase == "Failed":
            return failure_of_finished_pod(pod), _failed_at(pod)
        if phase == "Succeeded":
            name = pod["metadata"]["name"]
            return build_failure(
                Reason.EngineCrashed, f"The engine of pod {name} ended without being asked."
            ), _failed_at(pod)
    raise ValueError("no pod of this gang has finished")


def _failed_at(pod: Pod) -> datetime | None:
    finished = [
        read_time(status.get("state", {}).get("terminated", {}).get("finishedAt"))
        for key in ("initContainerStatuses", "containerStatuses")
        for status in pod.get("status", {}).get(key, ())
    ]
    known = [moment for moment in finished if moment is not None]
    return max(known) if known else read_time(_ready_condition(pod).get("lastTransitionTime"))


def _retry_at(failure: Failure | None, failed_at: datetime, attempt: int) -> datetime | None:
    if failure is None or not failure.may_retry:
        return None
    if attempt < 0:
        return failed_at
    return failed_at + timedelta(seconds=compute_backoff_s(attempt + 1))


def _first_stuck(gang: Sequence[Pod], times: PodTimes, now: datetime) -> Failure | None:
    for pod in gang:
        stuck = (
            failure_of_unscheduled_pod(pod, now, times.unschedulable_after_s)
            or failure_of_waiting_pod(pod)
            or _failure_of_slow_start(pod, times, now)
        )
        if stuck is not None:
            return stuck
    return None


def _failure_of_slow_start(pod: Pod, times: PodTimes, now: datetime) -> Failure | None:
    """The engine runs but never answered: the worker's own deadline comes first, this one is the net below it."""
    started, _ = _engine_times(pod)
    if started is None or _was_ready(pod) or (now - started).total_seconds() < times.start_timeout_s:
        return None
    name = pod["metadata"]["name"]
    return build_failure(
        Reason.ReadinessNeverReached, f"Pod {name} runs since {started:%H:%M:%S} UTC without answering."
    )


def pods_to_retire(gang: Iterable[Pod], times: PodTimes, now: datetime) -> list[tuple[str, Failure]]:
    """Return pods that hold accelerators although they cannot start, with the reason.

    An image that cannot be pulled and an engine that never answers would hold accelerators for ever: such a pod is
    ended (by a
    deadline of one second) and stays as the record of its failure, without accelerators, until its next attempt.
    """
    retired: list[tuple[str, Failure]] = []
    for pod in gang:
        if pod.get("status", {}).get("phase") not in {"Pending", "Running"} or "deletionTimestamp" in pod["metadata"]:
            continue
        if not pod.get("spec", {}).get("nodeName"):
            continue
        waiting = failure_of_waiting_pod(pod)
        age_s = (now - (read_time(pod.get("status", {}).get("startTime")) or now)).total_seconds()
        if waiting is not None and age_s >= times.image_pull_timeout_s:
            retired.append((pod["metadata"]["name"], waiting))
        elif (slow := _failure_of_slow_start(pod, times, now)) is not None:
            retired.append((pod["metadata"]["name"], slow))
    return retired
