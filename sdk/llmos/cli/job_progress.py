"""Shows how a FineTuneJob comes along: a bar at a terminal, lines elsewhere. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from llmos.api import FineTuneJob, TrainingProgress
from llmos.client.readiness import ready_condition

_LONGEST_SILENCE: Final = timedelta(seconds=30)
"""Between two lines that differ only in their numbers."""


class JobDisplay:
    """Draws the states of one job on standard error; to be used as a context manager and called with each state."""

    def __init__(self, now: Callable[[], datetime], console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._now = now
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told: tuple[str, ...] = ()
        self._told_at: datetime | None = None
        self.last: FineTuneJob | None = None
        """The newest state that was seen."""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[facts]}"))
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
            self._task = self._bar.add_task("Pending", total=None, facts="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, job: FineTuneJob) -> None:
        self.last = job
        if self._bar is not None and self._task is not None:
            self._draw(job, self._bar, self._task)
        else:
            self._write(job)

    def _draw(self, job: FineTuneJob, bar: Progress, task: TaskID) -> None:
        progress = job.status.progress
        facts = describe_training(job) or find_message(job)
        total = progress.total_steps if progress and progress.total_steps else None
        done = progress.step if progress else 0
        bar.update(task, description=find_phase(job), total=total, completed=done, facts=facts)

    def _write(self, job: FineTuneJob) -> None:
        """A line if there is news, or if numbers alone have changed for a while."""
        progress, now = job.status.progress, self._now()
        checkpoint = job.status.last_checkpoint
        told = (
            find_phase(job),
            "" if progress else find_message(job),
            str(progress.eval_loss if progress else None),
            str(checkpoint.step if checkpoint else None),
        )
        if told == self._told and self._told_at is not None and now - self._told_at < _LONGEST_SILENCE:
            return
        self._told, self._told_at = told, now
        facts = describe_training(job) or find_message(job)
        saved = f", checkpoint at step {checkpoint.step}" if checkpoint else ""
        line = f"{job.metadata.name}: {find_phase(job)}{f': {facts}' if facts else ''}{saved}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def find_phase(job: FineTuneJob) -> str:
    """The word for what the job does; with the reason where that says more."""
    condition = ready_condition(job)
    phase = job.status.phase or "Pending"
    return phase if condition is None or condition.reason == phase else f"{phase} ({condition.reason})"


def find_message(job: FineTuneJob) -> str:
    """What the Ready condition says."""
    condition = ready_condition(job)
    return condition.message if condition else "waiting for the operator"


def describe_training(job: FineTuneJob) -> str:
    """How far training is, in one line; empty before it began."""
    progress = job.status.progress
    if progress is not None and job.status.trials:
        best = "" if progress.eval_loss is None else f", best eval_loss {progress.eval_loss:.4g}"
        return f"{progress.display}{best}"
    return describe_progress(progress) if progress else ""


def describe_progress(progress: TrainingProgress) -> str:
    """For example `step 200/1000, loss 1.234, eval_loss 1.301, 5120 tokens/s, 0:03:12 to go`."""
    parts = [f"step {progress.step}/{progress.total_steps or '?'}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.eval_loss is not None:
        parts.append(f"eval_loss {progress.eval_loss:.4g}")
    is_over = bool(progress.total_steps) and progress.step >= progress.total_steps
    if progress.tokens_per_second and not is_over:
        parts.append(f"{progress.tokens_per_second:.0f} tokens/s")
    if progress.eta_seconds is not None and not is_over:
        parts.append(f"{timedelta(seconds=progress.eta_seconds)} to go")
    return ", ".join(parts)
