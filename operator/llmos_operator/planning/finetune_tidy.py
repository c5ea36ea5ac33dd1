"""When the files of trials that did not win are removed from the claim. Pure.

Once a search has its result, nothing of the other trials is ever needed again. A pod without accelerators removes them
(`JOB-tidy`): before the result is registered, while nobody else has the claim, for a volume that one node at a time may
mount would else have to come back from where the result is served. That pod is waited for at most `WAIT_S`; the result
does not depend on it, and whatever becomes of it is no failure of the job.

What is done stands in the status (`filesRemoved`), so that it is done once. A pod that failed is kept and told: it was
tried again by its kubelet, with pauses, until its deadline. Deleting it has it made anew.

Without a claim there is nothing to remove: what is in an object store goes with the job (`finetune_removal`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmos.api import FineTuneJob, TrialStatus
from llmos_operator.planning.finetune import JobPlan
from llmos_operator.planning.finetune_search import SearchPlan

WAIT_S: Final = 60.0
DEADLINE_S: Final = 600
_OVER: Final = frozenset({"Succeeded", "Failed", "Canary"})


@dataclass(frozen=True)
class TidyPod:
    """The pod that removes files, as far as it matters."""

    phase: str = ""
    age_s: float | None = None
    """Since it was made, if that is known."""
    is_deleted: bool = False


@dataclass(frozen=True)
class TidyPlan:
    """What to do about files of trials, in the order make, write the status, delete."""

    trials: tuple[TrialStatus, ...] = ()
    keep: int = 0
    """Number of the trial whose files stay."""
    create: bool = False
    delete: bool = False
    waits: bool = False
    """The result is not to be registered yet."""
    warning: str = ""


def plan_tidy(
    job: FineTuneJob, plan: JobPlan, search: SearchPlan, pod: TidyPod | None, *, is_quiet: bool, is_work_lost: bool
) -> TidyPlan:
    """Return what is to be done.

    Args:
        job: the job.
        plan: of the job.
        search: of its trials.
        pod: that removes files, if it is there.
        is_quiet: no pod of a trial may still write.
        is_work_lost: the claim is gone, with all files.
    """
    nothing = TidyPlan(search.trials, delete=pod is not None and not pod.is_deleted)
    best, has_claim = search.best, job.spec.checkpoint.storage.has_claim
    if best is None or not has_claim or is_work_lost or not plan.record.is_trained or plan.phase not in _OVER:
        return nothing
    others = [trial.number for trial in search.trials if trial.number != best and _has_files(trial)]
    if not others:
        return nothing
    if pod is None:
        return TidyPlan(search.trials, best, create=is_quiet, waits=plan.register and is_quiet)
    if pod.phase == "Succeeded":
        return TidyPlan(tuple(_without_files(trial, best) for trial in search.trials), delete=not pod.is_deleted)
    if pod.phase == "Failed":
        words = (
            f"The files of other trials than {best} could not be removed from the claim; the log of pod "
            f"{job.metadata.name}-tidy says why. Delete that pod to have it tried again."
        )
        return TidyPlan(search.trials, best, warning=words)
    is_slow = pod.age_s is None or pod.age_s >= WAIT_S
    return TidyPlan(search.trials, best, waits=plan.register and not is_slow)


def _has_files(trial: TrialStatus) -> bool:
    return trial.attempt > 0 and not trial.files_removed


def _without_files(trial: TrialStatus, best: int) -> TrialStatus:
    if trial.number == best or not _has_files(trial):
        return trial
    return trial.model_copy(update={"files_removed": True, "last_checkpoint": None})
