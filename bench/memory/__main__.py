"""Command line: `python -m bench.memory --observed CSV --configs DIR --json OUT`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.memory.observations import read_observations
from bench.memory.report import build_report, print_report

DATA = Path(__file__).parent / "data"


def main(
    observed: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="CSV of start-up figures; columns as in bench/memory/data."),
    ] = DATA / "kv_cache_observed.csv",
    configs: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Directory of config.json files named org--name.json.")
    ] = DATA / "model_configs",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every score and prediction here.")] = None,
) -> None:
    """Score the memory planner on start-up figures that real vLLM servers logged.

    Predicts weights and available KV cache of every row from its configuration alone, prints the mean, median, 95th
    percentile and worst error by family, GPU and vLLM version, the KAITO formula on the same rows, published errors of
    other estimators, held-out scores, and every decision about a start that failed. Rows that cannot be scored are
    named with the reason.
    """
    report = build_report(*read_observations(observed, configs))
    print_report(report, Console())
    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)
        json_out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
