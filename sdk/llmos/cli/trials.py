"""Shows the trials of a search. Decides nothing."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from llmos.api import FineTuneJob, TrialStatus
from llmos.api.search import count_trials
from llmos.cli.screen import build_table


def draw_trials(job: FineTuneJob) -> list[RenderableType]:
    """One line for each trial, the best one marked."""
    search, trials = job.spec.search, job.status.trials
    if search is None or not trials:
        return []
    title = f"TRIALS ({search.algorithm}, {len(trials)} of {count_trials(search)} begun{_say_budget(job)})"
    table = build_table(title, "", "TRIAL", "STATE", "VALUES", "STEP", "EVAL_LOSS", "HELD", "WHY")
    for trial in trials:
        mark = Text("best", style="green") if trial.number == job.status.best_trial else Text("")
        table.add_row(
            mark,
            str(trial.number),
            trial.state,
            _say_values(trial),
            f"{trial.step}/{trial.total_steps or '?'}",
            "" if trial.eval_loss is None else f"{trial.eval_loss:.4g}",
            f"{trial.accelerator_seconds:.0f} s",
            Text(trial.message),
        )
    return [table, ""]


def _say_budget(job: FineTuneJob) -> str:
    held_s = sum(trial.accelerator_seconds for trial in job.status.trials)
    budget = job.spec.search.budget_accelerator_hours if job.spec.search is not None else None
    limit = "" if budget is None else f" of {budget:g}"
    return f", {held_s / 3600:.2f}{limit} accelerator hours"


def _say_values(trial: TrialStatus) -> str:
    return ", ".join(f"{each.name} {each.value:g}" for each in trial.parameters)
