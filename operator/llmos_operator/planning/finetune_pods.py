"""The pods of a FineTuneJob as they are: which attempt, where in its life, and how it ended. Pure.

How an end counts:

    complete, prepared      the worker said so and left with exit code 0
    preempted               the quota or Kueue wants the accelerators back: spends nobody's retries
    moved                   it never began: the quota admitted it to another class, for which the next one is made
    infrastructure          the pod was deleted, evicted, killed, lost with its node, found no node, or failed for a
                            reason that may pass (`back-off` in the table of reasons)
    user                    any other reason: it lies in the job or in what it refers to
    final                   the data or the checkpoints are what is wrong: trying again gives the same

A container that died by a signal and said nothing was killed by somebody; that is infrastructure, unless the kernel did
it for its memory limit.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal

from llmos.api.names import COMPONENT_PREPARE, COMPONENT_TRAIN, LABEL_COMPONENT, LABEL_REPLICA, LABEL_REVISION
from llmos.api.reasons import Reason
from llmos_operator.planning.failures import (
    Failure,
    build_failure,
    container_statuses,
    failure_of_finished_pod,
    failure_of_slow_creation,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_attempt,
    read_time,
)
from llmos_operator.planning.finetune_reports import Message, read_message
from llmos_operator.planning.gangs import PodTimes, has_finished, is_deleted, is_holding, is_lost
from llmos_operator.planning.kueue import is_stopped, waits_for_admission
from llmos_operator.planning.quota_pods import read_class, read_classes, read_rank, read_size
from llmos_operator.planning.quota_record import QuotaRecord, read_record

Pod = Mapping[str, Any]
EndKind = Literal["complete", "prepared", "preempted", "moved", "infrastructure", "user", "final"]

FINAL_REASONS: Final = frozenset(
    {
        Reason.DatasetInvalid,
        Reason.PersonalDataFound,
        Reason.ExamplesTooLong,
        Reason.NothingToLearn,
        Reason.CheckpointMismatch,
        Reason.TeacherMismatch,
    }
)
SHARDED: Final = "--sharded"
"""What a trainer that shards the model is started with."""
_SIGNALLED: Final = 128
_WORDS_OF_REPLICAS: Final = frozenset({Reason.EngineCrashed, Reason.ReplicaFailed})
_FAILED: Final = {COMPONENT_PREPARE: Reason.PreparationFailed, COMPONENT_TRAIN: Reason.TrainingFailed}


class PodState(Enum):
    """Where a pod is in its life."""

    WAITING = "waiting"
    """For its accelerators: it holds nothing."""
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    """It was deleted, and saves its work."""
    ENDED = "ended"


@dataclass(frozen=True)
class End:
    """How an attempt ended."""

    kind: EndKind
    failure: Failure | None = None


@dataclass(frozen=True)
class JobPod:
    """One pod of a job, or what stands for the gang of an attempt (`finetune_gangs`).

    `end` is set for a pod that ended, and for one that has to end: it may no longer go on (`must_go`).
    """

    component: str
    name: str
    uid: str
    number: int
    state: PodState
    end: End | None = None
    stuck: Failure | None = None
    must_go: bool = False
    is_lost: bool = False
    """Deleted long ago, and its node does not answer: only force removes it."""
    is_deleted: bool = False
    was_admitted: bool = False
    """Somebody gives out accelerators, and gave it some."""
    started_at: datetime | None = None
    """When its container started."""
    ended_at: datetime | None = None
    """When its container ended."""
    message: Message = field(default_factory=Message)
    gang: str = ""
    """Name of the attempt's gang."""
    rank: int = 0
    size: int = 1
    is_holding: bool = False
    """It has a node, and what it asks for there."""
    is_sharded: bool = False
    """It was made to hold its share of the model, whatever the spec says by now."""
    is_placed: bool = False
    """The quota ledger chose its node, and takes care that it is bound."""
    unbound: Failure | None = None
    """It has had no node for longer than others of its gang should hold theirs."""
    class_name: str = ""
    """AcceleratorClass that it was made for."""
    revision: str = ""
    """What its gang was begun with."""
    classes: tuple[str, ...] = ()
    """Those that the quota chooses among."""
    move: QuotaRecord | None = None
    """What the attempt that takes its place goes on from, while room of another class is kept for that."""
    members: tuple[JobPod, ...] = ()
    """The pods of the attempt."""
    missing: tuple[int, ...] = ()
    """Ranks of pods that are still to be made."""


def build_job_pods(
    pods: Iterable[Pod], *, times: PodTimes, now: datetime, superseded: Container[str] = ()
) -> tuple[JobPod, ...]:
    """Return the pods of one job, by number.

    Args:
        pods: observed pods of the job, of both components.
        times: when a slow start counts as a failure.
        now: the current time.
        superseded: names of pods that wait behind the gate of whoever is not in charge.
    """
    known = (pod for pod in pods if pod["metadata"]["labels"].get(LABEL_COMPONENT) in _FAILED)
    built = (_build_pod(pod, times, now, is_superseded=pod["metadata"]["name"] in superseded) for pod in known)
    return tuple(sorted(built, key=lambda pod: (pod.number, pod.rank, pod.name)))


def _build_pod(pod: Pod, times: PodTimes, now: datetime, *, is_superseded: bool) -> JobPod:
    metadata = pod["metadata"]
    component = metadata["labels"][LABEL_COMPONENT]
    state = _state_of(pod, component, now)
    message = read_message(_termination_text(pod, component))
    stuck = _find_stuck(pod, times, now) if state is PodState.STARTING else None
    started_at, ended_at = _read_times(pod, component)
    end = _end_of(pod, component, message, state) or _end_before_its_time(
        pod, times, now, state, is_superseded=is_superseded
    )
    return JobPod(
        component=component,
        name=metadata["name"],
        uid=metadata["uid"],
        number=read_attempt(metadata),
        state=state,
        end=end,
        stuck=stuck,
        must_go=end is not None and state is not PodState.ENDED,
        is_lost=is_lost(pod, now),
        is_deleted=is_deleted(pod),
        was_admitted=read_record(metadata).admitted_s > 0,
        started_at=started_at,
        ended_at=ended_at,
        message=message,
        gang=metadata["labels"].get(LABEL_REPLICA, metadata["name"]),
        rank=read_rank(pod),
        size=read_size((pod,)),
        is_holding=is_holding(pod),
        is_sharded=any(SHARDED in (each.get("command") or ()) for each in pod["spec"].get("containers", ())),
        is_placed=read_record(metadata).placement is not None,
        unbound=_find_unbound(pod, times, now) if state is PodState.STARTING else None,
        class_name=read_class(pod),
        revision=metadata["labels"].get(LABEL_REVISION, ""),
        classes=read_classes(pod),
        move=read_record(metadata) if end is not None and end.kind == "moved" else None,
    )


def _state_of(pod: Pod, component: str, now: datetime) -> PodState:
    if has_finished(pod) or is_lost(pod, now):
        return PodState.ENDED
    if is_deleted(pod):
        return PodState.STOPPING
    if waits_for_admission(pod):
        return PodState.WAITING
    return PodState.RUNNING if "running" in _container_state(pod, component) else PodState.STARTING


def _container_state(pod: Pod, name: str) -> Mapping[str, Any]:
    # Without a claim `prepare` is an init container, for what it made is then put into an object store.
    statuses = container_statuses(pod)
    state: Mapping[str, Any] = next((each.get("state") or {} for each in statuses if each.get("name") == name), {})
    return state


def _read_times(pod: Pod, name: str) -> tuple[datetime | None, datetime | None]:
    state = _container_state(pod, name)
    phase: Mapping[str, Any] = state.get("running") or state.get("terminated") or {}
    return read_time(phase.get("startedAt")), read_time(phase.get("finishedAt"))


def _termination_text(pod: Pod, component: str) -> str:
    terminated = _container_state(pod, component).get("terminated") or {}
    return str(terminated.get("message") or "")


def _find_unbound(pod: Pod, times: PodTimes, now: datetime) -> Failure | None:
    is_fresh = now.timestamp() - read_record(pod["metadata"]).admitted_s < times.bind_after_s
    return None if is_fresh else failure_of_unscheduled_pod(pod, now, times.bind_after_s)


def _end_of(pod: Pod, component: str, message: Message, state: PodState) -> End | None:
    """Return how a pod ended; None if it has not. What is complete is so, whoever asked the pod to go meanwhile."""
    if state is not PodState.ENDED:
        return None
    if pod.get("status", {}).get("phase") == "Succeeded":
        return _end_of_success(pod, component, message)
    if wanted_back := _wanted_back(pod):
        return wanted_back
    name = pod["metadata"]["name"]
    if not has_finished(pod):
        return End(
            "infrastructure", build_failure(Reason.NodeLost, f"Pod {name} did not end in time: its node is gone.")
        )
    if is_deleted(pod) or message.outcome == "stopped":
        return End("infrastructure", build_failure(Reason.NodeLost, f"Pod {name} was asked to end by somebody else."))
    return _classify(pod, component)


def _end_of_success(pod: Pod, component: str, message: Message) -> End | None:
    if component == COMPONENT_TRAIN and read_rank(pod) > 0:
        # It has done its part; rank 0 makes the result.
        return None
    if component == COMPONENT_PREPARE and message.outcome == "prepared" and message.dataset is not None:
        return End("prepared")
    if component == COMPONENT_TRAIN and message.outcome == "complete" and message.train.output_digest:
        return End("complete")
    detail = f"Pod {pod['metadata']['name']} ended well, but left no result that can be read."
    return End("infrastructure", build_failure(_FAILED[component], detail))


def _classify(pod: Pod, component: str) -> End:
    failure = failure_of_finished_pod(pod)
    if failure.reason in FINAL_REASONS:
        return End("final", failure)
    if failure.reason is Reason.OutOfMemory:
        return End("user", failure)
    if failure.reason not in _WORDS_OF_REPLICAS:
        # What says only that something went wrong in preparation may pass; in training it is the job's.
        return End("infrastructure" if failure.may_retry else "user", failure)
    words = failure.message.partition(" Read the ")[0]
    if pod.get("status", {}).get("reason") or _died_by_signal(pod):
        return End("infrastructure", build_failure(Reason.NodeLost, words))
    if component == COMPONENT_PREPARE:
        return End("infrastructure", build_failure(Reason.PreparationFailed, words))
    return End("user", build_failure(Reason.TrainingFailed, words))


def _died_by_signal(pod: Pod) -> bool:
    ends = (status.get("state", {}).get("terminated") or {} for status in container_statuses(pod))
    codes = [int(end.get("exitCode") or 0) for end in ends]
    bad = [code for code in codes if code != 0]
    return not bad or bad[0] > _SIGNALLED or bad[0] < 0


def _wanted_back(pod: Pod) -> End | None:
    record = read_record(pod["metadata"])
    if record.stop is not None:
        return End("preempted", build_failure(Reason.Preempted, f"{record.stop.for_id} takes its place."))
    if is_stopped(pod):
        return End("preempted", build_failure(Reason.Preempted, "Kueue takes its admission back."))
    return None


def _end_before_its_time(
    pod: Pod, times: PodTimes, now: datetime, state: PodState, *, is_superseded: bool
) -> End | None:
    """Return why a pod that has not ended may not go on; None if it may."""
    if state is PodState.ENDED:
        return None
    if wanted_back := _wanted_back(pod):
        return wanted_back
    name = pod["metadata"]["name"]
    if is_superseded:
        return End(
            "preempted", build_failure(Reason.Preempted, f"Pod {name} waits for who gives out nothing any more.")
        )
    if taken_back := _end_by_record(pod, state):
        return taken_back
    if state is PodState.STARTING and (failure := _failure_to_start(pod, times, now)):
        return End("infrastructure", failure)
    return None


def _end_by_record(pod: Pod, state: PodState) -> End | None:
    """Return that the ledger has no use for the pod; None if it has."""
    record, name = read_record(pod["metadata"]), pod["metadata"]["name"]
    if record.is_withdrawn:
        return End("infrastructure", build_failure(Reason.NotBoundInTime, f"Pod {name} was withdrawn."))
    is_moved = record.is_moved and record.placement is not None
    return End("moved") if is_moved and state is PodState.WAITING else None


def _failure_to_start(pod: Pod, times: PodTimes, now: datetime) -> Failure | None:
    """Return why a pod that holds accelerators will not begin to use them."""
    waiting = failure_of_waiting_pod(pod)
    started = read_time(pod.get("status", {}).get("startTime"))
    age_s = (now - started).total_seconds() if started else 0.0
    if waiting is not None and age_s >= times.image_pull_timeout_s:
        return _in_words_of_jobs(waiting)
    slow = failure_of_slow_creation(pod, now, times.start_timeout_s, Reason.ReplicaFailed)
    return _in_words_of_jobs(slow) if slow else None


def _find_stuck(pod: Pod, times: PodTimes, now: datetime) -> Failure | None:
    admitted_s = read_record(pod["metadata"]).admitted_s
    is_fresh = now.timestamp() - admitted_s < times.unschedulable_after_s
    unscheduled = None if is_fresh else failure_of_unscheduled_pod(pod, now, times.unschedulable_after_s)
    stuck = unscheduled or failure_of_waiting_pod(pod)
    return _in_words_of_jobs(stuck) if stuck else None


def _in_words_of_jobs(failure: Failure) -> Failure:
    if failure.reason not in _WORDS_OF_REPLICAS:
        return failure
    return Failure(Reason.NodeLost, failure.message)
