"""What became of the last attempts of a FineTuneJob, for `status.history`. Pure.

The counts tell how often, this tells what: an administrator sees whether it is one node, one hour or one reason. It is
bounded; the oldest goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Final, Literal

from llmos.api import EndedAttempt
from llmos.api.job_reasons import say_for_job
from llmos.api.names import COMPONENT_PREPARE
from llmos_operator.planning.finetune_pods import End, EndKind, JobPod

MOST: Final = 10
_LONGEST_MESSAGE: Final = 400
_COUNTS_AS: Final[Mapping[EndKind, Literal["infrastructure", "preemption"]]] = {
    "infrastructure": "infrastructure",
    "preempted": "preemption",
}


def extend_history(
    history: tuple[EndedAttempt, ...], end: End, pod: JobPod, *, step: int | None, now: datetime
) -> tuple[EndedAttempt, ...]:
    """Return the history with one more attempt, which ended for a reason; without a reason it is no such attempt."""
    if end.failure is None:
        return history
    entry = EndedAttempt(
        number=max(1, pod.number),
        stage="prepare" if pod.component == COMPONENT_PREPARE else "train",
        counts_as=_COUNTS_AS.get(end.kind, "user"),
        reason=end.failure.reason.value,
        message=say_for_job(end.failure.reason, end.failure.message)[:_LONGEST_MESSAGE],
        step=step,
        started_at=pod.started_at,
        ended_at=pod.ended_at or now.replace(microsecond=0),
    )
    return (*history, entry)[-MOST:]


def count_failures_in_vain(history: tuple[EndedAttempt, ...]) -> int:
    """Return how many of the last failures in a row, at least one, came no further than the one before.

    A job that goes on each time is on nodes that come and go; one that does not is in trouble, and waits ever longer.
    Preemptions are no failures.
    """
    failures = [entry for entry in history if entry.counts_as != "preemption"]
    count = 1
    for before, after in reversed(list(pairwise(failures))):
        if (after.step or 0) > (before.step or 0):
            break
        count += 1
    return count
