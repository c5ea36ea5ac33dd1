"""Draws the status screen: models, pools, accelerators, then what is wrong and what to do. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmos.api import AcceleratorClass, FetchProgress, InferencePool, LLMModel
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
        _draw_models(snapshot.models, by_key),
        _draw_pools(snapshot.pools, by_key),
        _draw_accelerators(snapshot, by_key),
        *_draw_working(healths),
        *(_draw_problem(problem) for problem in problems),
        _draw_verdict(snapshot, problems, scope),
    ]
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, style="", header_style="dim", overflow="fold")
    return table


def _name(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _mark(health: Health) -> Text:
    return Text(f"{_MARKS[health.state]} {health.reason}", style=_STYLES[health.state])


def _draw_models(models: tuple[LLMModel, ...], by_key: Mapping[Key, Health]) -> RenderableType:
    if not models:
        return Text("MODELS  none\n", style="dim")
    table = _table("MODELS", "NAME", "STATE", "MODEL")
    for model in models:
        namespace, name = model.metadata.namespace, model.metadata.name
        found = model.status.summary or model.spec.source.uri
        progress = describe_progress(model.status.fetch)
        what = f"{found}: {progress}" if progress else found
        table.add_row(_name(namespace, name), _mark(by_key["LLMModel", namespace, name]), Text(what))
    return Group(table, "")


def _draw_pools(pools: tuple[InferencePool, ...], by_key: Mapping[Key, Health]) -> RenderableType:
    if not pools:
        return Text("POOLS  none\n", style="dim")
    table = _table("POOLS", "NAME", "STATE", "MODEL", "READY", "REPLICAS", "ACCELERATORS", "CONTEXT")
    for pool in pools:
        namespace, name = pool.metadata.namespace, pool.metadata.name
        wanted = pool.spec.accelerator
        table.add_row(
            _name(namespace, name),
            _mark(by_key["InferencePool", namespace, name]),
            pool.spec.model_ref.name,
            f"{pool.status.ready_replicas}/{pool.status.desired_replicas}",
            _replicas(pool),
            f"{pool.status.accelerators} x {wanted.class_name}" if pool.status.accelerators else wanted.class_name,
            str(pool.status.plan.max_model_len) if pool.status.plan else "-",
        )
    return Group(table, "")


def _replicas(pool: InferencePool) -> str:
    status = pool.status
    notes = []
    if status.updated_replicas < status.replicas:
        notes.append(f"{status.replicas - status.updated_replicas} of an old revision")
    if status.draining_replicas:
        notes.append(f"{status.draining_replicas} draining")
    return f"{status.replicas} ({', '.join(notes)})" if notes else str(status.replicas)


def _draw_accelerators(snapshot: Snapshot, by_key: Mapping[Key, Health]) -> RenderableType:
    if snapshot.accelerators is None:
        return Text("ACCELERATORS  not shown: you may not list acceleratorclasses\n", style="dim")
    if not snapshot.accelerators:
        return Text("ACCELERATORS  none found on the nodes\n", style="dim")
    table = _table("ACCELERATORS", "CLASS", "STATE", "MEMORY", "NODES", "USED HERE", "CAPACITY")
    for each in snapshot.accelerators:
        table.add_row(*_accelerator_row(each, snapshot, by_key["AcceleratorClass", None, each.metadata.name]))
    return Group(table, "")


def _accelerator_row(each: AcceleratorClass, snapshot: Snapshot, health: Health) -> tuple[str | Text, ...]:
    used = count_accelerators_in_use(snapshot, each.metadata.name)
    status = each.status
    return each.metadata.name, _mark(health), each.spec.memory, str(status.nodes), str(used), str(status.capacity)


def _draw_working(healths: Iterable[Health]) -> list[RenderableType]:
    return [
        Text.assemble((f"{_MARKS[State.WORKING]} {health.title}", _STYLES[State.WORKING]), f": {health.message}")
        for health in healths
        if health.state is State.WORKING and health.message
    ]


def _draw_problem(problem: Health) -> RenderableType:
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
    if not (snapshot.models or snapshot.pools):
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
