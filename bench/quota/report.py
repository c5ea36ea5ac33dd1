"""What is printed and written: the machine, one row for each scenario and policy, and Kueue's figures in words."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from statistics import mean, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.quota.simulation import Result, Track
from bench.quota.workload import SIZES, STRETCH, Workload, is_first

TARGET_ADMISSIONS_PER_S = 1000

KUEUE = (
    "Kueue (commit ff69552e), its own runner with a real API server on a machine of the same kind (2 cores): the "
    "baseline cut to 1 of 5 cohorts (3,000 workloads) takes 168 s where full use of the quota needs 66 s, 37 % mean "
    "use; mean wait small 120.8 s, medium 79.8 s, large 9.5 s. In a burst it admits 48 to 58 workloads a second, "
    "limited by the API server. Kueue publishes 351 s for all 15,000, with mean waits of 215 s, 77 s and 17 s and "
    "56 % use. Those times contain an API server; the ones above contain decisions only and a clock without delay."
)


def describe_machine() -> dict[str, Any]:
    """What the processor times depend on."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def build_row(scenario: str, policy: str, result: Result) -> dict[str, Any]:
    """Return the figures of one run; times in seconds of the generator, not stretched."""
    tracks = result.tracks
    return {
        "scenario": scenario,
        "policy": policy,
        "gangs": len(tracks),
        "makespan_s": result.makespan_s / STRETCH,
        "ideal_s": result.workload.work_s / result.workload.accelerators / STRETCH,
        "use": result.use,
        "wait": {size.name: _waits(track for track in tracks if track.job.size == size.name) for size in SIZES},
        "wait_of_neighbours": _waits(track for track in tracks if not is_first(track.job.gang.tenant)),
        "worst_tenant_mean_wait_s": max(_mean_waits(result.workload, tracks).values()),
        "asked_to_go": result.asked,
        "admissions": result.admissions,
        "moments": result.moments,
        "cpu_s": result.cpu_s,
        "admissions_per_cpu_s": result.admissions / result.cpu_s,
        "slowest_decision_ms": result.slowest_s * 1000,
    }


def _waits(tracks: Iterable[Track]) -> dict[str, float] | None:
    waits = [track.waited_s / STRETCH for track in tracks]
    if len(waits) < 2:
        return None
    return {"mean_s": mean(waits), "p95_s": quantiles(waits, n=20)[-1], "max_s": max(waits)}


def _mean_waits(workload: Workload, tracks: Iterable[Track]) -> dict[str, float]:
    waits: dict[str, list[float]] = {tenant.name: [] for tenant in workload.tenants}
    for track in tracks:
        waits[track.job.gang.tenant].append(track.waited_s / STRETCH)
    return {name: mean(values) for name, values in waits.items()}


def print_rows(console: Console, machine: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print the table, the verdict and Kueue's figures."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    table = Table(title="times in s of the generator: mean (95th percentile)")
    for name in ("scenario", "policy", "makespan", "use", "small", "medium", "large", "neighbours", "asked", "adm/s"):
        table.add_column(name, justify="left" if name in ("scenario", "policy") else "right")
    for row in rows:
        table.add_row(
            row["scenario"],
            row["policy"],
            f"{row['makespan_s']:.1f} / {row['ideal_s']:.1f}",
            f"{row['use']:.0%}",
            *(_say(row["wait"][size.name]) for size in SIZES),
            _say(row["wait_of_neighbours"]),
            str(row["asked_to_go"]),
            f"{row['admissions_per_cpu_s']:,.0f}",
        )
    console.print(table)
    slowest = min(row["admissions_per_cpu_s"] for row in rows if row["policy"] == "LLMOS ledger")
    verdict = "met" if slowest >= TARGET_ADMISSIONS_PER_S else "missed"
    console.print(
        f"Target: at least {TARGET_ADMISSIONS_PER_S:,} admissions for each second of processor time. Ledger, worst "
        f"scenario: {slowest:,.0f}, {verdict}."
    )
    console.print(KUEUE)


def _say(wait: dict[str, float] | None) -> str:
    return "" if wait is None else f"{wait['mean_s']:.1f} ({wait['p95_s']:.1f})"
