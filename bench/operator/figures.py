"""The arithmetic between what was observed and what is printed. Pure.

Percentiles are by nearest rank: the result is always a value that was measured, never one between two of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Spread:
    """Several runs of one measurement."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Line:
    """A least-squares line. `correlation` is 1 where growth is exactly linear."""

    slope: float
    intercept: float
    correlation: float


@dataclass(frozen=True)
class Row:
    """One line of the result table.

    `is_met` is None where no target was set; `peer` says in words what was measured of another system.
    """

    scenario: str
    measure: str
    value: str
    target: str = ""
    is_met: bool | None = None
    peer: str = ""


@dataclass(frozen=True)
class Outcome:
    """What one scenario found: rows for people, and everything that was measured."""

    rows: tuple[Row, ...]
    raw: dict[str, Any]


def compute_spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def compute_percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1] of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def compute_line(points: Sequence[tuple[float, float]]) -> Line:
    """Return the line through at least two points of different x."""
    xs, ys = zip(*points, strict=True)
    slope, intercept = statistics.linear_regression(xs, ys)
    correlation = statistics.correlation(xs, ys) if len(set(ys)) > 1 else 1.0
    return Line(slope, intercept, correlation)


def compute_schedule_s(count: int, per_second: float) -> list[float]:
    """Return when each of `count` evenly spaced changes is due, in seconds after the first."""
    return [index / per_second for index in range(count)]


def parse_metrics(text: str) -> dict[str, float]:
    """Return each Prometheus sample's value summed over its labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def is_idle(metrics: Mapping[str, float], reconciled: int) -> bool:
    """Whether an operator with these metrics leads, has reconciled at least so many keys, and has nothing to do."""
    busy = metrics.get("llmos_operator_queue_depth", 0.0) + metrics.get("llmos_operator_workers_busy", 0.0)
    done = metrics.get("llmos_operator_reconcile_seconds_count", 0.0)
    return metrics.get("llmos_operator_is_leader", 0.0) == 1.0 and busy == 0.0 and done >= reconciled


def format_spread(spread: Spread, unit: str, digits: int = 2) -> str:
    """Write a median with its range, for example `0.11 s (0.10-0.15, n=3)`."""
    low, high = f"{spread.low:.{digits}f}", f"{spread.high:.{digits}f}"
    return f"{spread.median:.{digits}f} {unit} ({low}-{high}, n={spread.count})"
