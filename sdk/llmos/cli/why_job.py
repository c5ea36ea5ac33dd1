"""`llmos why job/NAME`: what a FineTuneJob does or waits for, and what came before. Reads status, decides nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from llmos.api import Condition, FineTuneJob
from llmos.api.names import (
    CONDITION_ADMITTED,
    CONDITION_DATASET_READY,
    CONDITION_EVALUATED,
    CONDITION_PROMOTED,
    CONDITION_REGISTERED,
    CONDITION_TRAINED,
)
from llmos.cli.canaries import list_canary_rows
from llmos.cli.exits import ExitCode
from llmos.cli.gates import describe_gate
from llmos.cli.job_progress import describe_training, find_phase
from llmos.cli.job_screen import say_attempts, say_change
from llmos.cli.report import Health, State, compute_health
from llmos.cli.why import draw_rows, say_ago
from llmos.client import Client
from llmos.client.readiness import ready_condition

STEPS: Final = {
    CONDITION_DATASET_READY: "dataset",
    CONDITION_ADMITTED: "accelerators",
    CONDITION_TRAINED: "training",
    CONDITION_EVALUATED: "evaluation",
    CONDITION_REGISTERED: "registration",
    CONDITION_PROMOTED: "canary",
}
"""What a job goes through, in this order."""


@dataclass(frozen=True)
class JobExplanation:
    """What there is to say about where a job stands."""

    job: FineTuneJob
    now: datetime

    @property
    def health(self) -> Health:
        """How it is."""
        return compute_health(self.job, self.now)

    @property
    def steps(self) -> tuple[tuple[str, Condition | None], ...]:
        """The steps and what is said about them."""
        told = {condition.type: condition for condition in self.job.status.conditions}
        # Most jobs replace nothing, so that they have no canary to reach.
        return tuple(
            (name, told.get(type_)) for type_, name in STEPS.items() if type_ != CONDITION_PROMOTED or self._has_canary
        )

    @property
    def _has_canary(self) -> bool:
        return any(target.replaces is not None for target in self.job.spec.output.attach_to)

    @property
    def exit_code(self) -> ExitCode:
        """Whether something is not as it should be."""
        if ready_condition(self.job) is None:
            return ExitCode.NOT_READY
        return ExitCode.PROBLEM if self.health.state is State.PROBLEM else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The explanation for programs."""
        health = self.health
        return {
            "namespace": health.namespace,
            "name": health.name,
            "phase": self.job.status.phase,
            "state": health.state.value,
            "reason": health.reason,
            "message": health.message,
            "remedy": health.remedy,
            "steps": [{"step": name, "condition": told and told.to_manifest()} for name, told in self.steps],
            "progress": self.job.status.progress and self.job.status.progress.to_manifest(),
            "attempts": self.job.status.attempts.to_manifest(),
            "history": [each.to_manifest() for each in self.job.status.history],
            "warnings": list(self.job.status.warnings),
            "lostAcceleratorSeconds": self.job.status.lost_accelerator_seconds,
            "trials": [each.to_manifest() for each in self.job.status.trials],
            "bestTrial": self.job.status.best_trial,
            "canaries": [each.to_manifest() for each in self.job.status.canaries],
        }


def run_why_job(client: Client, name: str, *, now: datetime, as_json: bool) -> ExitCode:
    """Print why the job is where it is."""
    explanation = JobExplanation(client.jobs.get(name), now)
    print(json.dumps(explanation.as_json(), indent=2) if as_json else draw_job_explanation(explanation))
    return explanation.exit_code


def draw_job_explanation(it: JobExplanation) -> str:
    """Where it stands and what to do first, then the steps and what they rest on."""
    health = it.health
    parts = [
        f"{health.title}: {find_phase(it.job)}{_say_since(it)}",
        f"  {health.message}" if health.message else "",
        f"  what to do: {health.remedy}" if health.remedy else "",
        draw_rows("Steps", [(name, _say_step(condition)) for name, condition in it.steps], width=14),
        draw_rows("Training", _training_rows(it), width=14),
        draw_rows("Gates", _gate_rows(it.job), width=14),
        draw_rows("Warnings", [("", warning) for warning in it.job.status.warnings], width=0),
        draw_rows("Canaries", list_canary_rows(it.job), width=14),
    ]
    return "\n".join(part for part in parts if part)


def _say_since(it: JobExplanation) -> str:
    condition = ready_condition(it.job)
    since = it.job.status.completion_time or it.job.status.start_time
    if condition is None or since is None:
        return ""
    word = "ended" if it.job.status.completion_time else "begun"
    return f", {word} {say_ago(it.now, since)}"


def _say_step(condition: Condition | None) -> str:
    if condition is None:
        return "not reached"
    word = {"True": "done", "False": "not done", "Unknown": "not yet"}[condition.status]
    return f"{word}: {condition.reason}{f': {condition.message}' if condition.message else ''}"


def _training_rows(it: JobExplanation) -> list[tuple[str, str]]:
    status = it.job.status
    rows = []
    if progress := describe_training(it.job):
        rows.append(("progress", progress))
    if status.attempt:
        rows.append(("attempt", str(status.attempt)))
    if ended := say_attempts(it.job):
        rows.append(("ended before", ended))
    if status.lost_accelerator_seconds:
        rows.append(("done twice", f"{status.lost_accelerator_seconds:.0f} accelerator seconds"))
    if checkpoint := status.last_checkpoint:
        rows.append(("checkpoint", f"step {checkpoint.step}, {say_ago(it.now, checkpoint.time)}"))
    return rows


def _gate_rows(job: FineTuneJob) -> list[tuple[str, str]]:
    evaluation = job.status.evaluation
    if evaluation is None:
        return [("asked", describe_gate(gate)) for gate in job.spec.evaluate.gates]
    changes = {metric.name: say_change(metric) for metric in evaluation.metrics}
    return [
        (
            "holds" if verdict.passed else "fails",
            f"{verdict.metric}: {verdict.message or changes.get(verdict.metric, 'not computed')}",
        )
        for verdict in evaluation.gates
    ]
