"""A search: which trials begin, go on, stop and win. From what stands in the status and what the pods show. Pure.

    dataset prepared -> trials, at most `parallelism` at a time -> all over, or nothing left of the budget
      -> the complete one with the lowest eval_loss is the job's result -> gates -> LLMModel

- A trial is a job of its own to the planner (`finetune_trials`), with pods and a folder of its own.
- ASHA (Li et al., 2020), the variant that stops: a trial that reaches rung k, after reductionFactor^k evaluations, goes
  on if it is among the best 1 / reductionFactor of all that have reached it so far, and at least if it is the best. It
  waits for nobody. What was found at a rung stands in the status, so that it is judged once.
- When the budget (`finetune_budget`) is used up, trials are suspended: a larger one lets them go on from their
  checkpoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError

from llmos.api import FineTuneJob, MetricComparison, Reason, TrainingProgress, TrialStatus
from llmos.api.finetunejob_evaluation import Evaluate, compute_evaluate_every
from llmos.api.search import Search, apply_parameters, count_trials
from llmos_operator.planning.failures import Failure, build_failure, describe_fields
from llmos_operator.planning.finetune import PROGRESS_S, SOON_S, JobPlan, NewPod, Phase, Sight, plan_job
from llmos_operator.planning.finetune_budget import TrialPods, count_pods, has_budget
from llmos_operator.planning.finetune_history import MOST
from llmos_operator.planning.finetune_pods import JobPod
from llmos_operator.planning.finetune_proposals import propose_values
from llmos_operator.planning.finetune_record import Record
from llmos_operator.planning.finetune_trials import (
    COMPLETE,
    FAILED,
    OVER,
    STOPPED,
    begin_again,
    begin_trial,
    build_trial_job,
    build_trial_status,
    spend,
    without_failure,
)

_MOST_WARNINGS: Final = 4
_WAITING: Final = frozenset({"Pending", "Queued", "Suspended"})


@dataclass(frozen=True)
class TrialPod:
    """A pod to make."""

    trial: TrialStatus
    new: NewPod
    job: FineTuneJob
    """The job that the trial is."""
    before: TrialStatus
    """What is true of the trial as long as the pod is not there."""


@dataclass(frozen=True)
class SearchPlan:
    """What is to be done about trials, beside the plan of the job."""

    trials: tuple[TrialStatus, ...] = ()
    best: int | None = None
    create: tuple[TrialPod, ...] = ()


@dataclass(frozen=True)
class _Turn:
    """One trial in this pass."""

    trial: TrialStatus
    before: TrialStatus
    plan: JobPlan | None = None
    job: FineTuneJob | None = None
    delete: tuple[JobPod, ...] = ()

    @property
    def creates(self) -> bool:
        """Whether a pod is to be made for it."""
        return self.plan is not None and self.plan.create is not None


@dataclass(frozen=True)
class _Pass:
    """What a pass over all trials knows."""

    sight: Sight
    plan: JobPlan
    search: Search
    pods: Mapping[int, TrialPods]
    is_spent: bool


NO_SEARCH: Final = SearchPlan()


def needs_trials(job: FineTuneJob, plan: JobPlan) -> bool:
    """Whether a search goes on: its dataset is prepared, and it has no result yet."""
    return job.spec.search is not None and plan.record.is_prepared and not plan.record.is_trained


def plan_search(sight: Sight, plan: JobPlan, pods: Mapping[int, TrialPods]) -> tuple[JobPlan, SearchPlan]:
    """Return the plan of a job whose dataset is prepared, and that of its trials.

    Args:
        sight: of the job; its pods without those of trials.
        plan: what would be planned without a search.
        pods: what was observed of each trial that has pods.
    """
    job, search = sight.job, sight.job.spec.search
    if search is None:
        raise ValueError("the job has no search")
    # The attempt that would be made without a search is none.
    plan = replace(plan, record=replace(without_failure(plan.record), attempt=job.status.attempt), create=None)
    if failure := find_bad_value(job, search):
        return replace(plan, phase="Failed", failure=failure), SearchPlan(job.status.trials)
    before = [_count_time(trial, pods.get(trial.number, TrialPods())) for trial in _list_trials(sight, pods)]
    # A search without pods goes on only if there is enough left for one.
    is_spent = not has_budget(search, before, pods, job, more=0 if count_pods(pods) else 1)
    turns = [_take_turn(sight, trial, pods.get(trial.number, TrialPods()), is_spent=is_spent) for trial in before]
    plan = replace(plan, record=_extend_history(plan.record, turns))
    turns = _judge_rungs(search, turns, job.spec.evaluate, pods)
    turns = _begin_trials(search, job, _hold_back(search, job, turns, pods), pods)
    return _conclude(_Pass(sight, plan, search, pods, is_spent), turns)


def keep_trials(job: FineTuneJob, plan: JobPlan) -> SearchPlan:
    """Return the trials of a job whose search is over, or has not begun.

    If what was prepared is lost, so are the results; what was spent stays spent, and what was counted is not counted
    again from pods that are still there.
    """
    trials, search = job.status.trials, job.spec.search
    if search is None or plan.record.is_trained:
        return SearchPlan(trials, job.status.best_trial)
    return SearchPlan(tuple(begin_again(trial) for trial in trials))


def find_bad_value(job: FineTuneJob, search: Search) -> Failure | None:
    """Return that some trial would train with a value that is none; what has begun was looked at before."""
    if job.status.trials:
        return None
    try:
        for parameter in search.parameters:
            edges = (parameter.min, parameter.max) if not parameter.values else parameter.values
            for value in edges:
                apply_parameters(job.spec, {parameter.name: value or 0.0})
    except ValidationError as error:
        return build_failure(Reason.InvalidSpec, f"spec.search.parameters leads to {describe_fields(error)}.")
    return None


def judge_rung(value: float, others: Sequence[float], reduction_factor: int) -> bool:
    """Whether a trial goes on that found `value` where `others` were found before it; lower is better."""
    rank = sum(other < value for other in others)
    return rank < max(1, (len(others) + 1) // reduction_factor)


def _list_trials(sight: Sight, pods: Mapping[int, TrialPods]) -> list[TrialStatus]:
    """Return the trials that the status knows, and those whose pods were made before it was written."""
    known = {trial.number: trial for trial in sight.job.status.trials}
    unknown = sorted(pods.keys() - known.keys())
    return [*known.values(), *(begin_trial(number, pods[number].values) for number in unknown if pods[number].values)]


def _count_time(trial: TrialStatus, seen: TrialPods) -> TrialStatus:
    for attempt in sorted(seen.seconds):
        if attempt >= trial.attempt:
            trial = spend(trial, attempt, seen.seconds[attempt])
    return trial


def _take_turn(sight: Sight, trial: TrialStatus, seen: TrialPods, *, is_spent: bool) -> _Turn:
    if trial.state in {COMPLETE, STOPPED}:
        return _Turn(trial, trial, delete=_list_undeleted(seen))
    job = build_trial_job(sight.job, trial, suspend=sight.job.spec.suspend or is_spent)
    plan = plan_job(replace(sight, job=job, pods=seen.pods, live=seen.live, unheard=seen.unheard, output="absent"))
    status = build_trial_status(trial, plan, sight.now)
    if is_spent and status.state == "Suspended":
        status = status.model_copy(update={"message": "search.budgetAcceleratorHours leaves too little for it."})
    return _Turn(status, trial, plan, job, plan.delete)


def _extend_history(record: Record, turns: Sequence[_Turn]) -> Record:
    """Return the record of the job with the attempts of trials that were counted in this pass."""
    counted = [
        entry.model_copy(update={"trial": turn.trial.number})
        for turn in turns
        if turn.plan is not None
        for entry in turn.plan.record.history
    ]
    counted.sort(key=lambda entry: entry.ended_at)
    return replace(record, history=(*record.history, *counted)[-MOST:])


def _list_undeleted(seen: TrialPods) -> tuple[JobPod, ...]:
    return tuple(pod for pod in seen.pods if pod.is_lost or not pod.is_deleted)


def _judge_rungs(search: Search, turns: list[_Turn], evaluate: Evaluate, pods: Mapping[int, TrialPods]) -> list[_Turn]:
    """Note what trials found at rungs, and stop those that are behind."""
    if search.algorithm != "asha":
        return turns
    found = [list(turn.trial.rungs) for turn in turns]
    judged = []
    for place, turn in enumerate(turns):
        trial, is_behind = turn.trial, False
        while not is_behind and trial.state not in OVER and _has_reached(trial, len(found[place]), search, evaluate):
            rung, value = len(found[place]), trial.eval_loss if trial.eval_loss is not None else float("inf")
            others = [other[rung] for other in found if len(other) > rung]
            found[place].append(value)
            is_behind = not judge_rung(value, others, search.reduction_factor)
        trial = trial.model_copy(update={"rungs": tuple(found[place])})
        judged.append(_stop(turn, trial, found, pods.get(trial.number)) if is_behind else replace(turn, trial=trial))
    return judged


def _has_reached(trial: TrialStatus, rung: int, search: Search, evaluate: Evaluate) -> bool:
    every_steps = compute_evaluate_every(evaluate, trial.total_steps)
    # One step further: the evaluation is made after the step that it is named by.
    return trial.eval_loss is not None and trial.step > every_steps * search.reduction_factor**rung


def _stop(turn: _Turn, trial: TrialStatus, found: Sequence[Sequence[float]], seen: TrialPods | None) -> _Turn:
    rung = len(trial.rungs) - 1
    values = sorted(each[rung] for each in found if len(each) > rung)
    words = (
        f"Behind at rung {rung} (step {trial.step}): eval_loss {trial.rungs[rung]:.4g}, the best of {len(values)} "
        f"is {values[0]:.4g}."
    )
    stopped = trial.model_copy(update={"state": STOPPED, "reason": "", "message": words, "failed_at": None})
    return _Turn(stopped, turn.before, delete=_list_undeleted(seen or TrialPods()))


def _hold_back(search: Search, job: FineTuneJob, turns: Sequence[_Turn], pods: Mapping[int, TrialPods]) -> list[_Turn]:
    """Make no pod that the budget is not left for."""
    trials = [turn.trial for turn in turns]
    limited: list[_Turn] = []
    for turn in turns:
        made = sum(each.creates for each in limited)
        fits = not turn.creates or has_budget(search, trials, pods, job, more=made + 1)
        limited.append(turn if fits else _without_pod(turn))
    return limited


def _without_pod(turn: _Turn) -> _Turn:
    if turn.plan is None or turn.plan.create is None:
        return turn
    words = "search.budgetAcceleratorHours leaves too little for another pod beside those that go on."
    trial = turn.before.model_copy(update={"state": "Pending", "message": words})
    return replace(turn, trial=trial, plan=replace(turn.plan, create=None))


def _begin_trials(
    search: Search, job: FineTuneJob, turns: Sequence[_Turn], pods: Mapping[int, TrialPods]
) -> list[_Turn]:
    """Return all trials with those that there is room for now; their pods are made in the next pass."""
    begun = list(turns)
    trials = [turn.trial for turn in turns]
    going = sum(trial.state not in OVER for trial in trials)
    made = sum(turn.creates for turn in turns)
    while going < search.parallelism and len(begun) < count_trials(search) and not job.spec.suspend:
        if not has_budget(search, trials, pods, job, more=made + 1):
            break
        number = len(begun) + 1
        trial = begin_trial(number, propose_values(search, number, [turn.trial for turn in begun]))
        begun.append(_Turn(trial, trial))
        going, made = going + 1, made + 1
    return begun


def _conclude(this: _Pass, turns: Sequence[_Turn]) -> tuple[JobPlan, SearchPlan]:
    trials, job = tuple(turn.trial for turn in turns), this.sight.job
    best, metrics = _find_best(job, turns)
    create = tuple(
        TrialPod(turn.trial, turn.plan.create, turn.job, turn.before)
        for turn in turns
        if turn.plan is not None and turn.plan.create is not None and turn.job is not None
    )
    found = SearchPlan(trials, best, create)
    plan = JobPlan(
        _sum_up(this.plan.record, this.search, found, metrics),
        _find_phase(job, trials),
        needs_files=True,
        told=describe_trials(found),
        attach_warnings=this.plan.attach_warnings,
        warnings=_find_warnings(this.plan, turns),
        delete=(*this.plan.delete, *(pod for turn in turns for pod in turn.delete)),
    )
    is_idle = not create and not count_pods(this.pods)
    is_done = len(trials) >= count_trials(this.search) and all(trial.state in OVER for trial in trials)
    if is_idle and (is_done or this.is_spent):
        return _end(plan, found), found
    failure = next((f for turn in turns if turn.plan is not None and (f := turn.plan.failure) is not None), None)
    shown = failure if plan.phase in _WAITING else None
    return replace(plan, failure=shown, look_again_s=_next_look_s(turns, this.pods)), found


def _find_warnings(plan: JobPlan, turns: Sequence[_Turn]) -> tuple[str, ...]:
    """Return what does not act in the job or in its trials, each once."""
    of_trials = (words for turn in turns if turn.plan is not None for words in turn.plan.warnings)
    return tuple(dict.fromkeys((*plan.warnings, *of_trials)))[:_MOST_WARNINGS]


def _next_look_s(turns: Sequence[_Turn], pods: Mapping[int, TrialPods]) -> float | None:
    looks = [turn.plan.look_again_s for turn in turns if turn.plan is not None and turn.plan.look_again_s is not None]
    if any(turn.plan is None and turn.trial.state not in OVER for turn in turns):
        looks.append(SOON_S)
    if count_pods(pods) or any(turn.creates for turn in turns):
        looks.append(PROGRESS_S)
    return min(looks, default=None)


def _find_best(job: FineTuneJob, turns: Sequence[_Turn]) -> tuple[int | None, tuple[MetricComparison, ...]]:
    """Return the best complete trial so far, and the metrics of its result."""
    complete = [turn for turn in turns if turn.trial.state == COMPLETE]
    best = min(complete, key=_order, default=None)
    if best is None:
        return None, ()
    if best.plan is not None:
        return best.trial.number, best.plan.record.metrics
    return best.trial.number, job.status.evaluation.metrics if job.status.evaluation is not None else ()


def _order(turn: _Turn) -> tuple[float, int]:
    loss = turn.trial.eval_loss
    return (float("inf") if loss is None else loss), turn.trial.number


def _sum_up(record: Record, search: Search, found: SearchPlan, metrics: tuple[MetricComparison, ...]) -> Record:
    """Return the record of the job with what its trials come to."""
    saved = [trial.last_checkpoint for trial in found.trials if trial.last_checkpoint is not None]
    over, most = sum(trial.state in OVER for trial in found.trials), max(count_trials(search), len(found.trials))
    best = next((trial.eval_loss for trial in found.trials if trial.number == found.best), None)
    return replace(
        record,
        metrics=metrics,
        progress=TrainingProgress(eval_loss=best, display=f"{over}/{most} trials"),
        last_checkpoint=max(saved, key=lambda checkpoint: checkpoint.time, default=None),
        lost_accelerator_seconds=round(sum(trial.lost_accelerator_seconds for trial in found.trials), 3),
    )


def _end(plan: JobPlan, found: SearchPlan) -> JobPlan:
    """Return the plan of a search that is over; its result is registered in a later pass, once this is written."""
    best = next((trial for trial in found.trials if trial.number == found.best), None)
    if best is None:
        return _end_without_result(plan, found)
    # From here on that of the best one counts: the files of others may go.
    record = replace(plan.record, output_digest=best.output_digest, last_checkpoint=best.last_checkpoint)
    return replace(plan, record=record, phase="Evaluating", warnings=(), look_again_s=SOON_S)


def _end_without_result(plan: JobPlan, found: SearchPlan) -> JobPlan:
    told = " ".join(f"Trial {each.number}: {each.state}. {each.message}" for each in found.trials[-3:])
    if any(each.state == FAILED and each.reason == Reason.DoesNotFit for each in found.trials):
        # It goes on when its class has more memory, so it waits, as a job that trains once does.
        return replace(plan, phase="Pending", failure=Failure(Reason.DoesNotFit, told))
    failure = build_failure(Reason.NoTrialSucceeded, told)
    return replace(plan, record=replace(plan.record, failure=failure), phase="Failed", failure=failure, warnings=())


def find_output_folder(trial: int | None) -> str:
    """Return where in the claim or object store the result is; `trial` is the one that made it, if trials were made."""
    return "output" if trial is None else f"trials/{trial}/output"


def describe_trials(found: SearchPlan) -> str:
    """Return how far a search is, in words."""
    states = Counter(trial.state for trial in found.trials)
    told = ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))
    best = next((trial for trial in found.trials if trial.number == found.best), None)
    words = f"Trials: {told}." if told else "No trial has begun."
    if best is None or best.eval_loss is None:
        return words
    return f"{words} The best so far is {best.number} with eval_loss {best.eval_loss:.4g}."


def _find_phase(job: FineTuneJob, trials: Sequence[TrialStatus]) -> Phase:
    states = {trial.state for trial in trials}
    if job.spec.suspend:
        return "Suspended"
    if states & {"Training", "Evaluating"} or not states - OVER:
        return "Training"
    return "Queued" if "Queued" in states else "Pending"
