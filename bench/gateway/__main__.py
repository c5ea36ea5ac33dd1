"""Command line: `python -m bench.gateway --json OUT [--only SCENARIO] [--side SIDE] [--seconds N]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.gateway import report
from bench.gateway.load import run_closed_loop, run_open_loop, run_streams
from bench.gateway.processes import CannotStartError, Cores, find_program
from bench.gateway.servers.load import RAMP_S
from bench.gateway.sides import FOLDER, LAUNCHES, Launch, Side, install, run_backend, run_side

CONNECTIONS = {"alone": (1,), "throughput": (32, 128)}


class Scenario(StrEnum):
    """What can be measured."""

    ALONE = "alone"
    THROUGHPUT = "throughput"
    STEADY = "steady"
    STREAMS = "streams"


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    scenarios: tuple[Scenario, ...]
    cores: Cores
    seconds: float
    rate: float
    streams: int
    tokens_per_s: float

    @property
    def tokens(self) -> int:
        """Tokens of one stream: all are open at a time for `seconds`."""
        return round(self.tokens_per_s * (self.seconds + RAMP_S))


def main(
    *,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every measured value here.")] = None,
    only: Annotated[list[Scenario] | None, typer.Option(help="Run only this; may be repeated.")] = None,
    side: Annotated[list[str] | None, typer.Option(help="Measure only this side; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Of each measurement.")] = 8.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each measurement, one side after the other.")] = 3,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second of the steady scenario.")] = 1000.0,
    streams: Annotated[int, typer.Option(min=1, help="Of the streams scenario.")] = 1000,
    tokens_per_s: Annotated[float, typer.Option(min=1, help="Of each stream.")] = 30.0,
    load_core: Annotated[int, typer.Option(min=0, help="Core of load and backend.")] = 0,
    router_core: Annotated[int, typer.Option(min=0, help="Core of the side that is measured.")] = 1,
) -> None:
    """Measure what the gateway costs, beside a bare pass-through and other routers."""
    console = Console()
    plan = Plan(tuple(only or Scenario), Cores(load_core, router_core), seconds, rate, streams, tokens_per_s)
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        plan.cores.check()
        find_program("taskset", "util-linux")
        find_program("wrk", "wrk")
    except CannotStartError as error:
        console.print(f"[red]{error}[/]")
        raise typer.Exit(2) from None
    machine = report.observe_machine()
    sides = measure(console, plan, repeats, side)
    report.print_all(console, machine, sides, streams)
    if json_out is not None:
        settings = {"seconds": seconds, "repeats": repeats, "rate": rate, "streams": streams, "tokens": plan.tokens}
        report.write_json(json_out, machine, settings, sides)


def measure(console: Console, plan: Plan, repeats: int, wanted: Sequence[str] | None) -> dict[str, report.Side]:
    """Measure all sides, one after the other, as often as asked for."""
    launches = [launch for launch in LAUNCHES if not wanted or launch.name in wanted]
    sides = {"direct": report.Side(), **{launch.name: report.Side() for launch in launches}}
    for launch in launches:
        _install(console, launch, sides[launch.name])
    with run_backend(plan.cores, plan.tokens_per_s, plan.tokens) as (direct, backends):
        for repeat in range(repeats):
            console.print(f"run {repeat + 1} of {repeats}: direct")
            _measure_side(plan, direct, sides["direct"])
            for launch in launches:
                found = sides[launch.name]
                if found.left_out:
                    continue
                console.print(f"run {repeat + 1} of {repeats}: {launch.name}")
                try:
                    with run_side(launch, plan.cores, backends) as side:
                        _measure_side(plan, side, found)
                except CannotStartError as error:
                    found.left_out = str(error)
    return sides


def _install(console: Console, launch: Launch, found: report.Side) -> None:
    try:
        if launch.package:
            console.print(f"installing {launch.package}")
        found.version = install(launch)
    except CannotStartError as error:
        found.left_out = str(error)


def _measure_side(plan: Plan, side: Side, found: report.Side) -> None:
    for scenario, counts in CONNECTIONS.items():
        if Scenario(scenario) in plan.scenarios:
            for connections in counts:
                run = run_closed_loop(side, plan.cores, connections, plan.seconds)
                found.closed.setdefault(connections, []).append(run)
    # A side that cannot carry the rate would be measured by the length of its queue.
    best = found.get_closed(32, "requests_per_s")
    if best is not None and best < 1.2 * plan.rate:
        note = f"no steady rate and no streams: {best:,.0f} requests/s is all that it carries"
        found.notes = [note]
        return
    if Scenario.STEADY in plan.scenarios:
        found.steady.append(run_open_loop(side, plan.cores, plan.rate, plan.seconds))
    if Scenario.STREAMS in plan.scenarios:
        found.streams.append(run_streams(side, plan.cores, plan.streams, plan.tokens))


if __name__ == "__main__":
    typer.run(main)
