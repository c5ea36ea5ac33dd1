"""`llmos why POOL`: the autoscaler's decision in words. Reads status, decides nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llmos.api import InferencePool
from llmos.api.scaling import ReplicaCapacity, Scaling, ScalingInputs, ScalingStatus
from llmos.cli.exits import ExitCode
from llmos.client import Client, ready_condition
from llmos_operator.planning.schedule import ReplicaLimits, find_limits

_PROBLEMS = frozenset({"unschedulable", "staleInputs"})


@dataclass(frozen=True)
class Explanation:
    """What there is to say about the size of a pool."""

    pool: InferencePool
    now: datetime

    @property
    def scaling(self) -> Scaling | None:
        """What the user asks for; None for a fixed number."""
        return self.pool.spec.scaling

    @property
    def decision(self) -> ScalingStatus | None:
        """The last decision; None before the first one."""
        return self.pool.status.scaling

    @property
    def limits(self) -> ReplicaLimits | None:
        """The limits that hold now."""
        return find_limits(self.scaling, self.now) if self.scaling else None

    @property
    def exit_code(self) -> ExitCode:
        """Whether something is not as it should be."""
        if self.scaling is None:
            return ExitCode.OK
        if self.decision is None:
            return ExitCode.NOT_READY
        return ExitCode.PROBLEM if self.decision.bounded_by in _PROBLEMS else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The explanation for programs."""
        limits = self.limits
        return {
            "namespace": self.pool.metadata.namespace,
            "name": self.pool.metadata.name,
            "mode": self.scaling.mode if self.scaling else "fixed",
            "replicas": self.pool.spec.replicas,
            "limits": limits
            and {"minReplicas": limits.min_replicas, "maxReplicas": limits.max_replicas, "window": limits.window},
            "desiredReplicas": self.pool.status.desired_replicas,
            "readyReplicas": self.pool.status.ready_replicas,
            "scaling": self.decision.to_manifest() if self.decision else None,
        }


def run_why(client: Client, name: str, *, now: datetime, as_json: bool) -> ExitCode:
    """Print why the pool has the size that it has."""
    explanation = Explanation(client.pools.get(name), now)
    print(json.dumps(explanation.as_json(), indent=2) if as_json else draw_explanation(explanation))
    return explanation.exit_code


def save_samples(client: Client, name: str, path: Path, *, operator_namespace: str | None) -> int:
    """Write the operator's recorded decisions about a pool into a file; return how many."""
    lines = client.pools.scaling_samples(name, operator_namespace=operator_namespace)
    path.write_text(lines, encoding="utf-8")
    return lines.count("\n")


def draw_explanation(it: Explanation) -> str:
    """The decision first, then what it rests on, and why the pool is not ready."""
    return "\n".join(part for part in (*_draw_decision(it), _say_trouble(it.pool)) if part)


def _draw_decision(it: Explanation) -> tuple[str, ...]:
    scaling, decision, limits = it.scaling, it.decision, it.limits
    title = f"InferencePool {it.pool.metadata.namespace}/{it.pool.metadata.name}"
    if scaling is None or limits is None:
        return (f"{title}: spec.replicas fixes the number at {it.pool.spec.replicas}. Nothing is decided by load.",)
    if decision is None:
        return (f"{title}: the operator has not decided yet; {it.pool.status.desired_replicas} replicas are desired.",)
    return (
        f"{title}: {_say_decision(it, scaling, decision)}",
        f"  {decision.message}",
        draw_rows("Limits now", [_limits_row(limits)]),
        draw_rows("What it saw", _input_rows(decision.inputs)),
        draw_rows("What each target asks for", [(d.name, f"{d.replicas:g}  {d.message}") for d in decision.demands]),
        draw_rows("What one replica can do", _capacity_rows(decision.capacity)),
    )


def _say_trouble(pool: InferencePool) -> str:
    """Why it does not answer, which no number of replicas mends."""
    found = ready_condition(pool)
    return f"  Not ready ({found.reason}): {found.message}" if found and found.status == "False" else ""


def _say_decision(it: Explanation, scaling: Scaling, decision: ScalingStatus) -> str:
    since = (
        f" since {decision.since:%Y-%m-%d %H:%M:%S} UTC ({say_ago(it.now, decision.since)})" if decision.since else ""
    )
    bound = f", bounded by {decision.bounded_by}" if decision.bounded_by else ""
    advice = f" Only advice: {it.pool.status.desired_replicas} are desired." if scaling.mode == "advisory" else ""
    return (
        f"{decision.desired} replicas{since}{bound}; the load asks for {decision.raw:g}, "
        f"{it.pool.status.ready_replicas} answer.{advice}"
    )


def say_ago(now: datetime, then: datetime) -> str:
    """How long ago something was."""
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{seconds} s ago"


def _limits_row(limits: ReplicaLimits) -> tuple[str, str]:
    source = f"window {limits.window} of the schedule" if limits.window else "spec.scaling"
    return "replicas", f"{limits.min_replicas} to {limits.max_replicas} ({source})"


def _input_rows(inputs: ScalingInputs) -> list[tuple[str, str]]:
    rows = [
        ("requests", f"{inputs.queued} queued, {inputs.running} running, {inputs.arrivals_per_second:g} arrive/s"),
        (
            "tokens",
            f"{inputs.prompt_tokens_per_second:g} prompt/s arrive, "
            f"{inputs.generation_tokens_per_second:g}/s are generated",
        ),
        ("replicas", f"{inputs.ready} answer, {inputs.starting} start"),
    ]
    return [*rows, ("missing", ", ".join(inputs.stale))] if inputs.stale else rows


def _capacity_rows(capacity: ReplicaCapacity) -> list[tuple[str, str]]:
    rows = []
    if capacity.samples:
        rows += [
            ("measured", f"over {capacity.samples} busy seconds, revision {capacity.revision or 'unknown'}"),
            ("prefill", f"{capacity.prefill_tokens_per_second:g} tokens/s"),
            ("decode", f"{capacity.decode_tokens_per_second:g} tokens/s at {capacity.concurrency:g} requests at once"),
            (
                "step",
                f"{capacity.step_milliseconds:g} ms + {capacity.milliseconds_per_sequence:g} ms for each sequence + "
                f"{capacity.milliseconds_per_prompt_token:g} ms for each prompt token",
            ),
        ]
    if capacity.start_seconds:
        rows.append(("start", f"{capacity.start_seconds:g} s from creation to readiness"))
    return rows or [("measured", "nothing yet")]


def draw_rows(title: str, rows: list[tuple[str, str]], width: int = 12) -> str:
    """Rows of names and values under a title; empty without rows."""
    if not rows:
        return ""
    return "\n".join(["", f"{title}:", *(f"  {name:<{width}}{value}" for name, value in rows)])
