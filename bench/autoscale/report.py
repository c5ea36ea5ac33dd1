"""Tables, the JSON file, and what is printed first: who needs how many GPU-hours for which attainment."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.autoscale.fronts import (
    Comparison,
    Point,
    average,
    choose_best,
    choose_cheapest,
    compare,
    compute_front,
    is_peer,
)
from bench.autoscale.profiles import load_profile
from bench.autoscale.settings import OURS
from bench.autoscale.sweep import Figures, Scenario, to_json

GOALS = (0.90, 0.95, 0.98, 0.99, 0.999)
"""Shares of requests within the objectives for which the cheapest setting of each policy is shown."""


def build_report(scenario: Scenario, figures: Sequence[Figures], seeds: int) -> dict[str, Any]:
    """Everything as plain values."""
    points = average(figures)
    return {
        "machine": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}",
        "scenario": {**asdict(scenario), "trace": scenario.trace.name, "seeds": seeds},
        "profile": asdict(load_profile(scenario.gpu)),
        "points": [asdict(point) for point in points],
        "fronts": [
            {"policy": policy, "coldStartS": cold_start_s, "settings": [point.setting for point in front]}
            for (policy, cold_start_s), front in group_fronts(points).items()
        ],
        "comparisons": [{**asdict(comparison), "saving": comparison.saving} for comparison in compare(points)],
        "runs": [to_json(figure) for figure in figures],
    }


def group_fronts(points: Sequence[Point]) -> dict[tuple[str, float], list[Point]]:
    """Return the front of each policy for each cold start."""
    keys = dict.fromkeys((point.policy, point.cold_start_s) for point in points)
    return {key: compute_front(point for point in points if (point.policy, point.cold_start_s) == key) for key in keys}


def print_report(scenario: Scenario, points: Sequence[Point], console: Console) -> None:
    """The same for a person."""
    for cold_start_s in dict.fromkeys(point.cold_start_s for point in points):
        here = [point for point in points if point.cold_start_s == cold_start_s]
        title = (
            f"{scenario.trace.stem} x {scenario.rate_scale:g} on {scenario.gpu}, cold start {cold_start_s:g} s, "
            f"TTFT <= {scenario.ttft_s:g} s and TPOT <= {scenario.tpot_s * 1000:g} ms"
        )
        console.print(_build_table(title, here))
        console.print(_build_goals_table(here))
        console.print(_build_comparison_table([c for c in compare(here) if c.cold_start_s == cold_start_s]))


def _build_table(title: str, points: Sequence[Point]) -> Table:
    table = Table(title=title)
    for column in ("policy", "setting", "within SLO %", "GPU-hours", "TTFT p99 s", "TPOT p99 ms", "changes", "most"):
        _add_column(table, column)
    for policy in dict.fromkeys(point.policy for point in points):
        mine = [point for point in points if point.policy == policy]
        default, best = next(point for point in mine if point.is_default), choose_best(mine)
        if policy != "static":
            _add_row(table, default, "default: ")
        _add_row(table, best, "best: ")
    return table


def _add_row(table: Table, point: Point, prefix: str) -> None:
    table.add_row(
        point.policy,
        prefix + point.setting,
        f"{point.attainment * 100:.2f}",
        f"{point.gpu_hours:.2f}",
        f"{point.ttft_p99_s:.1f}" if point.ttft_p99_s < 1e6 else "never",
        f"{point.tpot_p99_s * 1000:.0f}" if point.tpot_p99_s < 1e6 else "never",
        f"{point.changes:.0f}",
        f"{point.most_replicas}",
    )


def _build_goals_table(points: Sequence[Point]) -> Table:
    table = Table(title="GPU-hours of the cheapest setting that holds the objectives for this share of requests")
    table.add_column("policy")
    for goal in GOALS:
        table.add_column(f"{goal:.1%}", justify="right")
    for policy in dict.fromkeys(point.policy for point in points):
        mine = [point for point in points if point.policy == policy]
        cheapest = [choose_cheapest(mine, goal) for goal in GOALS]
        table.add_row(policy, *(f"{point.gpu_hours:.2f}" if point else "-" for point in cheapest))
    return table


def _build_comparison_table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(title=f"{OURS} against each policy at its best setting, on the front of all settings of {OURS}")
    for column in ("policy", "setting", "within SLO %", "GPU-hours", "ours, same SLO", "saving", "ours, same hours %"):
        _add_column(table, column)
    for it in comparisons:
        table.add_row(
            it.policy if is_peer(it.policy) else f"({it.policy})",
            it.setting,
            f"{it.attainment * 100:.2f}",
            f"{it.gpu_hours:.2f}",
            "-" if it.ours_hours is None else f"{it.ours_hours:.2f}",
            "-" if it.saving is None else f"{it.saving:.0%}",
            "-" if it.ours_attainment is None else f"{it.ours_attainment * 100:.2f}",
        )
    return table


def _add_column(table: Table, name: str) -> None:
    is_text = name in {"policy", "setting"}
    table.add_column(name, justify="left" if is_text else "right", no_wrap=name != "setting", overflow="fold")
