"""Command line: `python -m bench.quota --json OUT [--part 0.1]`."""

from __future__ import annotations

import asyncio
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.quota.end_to_end import run_end_to_end
from bench.quota.policies import build_policies
from bench.quota.report import KUEUE, build_row, describe_machine, print_rows
from bench.quota.simulation import Simulation
from bench.quota.workload import build_workload

RECLAIM_EVERY_S = 30.0

SCENARIOS: dict[str, dict[str, bool]] = {
    "burst": {"burst": True},
    "baseline": {},
    "baseline on nodes of 8": {"whole_nodes": True},
    "one tenant of six rushes": {"whole_nodes": True, "rush": True},
}


class Only(StrEnum):
    """What is measured."""

    LEDGER = "ledger"
    END_TO_END = "end-to-end"


def main(
    *,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure here.")] = None,
    part: Annotated[float, typer.Option(min=0.02, max=1, help="Part of the 15,000 gangs.")] = 1.0,
    only: Annotated[
        Only, typer.Option(help="ledger: decisions in simulated time. end-to-end: a real API server and operator.")
    ] = Only.LEDGER,
    reclaim_every_s: Annotated[
        float, typer.Option(min=0, help="Pace at which the ledger looks whom to ask to go, in stretched seconds.")
    ] = RECLAIM_EVERY_S,
) -> None:
    """Measure the quota ledger on demand shaped like Kueue's published baseline, beside FIFO and strict priority.

    Time is simulated; only the processor time of the policies is real. With `--only end-to-end` a real API server, the
    scheduler and the operator do the work instead.
    """
    console = Console(width=150)
    if only is Only.END_TO_END:
        figures = {"machine": describe_machine(), "part": part, **asyncio.run(run_end_to_end(part))}
        console.print_json(data=figures)
        _write(json_out, figures)
        return
    rows: list[dict[str, Any]] = []
    machine = describe_machine()
    for name, options in SCENARIOS.items():
        workload = build_workload(part=part, **options)
        for policy_name, policy in build_policies(workload, reclaim_every_s=reclaim_every_s):
            rows.append(build_row(name, policy_name, Simulation(workload, policy).run()))
            console.print(f"{name}, {policy_name}: {rows[-1]['cpu_s']:.1f} s of processor time")
    print_rows(console, machine, rows)
    _write(json_out, {"machine": machine, "part": part, "rows": rows, "kueue": KUEUE})


def _write(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
