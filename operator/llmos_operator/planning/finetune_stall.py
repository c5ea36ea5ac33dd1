"""Whether an attempt that runs still does something. Pure.

A worker writes into each of its progress lines when it last did something (`activeAt`): a micro-batch, a batch of an
evaluation, a line of the dataset, bytes that were read or written. It repeats the line while it works on something
long, from its first moment on. So a process that hangs is told apart from one that is slow: the line, or what it says,
stays behind.

Nothing is judged without such a line: not where the log cannot be read, nor where other lines have pushed it out of the
part that was read, nor a worker that writes none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from llmos.api import FineTuneJob, Reason
from llmos_operator.planning.failures import build_failure
from llmos_operator.planning.finetune_pods import End, JobPod, PodState
from llmos_operator.planning.finetune_reports import TrainReport, is_progress_line, read_progress_line

LOG_LINES: Final = 40
"""Lines that are read from the end of a log."""
_LONGEST_WORDS: Final = 300


@dataclass(frozen=True)
class Heard:
    """What the log of the running pod says."""

    uid: str
    report: TrainReport | None = None
    last_words: str = ""
    """The last line that is no progress line."""


def read_log(uid: str, log: str) -> Heard:
    """Return what the last `LOG_LINES` lines of a log say."""
    lines = log.splitlines()
    words = next((line for line in reversed(lines) if line.strip() and not is_progress_line(line)), "")
    return Heard(uid, read_progress_line(log), words[:_LONGEST_WORDS])


def get_patience(job: FineTuneJob) -> timedelta:
    """Return for how long an attempt may do nothing."""
    return timedelta(minutes=job.spec.retries.stalled_after_minutes)


def end_stalled(pods: Iterable[JobPod], heard: Heard | None, *, after: timedelta, now: datetime) -> tuple[JobPod, ...]:
    """Return the pods, of which the running one has to end if it did nothing for `after`."""
    return tuple(_end_if_stalled(pod, heard, after, now) for pod in pods)


def _end_if_stalled(pod: JobPod, heard: Heard | None, after: timedelta, now: datetime) -> JobPod:
    if heard is None or pod.uid != heard.uid or pod.state is not PodState.RUNNING or pod.end is not None:
        return pod
    active_at = heard.report.active_at if heard.report is not None else None
    if active_at is None or now - active_at < after:
        return pod
    last = f" The last line of its log: {heard.last_words}" if heard.last_words else ""
    detail = f"Pod {pod.name} did nothing since {active_at:%Y-%m-%d %H:%M:%S} UTC.{last}"
    return replace(pod, end=End("infrastructure", build_failure(Reason.TrainingStalled, detail)), must_go=True)
