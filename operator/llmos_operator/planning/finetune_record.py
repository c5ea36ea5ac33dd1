"""What is known of a FineTuneJob, carried from its status and its pods to its next status. Pure.

All memory is in objects. Attempts are numbered from 1 on, and each that ended without a result is counted once, under
why; so the sum of the counts is the number of the last attempt that was counted:

    pod number <= user + infrastructure + preemptions + moves   it was counted
    status.attempt > that sum, and there is no such pod its pod vanished before anybody saw it end: it is lost
    status.prepareAttempt, in the same way              as long as the dataset is not prepared

An attempt that is asked to go (by the quota, by suspension) is counted when it is asked, in the status that is written
before its pod is deleted. So whatever becomes of the pod, and whenever the operator is killed, nothing counts twice,
and a preemption never counts as a loss. What such an attempt still says before it ends is heard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from llmos.api import (
    Attempts,
    CheckpointStatus,
    DatasetReport,
    EndedAttempt,
    FineTuneJob,
    MetricComparison,
    TrainingMetrics,
    TrainingProgress,
)
from llmos.api.names import (
    COMPONENT_PREPARE,
    COMPONENT_TRAIN,
    CONDITION_DATASET_READY,
    CONDITION_REGISTERED,
    CONDITION_TRAINED,
)
from llmos.api.reasons import REASONS, Reason
from llmos_operator.planning.conditions import find_fact
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.finetune_history import extend_history
from llmos_operator.planning.finetune_pods import End, JobPod, PodState
from llmos_operator.planning.finetune_reports import TrainReport

MOST_EVALUATIONS = 20
_COUNTED_AS = {"preempted": "preemptions", "infrastructure": "infrastructure", "moved": "moves"}
LIVE = frozenset({PodState.WAITING, PodState.STARTING, PodState.RUNNING})


@dataclass(frozen=True)
class Record:
    """What is known of a job."""

    base_digest: str = ""
    teacher_digest: str = ""
    dataset: DatasetReport | None = None
    progress: TrainingProgress | None = None
    evaluations: tuple[TrainingMetrics, ...] = ()
    last_checkpoint: CheckpointStatus | None = None
    attempts: Attempts = field(default_factory=Attempts)
    attempt: int = 0
    prepare_attempt: int = 0
    history: tuple[EndedAttempt, ...] = ()
    lost_accelerator_seconds: float = 0.0
    metrics: tuple[MetricComparison, ...] = ()
    output_digest: str = ""
    is_registered: bool = False
    failure: Failure | None = None
    """Why the last attempt ended without a result, or none may be made; None while one goes on."""
    failed_at: datetime | None = None
    is_new_end: bool = False
    """An attempt was counted in this pass."""

    @property
    def counted(self) -> int:
        """Number of the last attempt that was counted."""
        ended = self.attempts
        return ended.user + ended.infrastructure + ended.preemptions + (ended.moves or 0)

    @property
    def is_prepared(self) -> bool:
        """Whether the dataset gate was passed."""
        return self.dataset is not None

    @property
    def is_trained(self) -> bool:
        """Whether there is a result."""
        return bool(self.output_digest)


def read_record(job: FineTuneJob) -> Record:
    """Return what the status of a job remembers."""
    status = job.status
    stage = CONDITION_TRAINED if status.dataset_report is not None else CONDITION_DATASET_READY
    condition = next((each for each in status.conditions if each.type == stage), None)
    fact = find_fact(stage, status.conditions)
    is_failed = fact is not None and fact.status == "False" and (REASONS[fact.reason].problem or _is_pause(fact.reason))
    registered = find_fact(CONDITION_REGISTERED, status.conditions)
    return Record(
        base_digest=status.base_digest,
        teacher_digest=status.teacher_digest,
        dataset=status.dataset_report,
        progress=status.progress,
        evaluations=status.metrics,
        last_checkpoint=status.last_checkpoint,
        attempts=status.attempts,
        attempt=status.attempt,
        prepare_attempt=status.prepare_attempt,
        history=status.history,
        lost_accelerator_seconds=status.lost_accelerator_seconds,
        metrics=status.evaluation.metrics if status.evaluation else (),
        output_digest=status.output.digest if status.output else "",
        is_registered=registered is not None and registered.status == "True",
        failure=Failure(fact.reason, fact.message) if fact is not None and is_failed else None,
        failed_at=condition.last_transition_time if condition is not None and is_failed else None,
    )


def update_record(
    record: Record, job: FineTuneJob, pods: Iterable[JobPod], live: TrainReport | None, now: datetime
) -> Record:
    """Take in what the pods show: results, ends that were not counted yet, and how far the running one is."""
    pods = tuple(pods)
    for pod in pods:
        record = _hear(record, pod.message.train if pod.component == COMPONENT_TRAIN else None)
        record = _take_result(record, pod)
    for pod in pods:
        end = pod.end or _end_of_suspension(job, pod)
        is_failed = end is not None and (end.failure is not None or end.kind == "moved")
        is_open = is_failed and pod.number > record.counted
        if end is not None and is_open and not (pod.component == COMPONENT_TRAIN and record.is_trained):
            record = _count(record, end, pod, now)
    for vanished in _find_vanished(record, pods):
        end = End("infrastructure", build_failure(Reason.NodeLost, f"The pod of attempt {vanished.number} is gone."))
        record = _count(record, end, vanished, now)
    return _hear(record, live)


def _find_vanished(record: Record, pods: tuple[JobPod, ...]) -> tuple[JobPod, ...]:
    """Return the pods that were made, did not end before anybody's eyes, and are not there."""
    under_way = {
        COMPONENT_PREPARE: 0 if record.is_prepared else record.prepare_attempt,
        COMPONENT_TRAIN: 0 if record.is_trained else record.attempt,
    }
    there = {(pod.component, pod.number) for pod in pods}
    return tuple(
        JobPod(component, name="", uid="", number=number, state=PodState.ENDED)
        for component, number in under_way.items()
        if number > record.counted and (component, number) not in there
    )


def find_live(record: Record, pods: Iterable[JobPod]) -> JobPod | None:
    """Return the pod of the attempt that goes on, None if none does."""
    stage = COMPONENT_TRAIN if record.is_prepared else COMPONENT_PREPARE
    going_on = (p for p in pods if p.component == stage and p.state in LIVE and not p.must_go)
    return next((pod for pod in going_on if pod.number > record.counted), None)


def _is_pause(reason: Reason) -> bool:
    return reason in {Reason.Suspended, Reason.Preempted}


def _end_of_suspension(job: FineTuneJob, pod: JobPod) -> End | None:
    if not job.spec.suspend or pod.state not in LIVE:
        return None
    return End("preempted", Failure(Reason.Suspended, REASONS[Reason.Suspended].cause))


def _take_result(record: Record, pod: JobPod) -> Record:
    if pod.end is None:
        return record
    if pod.end.kind == "prepared" and not record.is_prepared:
        return replace(record, dataset=pod.message.dataset, prepare_attempt=0, failure=None, failed_at=None)
    if pod.end.kind == "complete" and not record.is_trained:
        train = pod.message.train
        return replace(record, metrics=train.metrics, output_digest=train.output_digest, failure=None, failed_at=None)
    return record


def _count(record: Record, end: End, pod: JobPod, now: datetime) -> Record:
    attempts = record.attempts
    name = _COUNTED_AS.get(end.kind, "user")
    counted = attempts.model_copy(update={name: (getattr(attempts, name) or 0) + 1})
    is_train = pod.component == COMPONENT_TRAIN
    step = record.progress.step if is_train and record.progress is not None else None
    return replace(
        record,
        attempts=counted,
        attempt=max(pod.number, record.attempt) if is_train else record.attempt,
        history=extend_history(record.history, end, pod, step=step, now=now),
        failure=end.failure,
        failed_at=None,
        is_new_end=True,
    )


def _merge(known: tuple[TrainingMetrics, ...], report: TrainReport) -> tuple[TrainingMetrics, ...]:
    """Return the newest evaluations by step. One that was done again after a kill takes the place of the former.

    Where a run went back to an older checkpoint, those of higher steps than it has reached are of work that is lost.
    """
    reached = report.progress.step if report.progress is not None else math.inf
    by_step = {each.step: each for each in (*(each for each in known if each.step <= reached), *report.evaluations)}
    return tuple(by_step[step] for step in sorted(by_step))[-MOST_EVALUATIONS:]


def _hear(record: Record, report: TrainReport | None) -> Record:
    if report is None:
        return record
    lost = report.lost_accelerator_seconds
    return replace(
        record,
        progress=report.progress or record.progress,
        evaluations=_merge(record.evaluations, report),
        last_checkpoint=report.last_checkpoint or record.last_checkpoint,
        lost_accelerator_seconds=record.lost_accelerator_seconds if lost is None else lost,
    )
