"""A trial of a search is a job of its own to the planner: from its status to that job, and back. Pure.

The job that a trial is does not exist in the cluster. It has the trial's values, its attempts and its last failure, and
no gates and no pools, which are for the best result alone. So whatever is true of attempts (kills of the operator,
preemption, retries, pauses) is true of those of trials by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from llmos.api import Condition, FineTuneJob, OutputStatus, Reason, TrialStatus
from llmos.api.finetunejob_status import FineTuneJobStatus, TrainingProgress
from llmos.api.names import CONDITION_TRAINED
from llmos.api.search import apply_parameters
from llmos_operator.planning.finetune import JobPlan
from llmos_operator.planning.finetune_proposals import build_values, read_values
from llmos_operator.planning.finetune_record import Record

COMPLETE = "Complete"
STOPPED = "Stopped"
FAILED = "Failed"
OVER = frozenset({COMPLETE, STOPPED, FAILED})
_MESSAGE_CHARS = 512
_EVAL_LOSS = "eval_loss"


def begin_trial(number: int, values: Mapping[str, float]) -> TrialStatus:
    """Return a trial that has not begun."""
    return TrialStatus(number=number, parameters=build_values(values))


def begin_again(trial: TrialStatus) -> TrialStatus:
    """Return a trial of which everything is lost but its values and the account of its attempts."""
    account = trial.model_dump(include={"attempt", "accelerator_seconds", "attempt_seconds"})
    return begin_trial(trial.number, read_values(trial)).model_copy(update={**account, "attempts": trial.attempts})


def build_trial_job(job: FineTuneJob, trial: TrialStatus, *, suspend: bool) -> FineTuneJob:
    """Return the job that a trial is.

    Raises:
        ValidationError: a value is outside of what the hyperparameter may be.
    """
    spec = apply_parameters(job.spec, read_values(trial))
    evaluate = spec.evaluate.model_copy(update={"gates": ()})
    output = spec.output.model_copy(update={"attach_to": ()})
    changed = spec.model_copy(update={"suspend": suspend, "evaluate": evaluate, "output": output})
    return job.model_copy(update={"spec": changed, "status": _build_status(job, trial)})


def _build_status(job: FineTuneJob, trial: TrialStatus) -> FineTuneJobStatus:
    return FineTuneJobStatus(
        phase="Evaluating" if trial.state == "Evaluating" else "",
        base_digest=job.status.base_digest,
        teacher_digest=job.status.teacher_digest,
        claim_name=job.status.claim_name,
        dataset_report=job.status.dataset_report,
        progress=TrainingProgress(step=trial.step, total_steps=trial.total_steps, eval_loss=trial.eval_loss),
        last_checkpoint=trial.last_checkpoint,
        attempt=trial.attempt,
        attempts=trial.attempts,
        lost_accelerator_seconds=trial.lost_accelerator_seconds,
        output=OutputStatus(digest=trial.output_digest) if trial.output_digest else None,
        warnings=job.status.warnings,
        conditions=_build_conditions(job, trial),
    )


def _build_conditions(job: FineTuneJob, trial: TrialStatus) -> tuple[Condition, ...]:
    if trial.failed_at is None or trial.reason not in Reason.__members__:
        return ()
    failed = Condition(
        type=CONDITION_TRAINED,
        status="False",
        reason=trial.reason,
        message=trial.message,
        observed_generation=job.metadata.generation,
        last_transition_time=trial.failed_at,
    )
    return (failed,)


def build_trial_status(trial: TrialStatus, plan: JobPlan, now: datetime) -> TrialStatus:
    """Return what is known of a trial after its part of a pass."""
    record = plan.record
    failure = plan.failure or record.failure
    progress = record.progress or TrainingProgress()
    return trial.model_copy(
        update={
            "state": COMPLETE if record.is_trained else _find_state(plan),
            "step": progress.step,
            "total_steps": progress.total_steps,
            "eval_loss": _find_eval_loss(record, progress),
            "attempt": record.attempt,
            "attempts": record.attempts,
            "attempt_seconds": trial.attempt_seconds if record.attempt == trial.attempt else 0.0,
            "lost_accelerator_seconds": record.lost_accelerator_seconds,
            "last_checkpoint": record.last_checkpoint,
            "output_digest": record.output_digest,
            "reason": failure.reason.value if failure is not None else "",
            "message": failure.message[:_MESSAGE_CHARS] if failure is not None else "",
            "failed_at": _find_failure_time(record, now),
        }
    )


def _find_state(plan: JobPlan) -> str:
    """Return the state of a trial without a result. What cannot fit would keep the search from its end by waiting."""
    is_too_large = plan.failure is not None and plan.failure.reason is Reason.DoesNotFit
    return FAILED if is_too_large else plan.phase


def _find_failure_time(record: Record, now: datetime) -> datetime | None:
    if record.failure is None:
        return None
    return now.replace(microsecond=0) if record.is_new_end or record.failed_at is None else record.failed_at


def _find_eval_loss(record: Record, progress: TrainingProgress) -> float | None:
    """Return that of the result, once there is one, for that is what is compared."""
    of_result = next((metric.result for metric in record.metrics if metric.name == _EVAL_LOSS), None)
    return progress.eval_loss if of_result is None else of_result


def spend(trial: TrialStatus, attempt: int, seconds: float) -> TrialStatus:
    """Return the trial with the time that its attempt has held accelerators so far; it never becomes less."""
    ended = trial.accelerator_seconds - (trial.attempt_seconds if attempt == trial.attempt else 0.0)
    held = max(seconds, trial.attempt_seconds if attempt == trial.attempt else 0.0)
    return trial.model_copy(
        update={"accelerator_seconds": round(ended + held, 1), "attempt_seconds": round(held, 1), "attempt": attempt}
    )


def without_failure(record: Record) -> Record:
    """Return a record of a job whose trials tell what failed."""
    return replace(record, failure=None, failed_at=None)
