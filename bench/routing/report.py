"""Prints the tables and builds the JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.routing.contest import OURS, PEERS, Result
from bench.routing.decisions import Timing

__all__ = ["build_report", "print_decisions", "print_results"]

_NOISE = 0.002


def print_results(results: Sequence[Result], infinite_hit_rate: float, console: Console) -> None:
    """Print one table for each setting, and then how `auto` compares with the best peer in each."""
    console.print(f"Block hit rate of one shared cache without a limit: {infinite_hit_rate:.1%}")
    for key, rows in _group(results).items():
        console.print(_build_table(key, rows))
    summary = Table(title="auto against the peer with the most hits in each setting", title_justify="left")
    for name in (
        "replicas",
        "blocks",
        "load",
        "gateways",
        "best peer",
        "hits",
        "auto",
        "imbalance",
        "TTFT peer",
        "auto",
    ):
        summary.add_column(name, justify="left" if name == "best peer" else "right")
    for key, rows in _group(results).items():
        peer = max((row for row in rows if row.policy in PEERS), key=lambda row: row.figures.hit_rate)
        ours = next(row for row in rows if row.policy == "auto")
        difference = ours.figures.hit_rate - peer.figures.hit_rate
        mark = "" if difference >= 0 else " (within noise)" if difference >= -_NOISE else " (less)"
        summary.add_row(
            *map(str, key),
            peer.policy,
            f"{peer.figures.hit_rate:.2%}",
            f"{ours.figures.hit_rate:.2%}{mark}",
            f"{ours.figures.imbalance:.2f}",
            f"{peer.figures.ttft_mean_s:.2f}",
            f"{ours.figures.ttft_mean_s:.2f}",
        )
    console.print(summary)


def print_decisions(timings: Mapping[str, Mapping[str, Timing]], hashing: Timing, console: Console) -> None:
    """Print how long decisions take."""
    table = Table(title="One decision, 100 replicas, 500 requests a second: milliseconds", title_justify="left")
    for name in ("policy", "part", "p50", "p95", "p99", "most"):
        table.add_column(name, justify="left" if name in {"policy", "part"} else "right")
    for policy, parts in timings.items():
        for part, timing in parts.items():
            table.add_row(policy, part, *_format(timing))
    table.add_row("", "hash of 100,000 tokens", *_format(hashing))
    console.print(table)


def build_report(
    results: Sequence[Result],
    infinite_hit_rate: float,
    timings: Mapping[str, Mapping[str, Timing]],
    hashing: Timing | None,
) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load_average": os.getloadavg(),
        },
        "infinite_hit_rate": infinite_hit_rate,
        "results": [result.to_json() for result in results],
        "decisions_ms": {
            policy: {part: asdict(timing) for part, timing in parts.items()} for policy, parts in timings.items()
        },
        "hash_100k_tokens_ms": asdict(hashing) if hashing else None,
    }


def _group(results: Sequence[Result]) -> dict[tuple[int, int, float, int], list[Result]]:
    groups: dict[tuple[int, int, float, int], list[Result]] = {}
    for row in results:
        groups.setdefault((row.replicas, row.cache_blocks, row.utilization, row.gateways), []).append(row)
    return groups


def _build_table(key: tuple[int, int, float, int], rows: Sequence[Result]) -> Table:
    replicas, blocks, utilization, gateways = key
    title = f"{replicas} replicas of {blocks} blocks, load {utilization:g}, {gateways} gateway(s)"
    table = Table(title=title, title_justify="left")
    for name in ("policy", "block hits", "imbalance", "worst", "TTFT mean s", "p99 s", "end mean s"):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in rows:
        figures = row.figures
        table.add_row(
            row.policy,
            f"{figures.hit_rate:.2%}",
            f"{figures.imbalance:.2f}",
            f"{figures.worst_imbalance:.2f}",
            f"{figures.ttft_mean_s:.2f}",
            f"{figures.ttft_p99_s:.1f}",
            f"{figures.end_mean_s:.1f}",
            style="bold" if row.policy in OURS else None,
        )
    return table


def _format(timing: Timing) -> list[str]:
    return [f"{value:.3f}" for value in (timing.p50_ms, timing.p95_ms, timing.p99_ms, timing.most_ms)]
