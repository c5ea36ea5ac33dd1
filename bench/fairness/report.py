"""What is printed and written: a row for each scenario and side, and which targets are met."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.fairness.figures import Figures

OURS = "LLMOS"
RATIO_WITHIN, LEAST_THROUGHPUT, MOST_TTFT = 0.05, 0.99, 1.2


def describe_machine() -> dict[str, Any]:
    """Where it was run. Time is simulated, so the machine changes nothing but the wait for the result."""
    return {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}


def judge(rows: Sequence[Figures]) -> list[dict[str, Any]]:
    """Return each target in each scenario: what was reached, and whether that meets it."""
    verdicts = []
    for row in rows:
        if row.side != OURS:
            continue
        beside = {other.side: other for other in rows if other.scenario == row.scenario}
        throughput = row.service_per_s / beside["FCFS"].service_per_s
        verdicts.append(_build(row, "throughput over FCFS", throughput, throughput >= LEAST_THROUGHPUT))
        if row.ratio is not None and row.gap is not None and row.bound is not None:
            is_even = abs(row.ratio - 1) <= RATIO_WITHIN
            verdicts.append(_build(row, "shares over weights", row.ratio, is_even))
            verdicts.append(_build(row, "gap over bound", row.gap / row.bound, row.gap <= row.bound))
        if row.victim_p99_s is not None and (alone := beside["victim alone"].victim_p99_s):
            verdicts.append(
                _build(row, "victim p99 over alone", row.victim_p99_s / alone, row.victim_p99_s <= MOST_TTFT * alone)
            )
    return verdicts


def _build(row: Figures, target: str, value: float, is_met: bool) -> dict[str, Any]:
    return {"scenario": row.scenario, "target": target, "value": value, "met": is_met}


def print_report(console: Console, rows: Sequence[Figures], verdicts: Sequence[dict[str, Any]]) -> None:
    """Print both tables."""
    table = Table(title="service and gap in the price of prompt tokens; waits in s")
    for name in (
        "scenario",
        "side",
        "service/s",
        "of FCFS",
        "requests/s",
        "refused",
        "ratio",
        "gap / bound",
        "in engines",
        "victim p50",
        "p99",
    ):
        table.add_column(name, justify="left" if name in {"scenario", "side"} else "right")
    fcfs = {row.scenario: row.service_per_s for row in rows if row.side == "FCFS"}
    for row in rows:
        table.add_row(
            row.scenario,
            row.side,
            f"{row.service_per_s:,.0f}",
            f"{row.service_per_s / fcfs[row.scenario]:.1%}",
            f"{row.requests_per_s:.1f}",
            str(row.refused),
            "" if row.ratio is None else f"{row.ratio:.3f}",
            "" if row.gap is None or row.bound is None else f"{row.gap:,.0f} / {row.bound:,.0f}",
            f"{row.waiting_in_engines:.0f}",
            "" if row.victim_p50_s is None else f"{row.victim_p50_s:.2f}",
            "" if row.victim_p99_s is None else f"{row.victim_p99_s:.2f}",
        )
    console.print(table)
    for verdict in verdicts:
        word = "met" if verdict["met"] else "missed"
        console.print(f"{verdict['scenario']}: {verdict['target']} {verdict['value']:.3f}, {word}")
