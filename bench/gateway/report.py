"""From measurements to rows, verdicts and the JSON file."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from bench.gateway.load import ClosedLoop, OpenLoop, Streams
from bench.operator.figures import Row

MIN_PASS_THROUGH_SHARE: Final = 0.5
MIN_REQUESTS_PER_S: Final = 4000.0
MAX_ADDED_P50_MS: Final = 0.5
MAX_ADDED_P99_MS: Final = 5.0
MAX_RSS_MIB: Final = 300.0
KUBEAI: Final = "KubeAI {}, measured by us on one core of another machine"


@dataclass
class Side:
    """What was measured of one participant: a list of runs for each scenario."""

    version: str = ""
    left_out: str = ""
    """Why it did not take part, if it did not."""
    closed: dict[int, list[ClosedLoop]] = field(default_factory=dict)
    """By number of connections."""
    steady: list[OpenLoop] = field(default_factory=list)
    streams: list[Streams] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def get_closed(self, connections: int, name: str) -> float | None:
        """Return the median of one figure of the closed loop."""
        return _find_median([getattr(run, name) for run in self.closed.get(connections, ())])

    def get_steady(self, name: str) -> float | None:
        """Return the median of one figure of the steady rate."""
        return _find_median([getattr(run, name) for run in self.steady])

    def get_streams(self, name: str) -> float | None:
        """Return the worst of one figure of the streams."""
        return max((float(getattr(run, name)) for run in self.streams), default=None)


def _find_median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def build_rows(sides: Mapping[str, Side], streams: int) -> list[Row]:
    """Return the targets and whether they were met; what was not measured has no row."""
    ours, direct, floor = (sides.get(name, Side()) for name in ("llmos", "direct", "pass-through"))
    rows: list[Row] = []
    at_32, floor_32 = ours.get_closed(32, "requests_per_s"), floor.get_closed(32, "requests_per_s")
    if at_32 is not None:
        peer = KUBEAI.format("3,596/s, p99 32.8 ms")
        rows.append(_row("c=32", "requests/s on one core", at_32, "{:,.0f}", MIN_REQUESTS_PER_S, peer))
        if floor_32:
            share = at_32 / floor_32
            rows.append(_row("c=32", "share of the bare pass-through", share, "{:.2f}", MIN_PASS_THROUGH_SHARE))
    alone, direct_alone = ours.get_closed(1, "p50_ms"), direct.get_closed(1, "p50_ms")
    if alone is not None and direct_alone is not None:
        peer = KUBEAI.format("p50 0.48 ms, 0.38 ms of it added")
        rows.append(_row("c=1", "added p50, ms", alone - direct_alone, "{:.2f}", MAX_ADDED_P50_MS, peer, is_most=True))
    steady, direct_steady = ours.get_steady("p99_ms"), direct.get_steady("p99_ms")
    if steady is not None and direct_steady is not None:
        added_ms = steady - direct_steady
        rows.append(_row("1,000/s", "added p99, ms", added_ms, "{:.2f}", MAX_ADDED_P99_MS, is_most=True))
    broken, rss_mib = ours.get_streams("broken"), ours.get_streams("rss_mib")
    if broken is not None and rss_mib is not None:
        what = f"{streams:,} streams"
        rows.append(_row(what, "broken", broken, "{:.0f}", 0.0, is_most=True))
        rows.append(_row(what, "RSS, MiB", rss_mib, "{:.0f}", MAX_RSS_MIB, is_most=True))
    return rows


def _row(
    scenario: str, measure: str, value: float, style: str, bound: float, peer: str = "", *, is_most: bool = False
) -> Row:
    target = f"{'<=' if is_most else '>='} {bound:g}"
    return Row(scenario, measure, style.format(value), target, value <= bound if is_most else value >= bound, peer)


def build_comparison(sides: Mapping[str, Side]) -> Table:
    """Return everything that was measured, one column a participant."""
    table = Table("measure", *sides, title="medians; one core each; non-streaming chat of about 1 kB")
    for text, read, style in _list_measures():
        cells = [style.format(value) if (value := read(side)) is not None else "" for side in sides.values()]
        if any(cells):
            table.add_row(text, *cells)
    return table


def _list_measures() -> list[tuple[str, Any, str]]:
    closed = [
        (f"c={connections} {text}", _reader("get_closed", connections, name), style)
        for connections in (1, 32, 128)
        for text, name, style in (
            ("requests/s", "requests_per_s", "{:,.0f}"),
            ("p50 ms", "p50_ms", "{:.2f}"),
            ("p99 ms", "p99_ms", "{:.2f}"),
            ("CPU us/request", "cpu_us_per_request", "{:.0f}"),
            ("failed", "failed", "{:.0f}"),
        )
    ]
    steady = [
        (f"1,000/s {text}", _reader("get_steady", name), style)
        for text, name, style in (
            ("p50 ms", "p50_ms", "{:.2f}"),
            ("p99 ms", "p99_ms", "{:.2f}"),
            ("failed", "failed", "{:.0f}"),
            ("core", "cpu_share", "{:.0%}"),
        )
    ]
    streams = [
        (f"streams {text}", _reader("get_streams", name), style)
        for text, name, style in (
            ("at a time", "peak", "{:,.0f}"),
            ("broken", "broken", "{:.0f}"),
            ("TTFT p50 ms", "ttft_p50_ms", "{:.1f}"),
            ("TTFT p99 ms", "ttft_p99_ms", "{:.1f}"),
            ("longest s", "longest_s", "{:.2f}"),
            ("core", "cpu_share", "{:.0%}"),
            ("RSS MiB", "rss_mib", "{:.0f}"),
        )
    ]
    return [*closed, *steady, *streams]


def _reader(method: str, *arguments: object) -> Any:
    return lambda side: getattr(side, method)(*arguments)


def observe_machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "aiohttp": aiohttp.__version__,
        "uvloop": version("uvloop"),
        "load_average": os.getloadavg(),
    }


def print_all(console: Console, machine: Mapping[str, Any], sides: Mapping[str, Side], streams: int) -> None:
    """Print the machine, who was left out, the comparison, and the targets."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for name, side in sides.items():
        if side.left_out:
            console.print(f"[yellow]{name} was left out[/]: {side.left_out}")
        for note in side.notes:
            console.print(f"{name}: {note}")
    console.print(build_comparison({name: side for name, side in sides.items() if not side.left_out}))
    table = Table("scenario", "measure", "value", "target", "met", "for comparison")
    for row in build_rows(sides, streams):
        verdict = "[green]yes[/]" if row.is_met else "[red]no[/]"
        table.add_row(row.scenario, row.measure, row.value, row.target, verdict, row.peer)
    console.print(table)


def write_json(path: Path, machine: Mapping[str, Any], settings: Mapping[str, Any], sides: Mapping[str, Side]) -> None:
    """Write everything that was measured."""
    rows = [asdict(row) for row in build_rows(sides, int(settings["streams"]))]
    report = {"machine": machine, "settings": settings, "rows": rows, "sides": {n: asdict(s) for n, s in sides.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
