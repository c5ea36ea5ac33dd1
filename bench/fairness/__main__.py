"""Command line: `python -m bench.fairness --json OUT [--seconds 300]`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.fairness.figures import WARMUP_S, Figures, compute_figures
from bench.fairness.report import OURS, describe_machine, judge, print_report
from bench.fairness.sides import Kthena, Llmos, Passing, PerMinute, Side, VictimFirst
from bench.fairness.simulation import Result, Simulation
from bench.fairness.workload import Scenario, build_scenarios

BuildSide = Callable[[int, Callable[[str], float]], Side]


def main(
    *,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure here.")] = None,
    seconds: Annotated[float, typer.Option(min=WARMUP_S + 20, help="Simulated time of each run.")] = 300.0,
    only: Annotated[str, typer.Option(help="Scenarios whose names hold this word.")] = "",
) -> None:
    """Simulate tenants that share a busy pool under FCFS, a limit of requests, Kthena's rule and ours.

    Time is simulated; the queue, the counters and the window are the gateway's own code.
    """
    console = Console(width=170)
    rows: list[Figures] = []
    for scenario in build_scenarios():
        if only in scenario.name:
            rows += _measure(scenario, seconds)
            console.print(f"{scenario.name}: done")
    verdicts = judge(rows)
    print_report(console, rows, verdicts)
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "machine": describe_machine(),
            "seconds": seconds,
            "rows": [asdict(row) for row in rows],
            "verdicts": verdicts,
        }
        json_out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _measure(scenario: Scenario, seconds: float) -> Iterator[Figures]:
    names = [tenant.name for tenant in scenario.tenants]
    if "victim" in names:
        yield compute_figures("victim alone", _run(scenario.keep_only("victim"), lambda *_: Passing(), seconds))
    fcfs = _run(scenario, lambda *_: Passing(), seconds)
    yield compute_figures("FCFS", fcfs)
    per_minute = 60 * compute_figures("FCFS", fcfs).requests_per_s / len(names) / scenario.gateways
    running = max(1, round(sum(fcfs.running[WARMUP_S:]) / len(fcfs.running[WARMUP_S:]) / scenario.gateways))
    others: dict[str, BuildSide] = {
        "requests per minute": lambda *_: PerMinute(per_minute),
        "Kthena as shipped": lambda *_: Kthena(),
        "Kthena, 32 at once": lambda *_: Kthena(32),
        "Kthena, as many as run": lambda *_: Kthena(running),
        OURS: lambda _, told: Llmos(scenario.tenants, scenario.replicas, gateways=scenario.gateways, others=told),
    }
    if "victim" in names:
        others["victim first"] = lambda *_: VictimFirst()
    for name, build in others.items():
        yield compute_figures(name, _run(scenario, build, seconds))


def _run(scenario: Scenario, build: BuildSide, seconds: float) -> Result:
    return Simulation(scenario, build, seconds=seconds).run()


if __name__ == "__main__":
    typer.run(main)
