"""The machine, the table, and the JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.operator.figures import Outcome, Row
from e2e.cluster.binaries import KUBERNETES_VERSION

_VERDICTS = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}


def observe_machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpu_info = Path("/proc/cpuinfo")
    models = [line.partition(":")[2].strip() for line in _lines(cpu_info) if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 1024**3, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kubernetes": KUBERNETES_VERSION,
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def observe_load() -> dict[str, Any]:
    """How busy the machine is: processes that wanted a core, averaged over 1, 5 and 15 minutes."""
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), "load_average": os.getloadavg()}


class Report:
    """Collects outcomes. The file is written after each scenario, so that a run that is cut short keeps what it has."""

    def __init__(self, console: Console, json_out: Path | None) -> None:
        self._console = console
        self._json_out = json_out
        self._machine = observe_machine()
        self._rows: list[Row] = []
        self._scenarios: dict[str, dict[str, Any]] = {}

    @contextmanager
    def scenario(self, name: str) -> Iterator[Callable[[Outcome], None]]:
        """Run one scenario in the block and hand its outcome to what the block is given."""
        before = observe_load()
        self._console.print(f"{before['time']} {name}, load average {before['load_average'][0]:.1f}")

        def put(outcome: Outcome) -> None:
            self._rows += outcome.rows
            self._scenarios[name] = {
                "rows": [asdict(row) for row in outcome.rows],
                "raw": outcome.raw,
                "before": before,
                "after": observe_load(),
            }

        yield put
        self._write()

    def _write(self) -> None:
        if self._json_out is not None:
            report = {"machine": self._machine, "scenarios": self._scenarios}
            self._json_out.parent.mkdir(parents=True, exist_ok=True)
            self._json_out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def print_all(self) -> None:
        """Print the machine and the table."""
        self._console.print(", ".join(f"{name} {value}" for name, value in self._machine.items()))
        table = Table("scenario", "measure", "value", "target", "met", "peer (same method, other run)")
        for row in self._rows:
            table.add_row(row.scenario, row.measure, row.value, row.target, _VERDICTS[row.is_met], row.peer)
        self._console.print(table)
        self._console.print(build_verdict(self._rows))


def build_verdict(rows: Sequence[Row]) -> str:
    """Return how many targets were met, and every one that was missed."""
    judged = [row for row in rows if row.is_met is not None]
    missed = [row for row in judged if not row.is_met]
    lines = [f"Missed: {row.scenario}, {row.measure}: {row.value} instead of {row.target}." for row in missed]
    return "\n".join([f"{len(judged) - len(missed)} of {len(judged)} targets met.", *lines])
