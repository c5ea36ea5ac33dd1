"""CPU time of a request, in pairs: `python -m bench.gateway.pairs [--other TREE] [--rounds N] [--seconds S]`.

The pass-through, this tree's gateway and that of another checkout (`git worktree add TREE REVISION`) run at the same
time on one core and are asked in turns, so that each round sees one machine. What a round says is the CPU time of each
side's process for one request, and its share of the pass-through's: on a machine that others use, these are the figures
that mean something, and requests a second are not.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.gateway.load import run_closed_loop
from bench.gateway.processes import Cores, find_program
from bench.gateway.sides import FOLDER, LAUNCHES, Launch, run_backend, run_side

FLOOR = "pass-through"
SOURCES = ("gateway", "sdk", "operator", "workers")


def main(
    *,
    other: Annotated[Path | None, typer.Option(help="Another checkout whose gateway takes part.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each asks every side once.")] = 13,
    seconds: Annotated[float, typer.Option(min=1, help="Of one side in one round.")] = 1.0,
    connections: Annotated[int, typer.Option(min=1, help="Of wrk.")] = 32,
    load_core: Annotated[int, typer.Option(min=0, help="Core of load and backend.")] = 0,
    router_core: Annotated[int, typer.Option(min=0, help="Core of the sides.")] = 1,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every measured value here.")] = None,
) -> None:
    """Measure what a request costs beside the bare pass-through."""
    find_program("wrk", "wrk")
    FOLDER.mkdir(parents=True, exist_ok=True)
    cores = Cores(load_core, router_core)
    cores.check()
    found = measure(_list_launches(other), cores, rounds, seconds, connections)
    _print(Console(), found)
    if json_out is not None:
        json_out.write_text(
            json.dumps({name: [asdict(cost) for cost in costs] for name, costs in found.items()}, indent=1)
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What one side took in one round."""

    requests: float
    us_per_request: float
    """CPU time of the side's process."""


def compute_mean(costs: Sequence[Cost]) -> float:
    """Return the CPU time of a request over all rounds; one with few requests counts less."""
    return sum(cost.us_per_request * cost.requests for cost in costs) / sum(cost.requests for cost in costs)


def measure(
    launches: Sequence[Launch], cores: Cores, rounds: int, seconds: float, connections: int
) -> dict[str, list[Cost]]:
    """Return what each side took in each round."""
    found: dict[str, list[Cost]] = {launch.name: [] for launch in launches}
    with contextlib.ExitStack() as stack:
        _, backends = stack.enter_context(run_backend(cores, 30.0, 1))
        sides = [stack.enter_context(run_side(launch, cores, backends)) for launch in launches]
        for side in sides:
            run_closed_loop(side, cores, connections, seconds)
        for number in range(rounds):
            first = number % len(sides)
            # Who goes after whom changes, too: another order each time.
            order = [*sides[first:], *sides[:first]][:: 1 if number % 2 else -1]
            for side in order:
                run = run_closed_loop(side, cores, connections, seconds)
                if run.failed:
                    raise RuntimeError(f"{run.failed} requests of {side.name} failed")
                found[side.name].append(Cost(run.requests_per_s * seconds, run.cpu_us_per_request))
    return found


def _list_launches(other: Path | None) -> list[Launch]:
    ours = [launch for launch in LAUNCHES if launch.name in {FLOOR, "llmos"}]
    return ours if other is None else [*ours, _build_other(ours[-1], other.resolve())]


def _build_other(ours: Launch, tree: Path) -> Launch:
    def build(ports: Sequence[int], backends: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        command, environment = ours.build(ports, backends)
        paths = os.pathsep.join(str(tree / source) for source in SOURCES)
        return command, {**environment, "PYTHONPATH": paths}

    return replace(ours, name="other", build=build)


def _print(console: Console, found: dict[str, list[Cost]]) -> None:
    table = Table(
        "side", "requests", "CPU us/request", "least of a round", "of the pass-through's", "median of rounds", "share"
    )
    floor = found[FLOOR]
    for name, costs in found.items():
        ratio = compute_mean(costs) / compute_mean(floor)
        median = statistics.median(
            cost.us_per_request / other.us_per_request for cost, other in zip(costs, floor, strict=True)
        )
        table.add_row(
            name,
            f"{sum(cost.requests for cost in costs):.0f}",
            f"{compute_mean(costs):.1f}",
            f"{min(cost.us_per_request for cost in costs):.1f}",
            f"{ratio:.3f}",
            f"{median:.3f}",
            f"{1 / ratio:.3f}",
        )
    console.print(table)
    console.print(f"load average {os.getloadavg()[0]:.1f}, {len(floor)} rounds")


if __name__ == "__main__":
    typer.run(main)
