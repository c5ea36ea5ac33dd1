"""`llmos get`: objects of one kind as a table, or everything about one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType

from llmos.api import FineTuneJob
from llmos.cli.job_screen import draw_conditions, draw_job
from llmos.cli.kinds import Kind, find_resources
from llmos.cli.report import Health, Snapshot, State, compute_health
from llmos.cli.screen import Key, draw_accelerators, draw_jobs, draw_models, draw_pools, draw_problem
from llmos.cli.session import Session
from llmos.cli.status import build_console
from llmos.client import Client

_DRAW: Final[dict[Kind, Callable[[Any, Mapping[Key, Health]], RenderableType]]] = {
    Kind.MODEL: draw_models,
    Kind.POOL: draw_pools,
    Kind.JOB: draw_jobs,
    Kind.ACCELERATOR: lambda each, by_key: draw_accelerators(Snapshot((), (), (), each), by_key),
}


def run_get(session: Session, client: Client, kind: Kind, name: str, *, all_namespaces: bool, as_json: bool) -> None:
    """Print one object, or all of the kind if there is no name."""
    resources = find_resources(client, kind)
    if name:
        thing = resources.get(name)
        drawn = _draw_one(kind, thing, session.now())
        printed: Any = thing.to_manifest()
    else:
        scope = {} if kind is Kind.ACCELERATOR else {"all_namespaces": all_namespaces}
        things = resources.list(**scope)
        drawn = _draw_all(kind, things, session.now())
        printed = [thing.to_manifest() for thing in things]
    if as_json:
        print(json.dumps(printed, indent=2))
    else:
        build_console().print(drawn, soft_wrap=True)


def _draw_all(kind: Kind, things: tuple[Any, ...], now: datetime) -> RenderableType:
    healths = [compute_health(thing, now) for thing in things]
    return _DRAW[kind](things, {(each.kind, each.namespace, each.name): each for each in healths})


def _draw_one(kind: Kind, thing: Any, now: datetime) -> RenderableType:
    health = compute_health(thing, now)
    if isinstance(thing, FineTuneJob):
        return draw_job(thing, health)
    problem = [draw_problem(health)] if health.state is State.PROBLEM else []
    return Group(_draw_all(kind, (thing,), now), *problem, draw_conditions(thing.status.conditions))
