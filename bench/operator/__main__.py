"""Command line: `python -m bench.operator --json OUT [--only SCENARIO]...`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from bench.operator.figures import Outcome
from bench.operator.report import Report
from bench.operator.scenarios import burst, first_pod, footprint, latency, scale_down, step, throughput
from bench.operator.stage import Cluster, Stage, start_stage
from llmos_operator.runtime.app import Options

REPORT_COLUMNS = 200
"""Width of the table where it does not go to a terminal."""


class Scenario(StrEnum):
    """What can be measured."""

    THROUGHPUT = "throughput"
    LATENCY = "latency"
    FIRST_POD = "first-pod"
    BURST = "burst"
    READY = "ready"
    FOOTPRINT = "footprint"
    SCALE_DOWN = "scale-down"
    STEP = "step"


ON_A_NODE = {Scenario.SCALE_DOWN: scale_down.measure, Scenario.STEP: step.measure}
"""Scenarios whose pods must answer."""


def main(
    *,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every measured value here.")] = None,
    only: Annotated[list[Scenario] | None, typer.Option(help="Run only this; may be repeated.")] = None,
    cluster: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Kubeconfig of a cluster with a node and LLMOS: for scale-down and step."
        ),
    ] = None,
    objects: Annotated[int, typer.Option(min=10, help="Pools of the throughput scenario.")] = 500,
    burst_objects: Annotated[int, typer.Option(min=10, help="Pools of the bursts.")] = 200,
    footprint_pools: Annotated[int, typer.Option(min=8, max=2400, help="Pools with two pods each.")] = 2000,
    change_s: Annotated[float, typer.Option(min=1, help="How long the latency scenario changes pools.")] = 30.0,
    rest_s: Annotated[
        float, typer.Option(min=5, help="How long the footprint scenario rests; a whole resync by default.")
    ] = Options().resync_s,
) -> None:
    """Measure the operator on a real kube-apiserver and etcd that are started for it, and print targets and verdicts.

    scale-down and step need a node that runs pods, step a gateway too. They run only with --cluster, which leaves out
    the scenarios that bring their own control plane unless --only names them.
    """
    console = Console(width=None if sys.stdout.isatty() else REPORT_COLUMNS)
    wanted = list(only) if only else [scenario for scenario in Scenario if (scenario in ON_A_NODE) == bool(cluster)]
    on_a_node = [scenario for scenario in wanted if scenario in ON_A_NODE]
    if on_a_node and cluster is None:
        raise typer.BadParameter(f"{on_a_node[0]} needs a running cluster: name its kubeconfig with --cluster.")
    steps: dict[Scenario, Callable[[Cluster], Awaitable[Outcome]]] = {
        Scenario.THROUGHPUT: lambda own: throughput.measure(own, objects),
        Scenario.LATENCY: lambda own: latency.measure(own, change_s),
        Scenario.FIRST_POD: first_pod.measure,
        Scenario.BURST: lambda own: burst.measure_empty(own, burst_objects),
        Scenario.READY: lambda own: burst.measure_ready(own, burst_objects),
        Scenario.FOOTPRINT: lambda own: footprint.measure(own, footprint_pools, rest_s),
    }
    report = Report(console, json_out)
    own_steps = {scenario: step for scenario, step in steps.items() if scenario in wanted}
    if own_steps:
        with tempfile.TemporaryDirectory(prefix="llmos-bench-") as folder, start_stage(Path(folder) / "plane") as stage:
            uvloop.run(_run_steps(stage, own_steps, report))
    for scenario in on_a_node:
        assert cluster is not None
        with report.scenario(scenario) as put:
            put(uvloop.run(ON_A_NODE[scenario](cluster)))
    report.print_all()


async def _run_steps(
    stage: Stage, steps: dict[Scenario, Callable[[Cluster], Awaitable[Outcome]]], report: Report
) -> None:
    await stage.prepare()
    async with stage.connect() as cluster:
        for scenario, step in steps.items():
            with report.scenario(scenario) as put:
                put(await step(cluster))


if __name__ == "__main__":
    typer.run(main)
