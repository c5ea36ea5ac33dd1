"""One setting for everything: `python -m bench.autoscale.across CONV.json CODE.json ...`.

The best setting of a policy differs from one trace, GPU and cold start to the next, and is known only afterwards. So
this reads the files of several scenarios, and finds for each policy the one setting that does best in all of them: the
cheapest that reaches a share of requests within the objectives everywhere, and the one whose worst share is highest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.autoscale.settings import REFERENCES

GOALS = (0.90, 0.95, 0.97)


@dataclass(frozen=True, slots=True)
class Everywhere:
    """A setting over all scenarios and cold starts."""

    policy: str
    setting: str
    is_default: bool
    worst: float
    """Least share of requests within the objectives."""
    gpu_hours: float
    """Sum over all."""


def gather(reports: Iterable[dict[str, Any]]) -> list[Everywhere]:
    """Return every setting that all reports hold. The clairvoyant is told each trace, and is left out."""
    points: dict[tuple[str, str], list[dict[str, Any]]] = {}
    scenarios: set[tuple[int, float]] = set()
    for number, report in enumerate(reports):
        for point in report["points"]:
            scenarios.add((number, point["cold_start_s"]))
            points.setdefault((point["policy"], point["setting"]), []).append(point)
    return [
        Everywhere(
            policy=policy,
            setting=setting,
            is_default=all(point["is_default"] for point in mine),
            worst=min(point["attainment"] for point in mine),
            gpu_hours=sum(point["gpu_hours"] for point in mine),
        )
        for (policy, setting), mine in points.items()
        if len(mine) == len(scenarios) and policy != REFERENCES[1]
    ]


def choose(settings: Sequence[Everywhere], goal: float) -> Everywhere | None:
    """Return the cheapest setting that reaches `goal` everywhere."""
    return min((it for it in settings if it.worst >= goal), key=lambda it: it.gpu_hours, default=None)


def main(files: Annotated[list[Path], typer.Argument(exists=True, help="JSON files of bench.autoscale.")]) -> None:
    """Find the setting of each policy that does best in all scenarios."""
    settings = gather(json.loads(path.read_text(encoding="utf-8")) for path in files)
    table = Table(title=f"One setting in {len(files)} scenarios: GPU-hours in all if so many are in time in each")
    table.add_column("policy")
    for goal in GOALS:
        table.add_column(f"{goal:.0%}", justify="right")
    for name in ("default: worst %", "GPU-hours", "best worst %", "GPU-hours", "setting"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for policy in dict.fromkeys(it.policy for it in settings):
        mine = [it for it in settings if it.policy == policy]
        cheapest = [choose(mine, goal) for goal in GOALS]
        default = next((it for it in mine if it.is_default), None)
        best = max(mine, key=lambda it: it.worst)
        table.add_row(
            policy,
            *(f"{it.gpu_hours:.1f}" if it else "-" for it in cheapest),
            f"{default.worst * 100:.1f}" if default else "-",
            f"{default.gpu_hours:.1f}" if default else "-",
            f"{best.worst * 100:.1f}",
            f"{best.gpu_hours:.1f}",
            best.setting,
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
