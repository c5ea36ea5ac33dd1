"""What should be true of a FineTuneJob now: a plan from what is observed, stateless and pure.

    base model and class known, memory enough -> prepare pod -> dataset report -> train pod (waits for its quota)
      -> result and numbers -> gates -> LLMModel

- There is at most one attempt that may run: one pod, or the gang of `trainer.nodes` pods (`finetune_gangs`). The next
  one is made when all of the one before has ended.
- Dataset, counts, result and failures stand in the status (`finetune_record`), which is written before any pod is
  deleted. A pod that ended is kept for `kubectl logs`: a failed one until the next attempt is made, a complete one
  until the LLMModel is there.
- Preemption and suspension delete the pod: its grace period is the deadline for a last checkpoint. They spend no
  retries, and there is no pause after them. Losses of infrastructure and errors of the job are tried again, after
  min(10 s x 2^(n-1), 300 s) for the n-th, as often as `retries` says.
- The digests of base model and teacher are pinned before anything is made. With others no attempt begins, and no
  adapter of another base is registered.
- What ended the job for good (bad data, a checkpoint that does not match) stays so. Whatever else stopped it is judged
  anew from the spec with each pass: more retries or another gate let it go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from llmos.api import AcceleratorClass, FineTuneJob, GateVerdict, InferencePool, LLMModel, Reason
from llmos.api.job_reasons import say_for_job
from llmos.api.names import COMPONENT_PREPARE, COMPONENT_TRAIN, CPU_CLASS
from llmos_operator.planning.classes import Choice, refuse_unknown
from llmos_operator.planning.failures import Failure, build_failure, name_model
from llmos_operator.planning.finetune_canary import NOTHING, CanaryPlan
from llmos_operator.planning.finetune_classes import (
    Chooser,
    Target,
    choose_job_classes,
    end_stranded,
    find_class_warnings,
    find_kept,
    find_moved,
    plan_target,
)
from llmos_operator.planning.finetune_gangs import build_attempts, end_outdated
from llmos_operator.planning.finetune_gates import all_passed, judge_gates
from llmos_operator.planning.finetune_history import count_failures_in_vain
from llmos_operator.planning.finetune_memory import refuse_memory, should_shard
from llmos_operator.planning.finetune_models import CHANGED, architecture_of, digest_of, refuse_base, refuse_teacher
from llmos_operator.planning.finetune_pods import FINAL_REASONS, JobPod, PodState
from llmos_operator.planning.finetune_record import LIVE, Record, find_live, read_record, update_record
from llmos_operator.planning.finetune_reports import TrainReport
from llmos_operator.planning.finetune_warnings import find_attach_warnings, find_warnings, shorten
from llmos_operator.planning.replicas import compute_backoff_s

Phase = Literal[
    "Pending", "Preparing", "Queued", "Training", "Evaluating", "Suspended", "Canary", "Succeeded", "Failed"
]
Ownership = Literal["absent", "ours", "taken"]

PROGRESS_S: Final = 5.0
"""The log of a running attempt is read so often."""
PREPARE_S: Final = 60.0
"""The same of one that prepares the dataset: only whether it goes on is looked for."""
START_S: Final = 10.0
END_S: Final = 15.0
OBSTACLE_S: Final = 15.0
SOON_S: Final = 0.1
_WITHOUT_PAUSE: Final = frozenset({Reason.Preempted, Reason.Suspended, *CHANGED})


@dataclass(frozen=True)
class Sight:
    """Everything that was observed of a job."""

    job: FineTuneJob
    now: datetime
    pods: tuple[JobPod, ...] = ()
    base: LLMModel | None = None
    teacher: LLMModel | None = None
    """For task distill."""
    classes: tuple[AcceleratorClass, ...] = ()
    """Those that the job names, as far as they exist and can be read, the preferred one first."""
    unreadable: Mapping[str, Failure] = field(default_factory=dict)
    """Why other classes that it names cannot be read, by name."""
    unreadable_models: Mapping[str, Failure] = field(default_factory=dict)
    """Why the base or the teacher cannot be read though it is there, by name."""
    chooser: Chooser = "ledger"
    live: TrainReport | None = None
    """The newest progress line of the running attempt."""
    unheard: str = ""
    """Why the log of the running attempt could not be read."""
    pools: tuple[InferencePool, ...] = ()
    """Those of `output.attachTo` that are there and can be read."""
    output: Ownership = "absent"
    """Whose the LLMModel of the output's name is."""
    obstacle: Failure | None = None
    """Why nothing may be made here: the tenant is not kept apart."""
    foreign: Failure | None = None
    """What has a name that the job needs and is not the job's."""
    is_work_lost: bool = False
    """The claim was there and is gone, with all that was in it."""
    waits: Failure | None = None
    """Why the attempt waits for its accelerators, as far as anybody told."""
    outdated: int = 0
    """Number of an attempt that cannot be completed: pods are made otherwise now than those that it has."""


@dataclass(frozen=True)
class NewPod:
    """A pod to make, or pods of a gang."""

    component: str
    number: int
    size: int = 1
    """Pods of the whole gang."""
    ranks: tuple[int, ...] = (0,)
    """Which of them to make."""
    is_sharded: bool = False
    """Each holds its share of the model."""
    target: Target | None = None
    """What a train pod is made for; None: the first class that the job names."""


@dataclass(frozen=True)
class JobPlan:
    """What to do now, in this order: make, register, write the status, delete."""

    record: Record
    phase: Phase
    failure: Failure | None = None
    """What keeps the job from going on, or ended it."""
    live: JobPod | None = None
    is_evaluating: bool = False
    gates: tuple[GateVerdict, ...] = ()
    create: NewPod | None = None
    needs_files: bool = False
    """Claim and ConfigMap are to exist."""
    register: bool = False
    told: str = ""
    """How far training is, in words, where it is not one attempt that trains."""
    rollout: CanaryPlan = NOTHING
    """How the result takes the place of other adapters."""
    delete: tuple[JobPod, ...] = ()
    attach_warnings: tuple[str, ...] = ()
    """Why pools will not load the adapter."""
    warnings: tuple[str, ...] = ()
    """What else will not act as the spec says."""
    look_again_s: float | None = None


def plan_job(sight: Sight) -> JobPlan:
    """Return the next step of a job."""
    status = sight.job.status
    is_evaluating = sight.live.is_evaluating if sight.live else status.phase == "Evaluating"
    attempts = build_attempts(sight.pods, noted=status.attempt, now=sight.now, is_evaluating=is_evaluating)
    sight = replace(sight, pods=end_outdated(end_stranded(attempts, choose_classes_of(sight)), sight.outdated))
    record = update_record(read_record(sight.job), sight.job, sight.pods, sight.live, sight.now)
    if sight.is_work_lost and not record.is_trained:
        record = replace(record, dataset=None, progress=None, last_checkpoint=None, evaluations=())
    plan = _plan_step(sight, record)
    return replace(
        plan,
        record=replace(plan.record, failure=_in_words_of_jobs(sight.job, plan.record.failure)),
        failure=_in_words_of_jobs(sight.job, plan.failure),
        attach_warnings=find_attach_warnings(sight.job, sight.pools),
        warnings=_find_warnings(plan, sight),
        delete=_plan_deletions(plan, sight.pods),
        look_again_s=_next_look_s(plan, sight),
    )


def _in_words_of_jobs(job: FineTuneJob, failure: Failure | None) -> Failure | None:
    """What models and pools share with jobs was put into words for them."""
    if failure is None:
        return None
    said = Failure(failure.reason, say_for_job(failure.reason, failure.message))
    return name_model(said, job.spec.base_model_ref.name)


def _find_warnings(plan: JobPlan, sight: Sight) -> tuple[str, ...]:
    """Return what does not act in a run that is not over."""
    if plan.record.is_trained or plan.phase == "Failed":
        return ()
    progress = plan.record.progress
    steps = progress.total_steps if progress else 0
    is_running = plan.live is not None and plan.live.component == COMPONENT_TRAIN
    silent = None if is_running else ""
    trouble, unsaved = (sight.live.storage_trouble, sight.live.checkpoint_trouble) if sight.live else (silent, silent)
    left_out = find_class_warnings(sight.job, choose_classes_of(sight), sight.chooser)
    found = find_warnings(sight.job, total_steps=steps, unheard=sight.unheard, trouble=trouble, unsaved=unsaved)
    return (*shorten(left_out), *found)


def with_rollout(plan: JobPlan, rollout: CanaryPlan) -> JobPlan:
    """Return the plan of a job whose result also takes the place of other adapters."""
    if plan.phase != "Succeeded" or rollout == NOTHING:
        return plan
    phase: Phase = "Canary" if not rollout.is_over else "Failed" if rollout.regressed is not None else "Succeeded"
    looks = (look for look in (plan.look_again_s, rollout.look_again_s) if look is not None)
    return replace(plan, phase=phase, rollout=rollout, look_again_s=min(looks, default=None))


def _plan_step(sight: Sight, record: Record) -> JobPlan:
    if record.is_registered:
        evaluation = sight.job.status.evaluation
        return JobPlan(record, "Succeeded", gates=evaluation.gates if evaluation is not None else ())
    if record.is_trained:
        return _plan_output(sight, record)
    if over := _find_end(sight.job, record):
        return JobPlan(replace(record, failure=over), "Failed", over)
    live = find_live(record, sight.pods)
    if live is not None and not sight.job.spec.suspend:
        return _plan_live(sight, record, live)
    return _plan_attempt(sight, record)


def _plan_output(sight: Sight, record: Record) -> JobPlan:
    gates = judge_gates(sight.job.spec.evaluate.gates, record.metrics)
    if sight.is_work_lost:
        words = f"Claim {sight.job.status.claim_name} is gone, and the result that lay in it."
        return JobPlan(record, "Failed", build_failure(Reason.TrainingFailed, words), gates=gates)
    if not all_passed(gates):
        broken = " ".join(verdict.message for verdict in gates if not verdict.passed)
        return JobPlan(record, "Failed", build_failure(Reason.GateFailed, broken), gates=gates)
    if sight.output == "taken":
        name = sight.job.spec.output.name
        failure = build_failure(Reason.OutputNameTaken, f"LLMModel {name} is not this job's.")
        return JobPlan(record, "Failed", failure, gates=gates)
    if sight.foreign is not None:
        # A claim of that name which is not the job's holds no result of the job.
        return JobPlan(record, "Evaluating", sight.foreign, gates=gates)
    if sight.job.spec.makes_adapter and (changed := _refuse_base(sight, record)):
        phase: Phase = "Failed" if changed.reason in CHANGED else "Evaluating"
        return JobPlan(record, phase, changed, gates=gates)
    return JobPlan(replace(record, is_registered=True), "Succeeded", gates=gates, needs_files=True, register=True)


def _find_end(job: FineTuneJob, record: Record) -> Failure | None:
    """Return why no attempt is made any more; None if one may be."""
    attempts, retries, failure = record.attempts, job.spec.retries, record.failure
    if failure is not None and failure.reason in FINAL_REASONS:
        return failure
    is_user_over = attempts.user > retries.user
    if not is_user_over and attempts.infrastructure <= retries.infrastructure:
        return None
    if failure is None:
        return build_failure(Reason.RetriesExhausted)
    if failure.reason is Reason.RetriesExhausted or (is_user_over and retries.user == 0):
        return failure
    return build_failure(Reason.RetriesExhausted, f"The last cause: {failure.message}")


def _plan_live(sight: Sight, record: Record, live: JobPod) -> JobPlan:
    if live.component == COMPONENT_PREPARE:
        record = replace(record, prepare_attempt=live.number, failure=live.stuck)
        return JobPlan(record, "Preparing", live.stuck, live, needs_files=True)
    record = replace(record, attempt=live.number, failure=live.stuck)
    if live.missing:
        return _plan_completion(sight, record, live)
    if live.state is PodState.WAITING:
        return JobPlan(record, "Queued", sight.waits, live, needs_files=True)
    status = sight.job.status
    is_same = live.number == status.attempt and status.phase == "Evaluating"
    is_evaluating = live.state is PodState.RUNNING and (sight.live.is_evaluating if sight.live else is_same)
    phase: Phase = "Evaluating" if is_evaluating else "Training"
    return JobPlan(record, phase, live.stuck, live, is_evaluating=is_evaluating, needs_files=True)


def _plan_completion(sight: Sight, record: Record, live: JobPod) -> JobPlan:
    """Plan the rest of a gang that an operator was killed while making."""
    phase: Phase = "Training" if _is_on_cpu(sight.job) else "Queued"
    models = _refuse_base(sight, record) or _refuse_teacher(sight, record)
    if failure := models or _refuse_class(sight, live.class_name):
        # An attempt that is noted was made in full: what it lacks would count as lost.
        record = replace(record, attempt=sight.job.status.attempt)
        return JobPlan(record, phase, failure, live, needs_files=True)
    # Ranks that hold the model in different ways would fail, and that would be taken for an error of the job.
    now_s = sight.now.timestamp()
    target = Target(live.class_name, live.classes if len(live.classes) > 1 else (), find_kept(sight.pods, live, now_s))
    rest = NewPod(COMPONENT_TRAIN, live.number, live.size, live.missing, is_sharded=live.is_sharded, target=target)
    return JobPlan(record, phase, live.stuck, live, create=rest, needs_files=True)


def _plan_attempt(sight: Sight, record: Record) -> JobPlan:
    """Plan the next attempt, unless something is in its way."""
    job = sight.job
    if job.spec.suspend:
        paused = Failure(Reason.Suspended, build_failure(Reason.Suspended).message)
        return JobPlan(replace(record, failure=paused), "Suspended", paused)
    # One that moved waits until the next one has taken its place.
    if any(pod.state is not PodState.ENDED or pod.is_lost for pod in sight.pods if pod.move is None):
        return JobPlan(record, "Pending", record.failure)
    if failure := sight.obstacle or sight.foreign or _refuse(sight, record):
        phase: Phase = "Failed" if failure.reason in CHANGED else "Pending"
        return JobPlan(replace(record, failure=failure) if phase == "Failed" else record, phase, failure)
    if _pause_s(record, sight.now) > 0:
        return JobPlan(record, "Pending", record.failure)
    if record.is_new_end or not record.base_digest:
        # What the next attempt rests on is written before it is made: whoever is killed in between goes on with it.
        pinned = replace(
            record,
            base_digest=record.base_digest or digest_of(sight.base),
            teacher_digest=record.teacher_digest or digest_of(sight.teacher),
        )
        return JobPlan(pinned, "Pending", record.failure)
    return _plan_new(sight, record)


def _plan_new(sight: Sight, record: Record) -> JobPlan:
    job = sight.job
    number, size = record.counted + 1, job.spec.trainer.nodes
    if not record.is_prepared:
        new = NewPod(COMPONENT_PREPARE, number)
        record = replace(record, prepare_attempt=number, failure=None)
        return JobPlan(record, "Preparing", create=new, needs_files=True)
    choice = choose_classes_of(sight)
    target = plan_target(job, choice, sight.chooser, find_moved(sight.pods), sight.now.timestamp())
    is_sharded = _is_sharded(sight, choice.find(target.class_name))
    new = NewPod(COMPONENT_TRAIN, number, size, tuple(range(size)), is_sharded=is_sharded, target=target)
    record = replace(record, attempt=number, failure=None)
    return JobPlan(record, "Training" if _is_on_cpu(job) else "Queued", create=new, needs_files=True)


def choose_classes_of(sight: Sight) -> Choice:
    """Return which of the job's classes will do."""
    # What a model needs is not known while it cannot be read: what waits stays where it is.
    if sight.base is None or (sight.job.spec.method.distill is not None and sight.teacher is None):
        return Choice()
    return choose_job_classes(sight.job, sight.classes, sight.base, sight.teacher, sight.unreadable)


def find_class(sight: Sight, target: Target | None) -> AcceleratorClass | None:
    """Return the class that a pod is made for; None on the processor."""
    name = sight.job.spec.trainer.accelerator.class_name if target is None else target.class_name
    return next((each for each in sight.classes if each.metadata.name == name), None)


def _refuse_class(sight: Sight, name: str) -> Failure | None:
    """Return why no pod can be made for a class; None if one can."""
    if name in ("", CPU_CLASS) or any(each.metadata.name == name for each in sight.classes):
        return None
    return sight.unreadable.get(name) or refuse_unknown(name)


def _is_sharded(sight: Sight, accelerator: AcceleratorClass | None) -> bool:
    return sight.base is not None and should_shard(sight.job.spec, sight.base, accelerator, sight.teacher)


def _refuse(sight: Sight, record: Record) -> Failure | None:
    """Return what can be known to stop an attempt before it is made."""
    failure = _refuse_base(sight, record) or _refuse_teacher(sight, record)
    if failure is not None:
        return failure
    if sight.base is None:
        return None
    on_any = refuse_memory(sight.job.spec, sight.base, None, sight.teacher)
    return on_any or choose_classes_of(sight).refusal


def _refuse_base(sight: Sight, record: Record) -> Failure | None:
    name = sight.job.spec.base_model_ref.name
    return sight.unreadable_models.get(name) or refuse_base(sight.job, sight.base, record.base_digest)


def _refuse_teacher(sight: Sight, record: Record) -> Failure | None:
    distill = sight.job.spec.method.distill
    if distill is not None and (failure := sight.unreadable_models.get(distill.teacher_ref.name)):
        return failure
    return refuse_teacher(sight.job, sight.teacher, record.teacher_digest, architecture_of(sight.base))


def _is_on_cpu(job: FineTuneJob) -> bool:
    return job.spec.trainer.accelerator.class_name == CPU_CLASS


def _pause_s(record: Record, now: datetime) -> float:
    """Return how long the next attempt has to wait after the last one failed."""
    if record.failure is None or record.failure.reason in _WITHOUT_PAUSE:
        return 0.0
    pause_s = compute_backoff_s(count_failures_in_vain(record.history))
    failed_at = now if record.is_new_end or record.failed_at is None else record.failed_at
    return (failed_at + timedelta(seconds=pause_s) - now).total_seconds()


def _plan_deletions(plan: JobPlan, pods: Iterable[JobPod]) -> tuple[JobPod, ...]:
    """Return pods that are to be deleted, once the status is written."""
    each = ((pod, member) for pod in pods for member in pod.members)
    return tuple(
        member for pod, member in each if (member.is_lost or not member.is_deleted) and _has_to_go(plan, pod, member)
    )


def _has_to_go(plan: JobPlan, pod: JobPod, member: JobPod) -> bool:
    """Whether a member of an attempt's gang, or its only pod, is to be deleted."""
    if member.is_lost:
        return True
    if pod.move is not None:
        # It keeps the room for the one that is made next, also while that one's making is refused, and paused after it.
        is_paused = plan.failure is None or plan.failure == plan.record.failure
        return plan.phase != "Pending" or not is_paused
    if member.state in LIVE:
        return plan.live is None or pod.name != plan.live.name
    if pod.state is not PodState.ENDED:
        return False
    is_failed = pod.end is not None and pod.end.failure is not None
    if is_failed:
        # The record of the last failure stays until something new is made.
        is_last = pod.number == plan.record.counted
        return plan.create is not None or plan.live is not None or plan.phase == "Succeeded" or not is_last
    return plan.phase == "Succeeded" or (pod.component == COMPONENT_PREPARE and plan.record.is_prepared)


def keep_moved(plan: JobPlan) -> JobPlan:
    """Return the plan of a job whose next attempt was refused: the one that moved keeps the room for it."""
    kept = {pod.number for pod in plan.delete if pod.move is not None} if plan.create is not None else set()
    return replace(plan, delete=tuple(pod for pod in plan.delete if pod.number not in kept))


def _next_look_s(plan: JobPlan, sight: Sight) -> float | None:
    looks: list[float] = []
    if plan.live is not None and plan.live.state is PodState.RUNNING:
        looks.append(PROGRESS_S if plan.live.component == COMPONENT_TRAIN else PREPARE_S)
    if plan.create is not None or (plan.live is not None and plan.live.state is PodState.STARTING):
        looks.append(START_S)
    if plan.delete or any(pod.state is PodState.STOPPING for pod in sight.pods):
        looks.append(END_S)
    if plan.failure is not None and plan.failure in {sight.obstacle, sight.foreign}:
        looks.append(OBSTACLE_S)
    if plan.record.base_digest != sight.job.status.base_digest or (plan.record.is_new_end and plan.phase == "Pending"):
        looks.append(SOON_S)
    if plan.phase == "Pending" and (pause_s := _pause_s(plan.record, sight.now)) > 0:
        looks.append(pause_s)
    return min(looks, default=None)
