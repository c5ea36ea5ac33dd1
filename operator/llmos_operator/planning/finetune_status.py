"""The status of a FineTuneJob, in conditions and numbers, from its plan. Pure.

A condition is True when its step is done, False when something is wrong or was taken back, and Unknown while it goes on
or is still to come. Ready repeats the one that counts now, so that each step is one Event.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from llmos.api import (
    CheckpointStatus,
    Condition,
    DatasetReport,
    Evaluation,
    FineTuneJob,
    FineTuneJobStatus,
    LocalReference,
    OutputStatus,
    Reason,
)
from llmos.api.job_reasons import say_for_job
from llmos.api.names import (
    COMPONENT_PREPARE,
    COMPONENT_TRAIN,
    CONDITION_ADMITTED,
    CONDITION_DATASET_READY,
    CONDITION_EVALUATED,
    CONDITION_READY,
    CONDITION_REGISTERED,
    CONDITION_TRAINED,
    WORK_DIR,
)
from llmos_operator.planning.conditions import Fact, build_conditions, is_false, is_true, is_unknown
from llmos_operator.planning.failures import Failure, describe
from llmos_operator.planning.finetune import JobPlan
from llmos_operator.planning.finetune_canary import build_promoted_fact
from llmos_operator.planning.finetune_places import find_output_uri
from llmos_operator.planning.finetune_pods import PodState
from llmos_operator.planning.finetune_search import NO_SEARCH, SearchPlan


def build_job_status(
    job: FineTuneJob,
    plan: JobPlan,
    *,
    claim_name: str,
    refused: Failure | None,
    now: datetime,
    search: SearchPlan = NO_SEARCH,
) -> FineTuneJobStatus:
    """Return the status of `job`.

    Args:
        job: the object as it was read.
        plan: what was planned in this pass.
        claim_name: name of the job's claim; empty if it does not exist.
        refused: what the API server refused in this pass, if anything; then nothing new was made.
        now: the current time.
        search: what was planned about trials.
    """
    if refused is not None:
        search = _without_new_pods(search)
        words = say_for_job(refused.reason, refused.message)
        plan = _as_refused(job, plan, Failure(refused.reason, words))
    record, is_over = plan.record, plan.phase in {"Succeeded", "Failed"}
    moment = now.replace(microsecond=0)
    return FineTuneJobStatus(
        observed_generation=job.metadata.generation,
        phase=plan.phase,
        base_digest=record.base_digest,
        teacher_digest=record.teacher_digest,
        claim_name=claim_name,
        dataset_report=record.dataset,
        progress=record.progress,
        metrics=record.evaluations,
        last_checkpoint=_name_claim(record.last_checkpoint, claim_name),
        attempt=record.attempt,
        accelerator_class=_find_class(plan) or job.status.accelerator_class,
        attempts=record.attempts,
        prepare_attempt=record.prepare_attempt,
        history=record.history,
        lost_accelerator_seconds=record.lost_accelerator_seconds,
        evaluation=Evaluation(metrics=record.metrics, gates=plan.gates)
        if record.is_trained or record.metrics
        else None,
        output=_build_output(job, plan, claim_name, search.best),
        trials=search.trials,
        best_trial=search.best,
        canaries=plan.rollout.canaries,
        start_time=job.status.start_time or moment,
        completion_time=(job.status.completion_time or moment) if is_over else None,
        warnings=(*plan.attach_warnings, *plan.warnings),
        conditions=build_conditions(_build_facts(job, plan), _previous(job, plan), job.metadata.generation, now),
    )


def _find_class(plan: JobPlan) -> str:
    """Return what the attempt is made for that goes on, or begins; empty if there is none."""
    if plan.create is not None and plan.create.target is not None:
        return plan.create.target.class_name
    return plan.live.class_name if plan.live is not None and plan.live.component == COMPONENT_TRAIN else ""


def _as_refused(job: FineTuneJob, plan: JobPlan, refused: Failure) -> JobPlan:
    """Return the plan as if it had made nothing."""
    record = plan.record
    if plan.create is not None:
        attempt, prepare_attempt = max(record.counted, job.status.attempt), job.status.prepare_attempt
        record = replace(record, attempt=attempt, prepare_attempt=prepare_attempt, failure=refused)
    if plan.register:
        record = replace(record, is_registered=False)
    # What canaries came to is decided anew, from what the status said before.
    rollout = replace(plan.rollout, canaries=job.status.canaries)
    return replace(plan, record=record, phase="Pending", failure=refused, create=None, register=False, rollout=rollout)


def _without_new_pods(search: SearchPlan) -> SearchPlan:
    """Return the plan as if no pod had been made; what was seen of the other trials stays true."""
    unmade = {each.trial.number: each.before for each in search.create}
    return replace(search, trials=tuple(unmade.get(trial.number, trial) for trial in search.trials), create=())


def _previous(job: FineTuneJob, plan: JobPlan) -> list[Condition]:
    """Another attempt that ended is news, though the condition was false before: the pause begins anew."""
    stage = _stage(plan)
    return [each for each in job.status.conditions if not (plan.record.is_new_end and each.type == stage)]


def _stage(plan: JobPlan) -> str:
    return CONDITION_TRAINED if plan.record.is_prepared else CONDITION_DATASET_READY


def _build_output(job: FineTuneJob, plan: JobPlan, claim_name: str, best_trial: int | None) -> OutputStatus | None:
    if not plan.record.is_trained:
        return None
    name = job.spec.output.name
    return OutputStatus(
        digest=plan.record.output_digest,
        uri=find_output_uri(job, claim_name, best_trial),
        model_ref=LocalReference(name=name) if plan.record.is_registered else None,
    )


def _name_claim(checkpoint: CheckpointStatus | None, claim_name: str) -> CheckpointStatus | None:
    """Return the checkpoint with a place that can be read from outside of the job's pods, too."""
    inside = f"file://{WORK_DIR}/"
    if checkpoint is None or not claim_name or not checkpoint.uri.startswith(inside):
        return checkpoint
    return checkpoint.model_copy(update={"uri": f"pvc://{claim_name}/{checkpoint.uri.removeprefix(inside)}"})


def _build_facts(job: FineTuneJob, plan: JobPlan) -> tuple[Fact, ...]:
    admitted = _admitted(plan)
    dataset, trained = _dataset_ready(plan), _trained(plan)
    evaluated, registered = _evaluated(plan), _registered(job, plan)
    promoted = build_promoted_fact(plan.rollout)
    ready = _ready(plan, (dataset, trained, evaluated, registered), promoted)
    facts = (dataset, admitted, trained, evaluated, registered, promoted, ready)
    return tuple(fact for fact in facts if fact is not None)


def _dataset_ready(plan: JobPlan) -> Fact:
    if plan.record.dataset is not None:
        return is_true(CONDITION_DATASET_READY, Reason.Prepared, _summarize(plan.record.dataset))
    if plan.record.failure is not None:
        return is_false(CONDITION_DATASET_READY, plan.record.failure.reason, plan.record.failure.message)
    is_begun = plan.create is not None or plan.live is not None
    return is_unknown(
        CONDITION_DATASET_READY, Reason.Preparing, "" if is_begun else "Preparation has not begun; see Ready."
    )


def _summarize(report: DatasetReport) -> str:
    left_out = {
        "broken": report.broken,
        "repeated": report.duplicates + report.near_duplicates,
        "also in a suite": report.contaminated,
    }
    words = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    left = f" Left out of {report.lines} lines: {words}." if words else ""
    learned = f"{report.train_examples} examples ({report.train_tokens} tokens) to learn"
    return f"{learned}, {report.eval_examples} held out.{left}"


def _admitted(plan: JobPlan) -> Fact | None:
    """Whether the attempt has its accelerators, where somebody gives them out."""
    live = plan.live
    if live is None or live.component == COMPONENT_PREPARE:
        return None
    if live.state is PodState.WAITING:
        if plan.failure is not None:
            return is_false(CONDITION_ADMITTED, plan.failure.reason, plan.failure.message)
        return is_unknown(CONDITION_ADMITTED, Reason.Starting, "Nobody has looked yet at what the attempt waits for.")
    held = "The attempt holds its accelerators."
    return is_true(CONDITION_ADMITTED, Reason.Admitted, held) if live.was_admitted else None


def _trained(plan: JobPlan) -> Fact:
    record = plan.record
    if record.is_trained:
        return is_true(CONDITION_TRAINED, Reason.Trained)
    if not record.is_prepared:
        return is_unknown(CONDITION_TRAINED, Reason.Preparing, "Training begins when the dataset is ready.")
    if record.failure is not None:
        return is_false(CONDITION_TRAINED, record.failure.reason, record.failure.message)
    if plan.told or (plan.live is not None and plan.live.state is PodState.RUNNING):
        where = f" on {plan.live.size} nodes" if plan.live is not None and plan.live.size > 1 else ""
        words = plan.told or f"Attempt {record.attempt} runs{where}."
        return is_unknown(CONDITION_TRAINED, Reason.Training, words)
    if plan.live is None and plan.create is None:
        return is_unknown(CONDITION_TRAINED, Reason.Starting, "The next attempt has not begun; see Ready.")
    return is_unknown(CONDITION_TRAINED, Reason.Starting, f"Attempt {record.attempt} is to start.")


def _evaluated(plan: JobPlan) -> Fact:
    if not plan.record.is_trained:
        if plan.is_evaluating:
            return is_unknown(CONDITION_EVALUATED, Reason.Evaluating)
        return is_unknown(CONDITION_EVALUATED, Reason.Training, "Evaluation follows training.")
    broken = [verdict.message for verdict in plan.gates if not verdict.passed]
    if broken:
        return is_false(CONDITION_EVALUATED, Reason.GateFailed, describe(Reason.GateFailed, " ".join(broken)))
    told = " ".join(verdict.message for verdict in plan.gates) or "The job has no gates."
    return is_true(CONDITION_EVALUATED, Reason.GatesPassed, told)


def _registered(job: FineTuneJob, plan: JobPlan) -> Fact:
    if plan.record.is_registered:
        return is_true(CONDITION_REGISTERED, Reason.Registered, f"The result is LLMModel {job.spec.output.name}.")
    if plan.record.is_trained and plan.failure is not None and plan.failure.reason is not Reason.GateFailed:
        return is_false(CONDITION_REGISTERED, plan.failure.reason, plan.failure.message)
    words = ("The result is registered when its gates hold.", *plan.attach_warnings)
    return is_unknown(CONDITION_REGISTERED, Reason.Evaluating, " ".join(words))


def _ready(plan: JobPlan, facts: tuple[Fact, Fact, Fact, Fact], promoted: Fact | None) -> Fact:
    dataset, trained, evaluated, registered = facts
    if plan.phase == "Succeeded":
        last = promoted or registered
        return is_true(CONDITION_READY, last.reason, last.message)
    if plan.failure is not None:
        return is_false(CONDITION_READY, plan.failure.reason, plan.failure.message)
    if promoted is not None:
        return is_false(CONDITION_READY, promoted.reason, promoted.message)
    now = evaluated if plan.is_evaluating else trained if plan.record.is_prepared else dataset
    return is_false(CONDITION_READY, now.reason, now.message)
