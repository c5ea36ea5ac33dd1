"""What the trials of a search may hold. Pure.

The budget is what pods hold. Each that goes on may do so until the next look, and then until it has saved its work;
that much is kept back for it, and no pod is made that nothing is left for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmos.api import FineTuneJob, TrialStatus
from llmos.api.search import Search
from llmos_operator.planning.finetune import PROGRESS_S
from llmos_operator.planning.finetune_pods import JobPod, PodState
from llmos_operator.planning.finetune_reports import TrainReport

HOUR_S: Final = 3600.0


@dataclass(frozen=True)
class TrialPods:
    """What was observed of one trial's pods."""

    pods: tuple[JobPod, ...] = ()
    live: TrainReport | None = None
    seconds: Mapping[int, float] = field(default_factory=dict)
    """Accelerator seconds that its pods have held so far, by number of the attempt."""
    unheard: str = ""
    """Why the log of the running one could not be read."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What its pods were told to train with."""


def has_budget(
    search: Search, trials: Sequence[TrialStatus], pods: Mapping[int, TrialPods], job: FineTuneJob, *, more: int
) -> bool:
    """Whether the pods that are there, and `more`, may go on until they have been looked at again and have gone."""
    if search.budget_accelerator_hours is None:
        return True
    spent_s = sum(trial.accelerator_seconds for trial in trials)
    # A pod that could only begin and save would be in vain.
    kept_back_s = (count_pods(pods) + 2 * more) * compute_reserve_s(job)
    return spent_s + kept_back_s <= search.budget_accelerator_hours * HOUR_S


def count_pods(pods: Mapping[int, TrialPods]) -> int:
    """Return how many pods hold accelerators, or may do so at any moment."""
    return sum(pod.state is not PodState.ENDED for each in pods.values() for pod in each.pods)


def compute_reserve_s(job: FineTuneJob) -> float:
    """Return the accelerator seconds that one attempt may still need before it has saved its work and gone."""
    seconds = 2 * PROGRESS_S + job.spec.checkpoint.on_preempt.deadline_seconds
    return seconds * job.spec.trainer.nodes * job.spec.trainer.accelerators_per_node
