"""Command line: `python -m bench.autoscale --trace FILE --format azure|mooncake --policies all --json OUT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from bench.autoscale.fronts import Point, average, choose_best, is_peer
from bench.autoscale.plots import draw_fronts, draw_timeline
from bench.autoscale.profiles import GPUS, load_profile
from bench.autoscale.report import build_report, print_report
from bench.autoscale.settings import OURS, POLICIES
from bench.autoscale.sweep import FIRST_SEED, Run, Scenario, plan_runs, run_all, simulate
from bench.autoscale.traces import TraceFormat

DATA = Path(__file__).parent / "data"


def main(
    trace: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Trace file.")] = DATA
    / "azure_2023_conv.csv",
    trace_format: Annotated[str, typer.Option("--format", help="azure or mooncake.")] = "azure",
    policies: Annotated[str, typer.Option(help=f"all, or names with commas: {', '.join(POLICIES)}.")] = "all",
    cold_start: Annotated[str, typer.Option(help="Seconds from a replica's creation to its readiness.")] = "30,60,180",
    rate_scale: Annotated[float, typer.Option(min=0.01, help="Load as a multiple of the trace's.")] = 1.0,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each setting, each with a slightly shuffled trace.")] = 5,
    gpu: Annotated[str, typer.Option(help=f"Profile: {' or '.join(GPUS)}.")] = "l40s",
    ttft: Annotated[float | None, typer.Option(help="Objective in seconds; the profile's if not given.")] = None,
    tpot: Annotated[float | None, typer.Option(help="Objective in seconds; the profile's if not given.")] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Seconds at first of which nothing is counted.")] = 600,
    workers: Annotated[int, typer.Option(min=1, help="Processes; at most 2.")] = 2,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every run and comparison here.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Directory for plots as SVG.")] = None,
) -> None:
    """Compare autoscaling policies on a trace of requests, by simulation.

    Each policy is tried with all its settings. Prints, for each cold start: every policy's default and best setting,
    the cheapest setting that holds the objectives for 90 to 99.9 % of the requests, and what ours needs for the same.
    """
    scenario = _build_scenario(trace, trace_format, gpu, rate_scale, ttft, tpot, warmup)
    cold_starts_s = _parse_cold_starts(cold_start)
    runs = plan_runs(scenario, _parse_policies(policies), cold_starts_s, seeds)
    console = Console()
    progress = track(run_all(runs, workers), total=len(runs), console=Console(stderr=True), description="simulating")
    figures = list(progress)
    points = average(figures)
    print_report(scenario, points, console)
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        report = build_report(scenario, figures, seeds)
        json_out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for cold_start_s in cold_starts_s:
            _write_plots(plots, scenario, [p for p in points if p.cold_start_s == cold_start_s], cold_start_s)


def _build_scenario(
    trace: Path, trace_format: str, gpu: str, rate_scale: float, ttft: float | None, tpot: float | None, warmup: int
) -> Scenario:
    formats: dict[str, TraceFormat] = {"azure": "azure", "mooncake": "mooncake"}
    if trace_format not in formats:
        raise typer.BadParameter(f"{trace_format} is none of {', '.join(formats)}", param_hint="--format")
    if gpu not in GPUS:
        raise typer.BadParameter(f"{gpu} is none of {', '.join(GPUS)}", param_hint="--gpu")
    profile = load_profile(gpu)
    return Scenario(
        trace, formats[trace_format], gpu, rate_scale, ttft or profile.ttft_s, tpot or profile.tpot_s, warmup
    )


def _parse_policies(text: str) -> list[str]:
    names = list(POLICIES) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is none of {', '.join(POLICIES)}", param_hint="--policies")
    return names


def _parse_cold_starts(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter("expected seconds with commas, as 30,60,180", param_hint="--cold-start") from error


def _write_plots(directory: Path, scenario: Scenario, points: list[Point], cold_start_s: float) -> None:
    name = f"{scenario.trace.stem}-{scenario.gpu}-x{scenario.rate_scale:g}-cold{cold_start_s:g}"
    title = f"{scenario.trace.stem} x {scenario.rate_scale:g}, {scenario.gpu}, cold start {cold_start_s:g} s"
    most_hours = 3 * min((p.gpu_hours for p in points if p.attainment >= 0.95), default=20.0)
    (directory / f"{name}-front.svg").write_text(draw_fronts(title, points, most_hours), encoding="utf-8")
    shown = [
        choose_best([point for point in points if point.policy == policy])
        for policy in dict.fromkeys(point.policy for point in points)
        if policy in {OURS, "clairvoyant"} or is_peer(policy)
    ]
    shown.sort(key=lambda point: (point.policy != OURS, point.policy != "clairvoyant", -point.attainment))
    series = [(point.policy, _replay(scenario, point, cold_start_s)) for point in shown[:4]]
    (directory / f"{name}-time.svg").write_text(draw_timeline(title, series), encoding="utf-8")


def _replay(scenario: Scenario, point: Point, cold_start_s: float) -> list[int]:
    """Return the replicas of each second of one setting's first seed."""
    labels = [setting.label for setting in POLICIES[point.policy]()]
    _, outcome = simulate(Run(scenario, cold_start_s, FIRST_SEED, point.policy, labels.index(point.setting)))
    return [second[0] for second in outcome.timeline]


if __name__ == "__main__":
    typer.run(main)
