"""Draws the status screen: models, pools, jobs, accelerators, then what is wrong and what to do. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmos.api import AcceleratorClass, FetchProgress, FineTuneJob, InferencePool, LLMModel
from llmos.cli.job_progress import describe_training
from llmos.cli.report import Health, Snapshot, State, count_accelerators_in_use, find_problems

_STYLES: Final = {State.READY: "green", State.WORKING: "yellow", State.PROBLEM: "bold red"}
_MARKS: Final = {State.READY: "●", State.WORKING: "◌", State.PROBLEM: "✗"}
_LONGEST_MESSAGE: Final = 600

Key = tuple[str, str | None, str]


def draw_status(snapshot: Snapshot, healths: tuple[Health, ...], *, scope: str) -> RenderableType:
    """The whole screen. `scope` says what was looked at, for example `namespace default`."""
    by_key = {(health.kind, health.namespace, health.name): health for health in healths}
    problems = find_problems(healths)
    parts: list[RenderableType] = [
        draw_models(snapshot.models, by_key),
        draw_pools(snapshot.pools, by_key),
        *_draw_some_jobs(snapshot.jobs, by_key),
        draw_accelerators(snapshot, by_key),
        *_draw_working(healths),
        *(draw_problem(problem) for problem in problems),
        _draw_verdict(snapshot, problems, scope),
    ]
    return Group(*parts)


def build_table(title: str, *columns: str) -> Table:
    """A table without lines."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, style="", header_style="dim", overflow="fold")
    return table


def draw_name(namespace: str | None, name: str) -> str:
    """Namespace and name."""
    return f"{namespace}/{name}" if namespace else name


def draw_mark(health: Health) -> Text:
    """State and reason, coloured."""
    return Text(f"{_MARKS[health.state]} {health.reason}", style=_STYLES[health.state])


def draw_models(models: tuple[LLMModel, ...], by_key: Mapping[Key, Health]) -> RenderableType:
    """One line for each model."""
    if not models:
        return Text("MODELS  none\n", style="dim")
    table = build_table("MODELS", "NAME", "STATE", "MODEL")
    for model in models:
        namespace, name = model.metadata.namespace, model.metadata.name
        found = model.status.summary or model.spec.source.uri
        progress = describe_progress(model.status.fetch)
        what = f"{found}: {progress}" if progress else found
        table.add_row(draw_name(namespace, name), draw_mark(by_key["LLMModel", namespace, name]), Text(what))
    return Group(table, "")


def draw_pools(pools: tuple[InferencePool, ...], by_key: Mapping[Key, Health]) -> RenderableType:
    """One line for each pool."""
    if not pools:
        return Text("POOLS  none\n", style="dim")
    table = build_table("POOLS", "NAME", "STATE", "MODEL", "READY", "REPLICAS", "ACCELERATORS", "CONTEXT")
    for pool in pools:
        namespace, name = pool.metadata.namespace, pool.metadata.name
        table.add_row(
            draw_name(namespace, name),
            draw_mark(by_key["InferencePool", namespace, name]),
            pool.spec.model_ref.name,
            f"{pool.status.ready_replicas}/{pool.status.desired_replicas}",
            _replicas(pool),
            _accelerators(pool),
            str(pool.status.plan.max_model_len) if pool.status.plan else "-",
        )
    return Group(table, "")


def _accelerators(pool: InferencePool) -> str:
    status, wanted = pool.status, pool.spec.accelerator
    by_class = [f"{each.accelerators} x {each.class_name}" for each in status.accelerator_classes if each.accelerators]
    if by_class:
        return ", ".join(by_class)
    return f"{status.accelerators} x {wanted.class_name}" if status.accelerators else wanted.class_name


def _replicas(pool: InferencePool) -> str:
    status = pool.status
    notes = []
    if status.updated_replicas < status.replicas:
        notes.append(f"{status.replicas - status.updated_replicas} of an old revision")
    if status.draining_replicas:
        notes.append(f"{status.draining_replicas} draining")
    return f"{status.replicas} ({', '.join(notes)})" if notes else str(status.replicas)


def _draw_some_jobs(jobs: tuple[FineTuneJob, ...] | None, by_key: Mapping[Key, Health]) -> list[RenderableType]:
    if jobs is None:
        return [Text("JOBS  not shown: you may not list finetunejobs\n", style="dim")]
    return [draw_jobs(jobs, by_key)] if jobs else []


def draw_jobs(jobs: tuple[FineTuneJob, ...], by_key: Mapping[Key, Health]) -> RenderableType:
    """One line for each job."""
    table = build_table("JOBS", "NAME", "STATE", "BASE", "METHOD", "CLASS", "PROGRESS", "RESULT")
    for job in jobs:
        namespace, name = job.metadata.namespace, job.metadata.name
        made = job.status.output.model_ref if job.status.output else None
        table.add_row(
            draw_name(namespace, name),
            draw_mark(by_key["FineTuneJob", namespace, name]),
            job.spec.base_model_ref.name,
            job.spec.method.tuning,
            job.status.accelerator_class or job.spec.trainer.accelerator.class_name,
            describe_training(job) or "-",
            made.name if made else "-",
        )
    return Group(table, "")


def draw_accelerators(snapshot: Snapshot, by_key: Mapping[Key, Health]) -> RenderableType:
    """One line for each class."""
    if snapshot.accelerators is None:
        return Text("ACCELERATORS  not shown: you may not list acceleratorclasses\n", style="dim")
    if not snapshot.accelerators:
        return Text("ACCELERATORS  none found on the nodes\n", style="dim")
    table = build_table("ACCELERATORS", "CLASS", "STATE", "MEMORY", "NODES", "USED HERE", "CAPACITY")
    for each in snapshot.accelerators:
        table.add_row(*_accelerator_row(each, snapshot, by_key["AcceleratorClass", None, each.metadata.name]))
    return Group(table, "")


def _accelerator_row(each: AcceleratorClass, snapshot: Snapshot, health: Health) -> tuple[str | Text, ...]:
    used = count_accelerators_in_use(snapshot, each.metadata.name)
    status = each.status
    return each.metadata.name, draw_mark(health), each.spec.memory, str(status.nodes), str(used), str(status.capacity)


def _draw_working(healths: Iterable[Health]) -> list[RenderableType]:
    return [
        Text.assemble((f"{_MARKS[State.WORKING]} {health.title}", _STYLES[State.WORKING]), f": {health.message}")
        for health in healths
        if health.state is State.WORKING and health.message
    ]


def draw_problem(problem: Health) -> RenderableType:
    """What is wrong and what to do."""
    message = problem.message
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}... (all of it: kubectl describe {problem.kind.lower()} {problem.name})"
    lines = [
        Text.assemble((f"{_MARKS[State.PROBLEM]} {problem.title}: {problem.reason}", _STYLES[State.PROBLEM])),
        Text(f"  {message}"),
    ]
    if problem.remedy:
        lines.append(Text.assemble(("  what to do: ", "bold"), problem.remedy))
    return Group(*lines)


def _draw_verdict(snapshot: Snapshot, problems: tuple[Health, ...], scope: str) -> RenderableType:
    if problems:
        count = len(problems)
        return Text(f"{count} {'problem' if count == 1 else 'problems'} in {scope}.", style="bold red")
    if not (snapshot.models or snapshot.pools or snapshot.jobs):
        return Text(f"Nothing is served in {scope}. Apply an LLMModel and an InferencePool, or look elsewhere with -A.")
    return Text(f"Nothing is wrong in {scope}.", style="green")


def describe_progress(progress: FetchProgress | None) -> str:
    """How far a download is, for example `41 % of 14.2 GiB, 3 min to go`."""
    if progress is None or not progress.bytes_total:
        return ""
    share = f"{100 * progress.bytes_done // progress.bytes_total} % of {progress.bytes_total / 2**30:.1f} GiB"
    if progress.eta_seconds is None:
        return share
    return f"{share}, {timedelta(seconds=progress.eta_seconds)} to go"
