"""Command line: `python -m bench.routing --trace FILE --replicas 4,8,16 --json OUT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.routing.contest import build_settings, run
from bench.routing.decisions import measure_decisions, measure_hashing
from bench.routing.report import build_report, print_decisions, print_results
from bench.routing.trace import compute_infinite_hit_rate, read_trace
from llmos_gateway.routing.policies import POLICIES

TRACE = Path(__file__).parent / "data" / "mooncake_conversation.jsonl"
_HASHED_TOKENS = 100_000


def main(
    trace: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Trace in Mooncake's format (JSON lines with hash_ids).")
    ] = TRACE,
    replicas: Annotated[str, typer.Option(help="Numbers of replicas.")] = "4,8,16",
    cache_blocks: Annotated[
        str, typer.Option(help="Blocks of 512 tokens that a replica caches.")
    ] = "1000,2000,4000,8000",
    load: Annotated[
        str, typer.Option(help="Prompt tokens per second that arrive, over what the replicas compute without a cache.")
    ] = "0.5,0.9",
    gateways: Annotated[
        str, typer.Option(help="Numbers of gateways that route without telling each other prompts.")
    ] = "1,2",
    limit: Annotated[int | None, typer.Option(help="Only the trace's first requests.")] = None,
    decisions: Annotated[int, typer.Option(help="Decisions to time; 0 times none.")] = 20_000,
    processes: Annotated[int, typer.Option(help="Replays at the same time.")] = 2,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every figure here.")] = None,
) -> None:
    """Replay a trace through simulated replicas under the routing policies of LLMOS and its peers.

    Prints block hit rate, load imbalance and time to first token for each setting, `auto` against the best peer, and
    how long a routing decision takes with 100 replicas at 500 requests a second.
    """
    console = Console()
    console.width = max(console.width, 130)
    # First, while nothing else runs.
    timings = {
        f"{policy}, {count} gateway(s)": measure_decisions(
            policy, replicas=100, per_s=500, count=decisions, gateways=count
        )
        for policy in POLICIES
        for count in ((1, 2) if policy == "auto" else (1,))
        if decisions
    }
    hashing = measure_hashing(_HASHED_TOKENS) if decisions else None
    requests = read_trace(trace, limit)
    settings = build_settings(_numbers(replicas), _numbers(cache_blocks), [float(part) for part in load.split(",")])
    results = run(requests, settings, _numbers(gateways), processes=processes)
    infinite = compute_infinite_hit_rate(requests)
    print_results(results, infinite, console)
    if hashing:
        print_decisions(timings, hashing, console)
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        report = build_report(results, infinite, timings, hashing)
        json_out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    typer.run(main)
