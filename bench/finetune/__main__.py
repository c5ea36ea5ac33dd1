"""Command line: `python -m bench.finetune gate --json OUT [--megabytes 60] [--tokenizer DIR]`,
`python -m bench.finetune train --model DIR --json OUT`.

Needs the packages of the extra `train` (`make bench-finetune`). Each scenario is a module of its own, imported only
when it is asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.quota.report import describe_machine

app = typer.Typer(no_args_is_help=True, add_completion=False)
JsonOut = Annotated[Path | None, typer.Option("--json", help="Write every figure here.")]


@app.callback()
def main() -> None:
    """Measure fine-tuning."""


@app.command()
def gate(
    *,
    json_out: JsonOut = None,
    megabytes: Annotated[float, typer.Option(min=0.5, help="Size of each file of JSON lines.")] = 60.0,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a model's tokenizer. Absent = one is trained on the corpus.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each side; the best counts.")] = 3,
) -> None:
    """Measure the dataset gate, in megabytes of JSON lines for each second of one core."""
    from bench.finetune.gate import measure_gate, print_gate  # noqa: PLC0415 - needs transformers

    figures = measure_gate(megabytes=megabytes, tokenizer=tokenizer, repeats=repeats)
    print_gate(Console(width=150), figures)
    _write(json_out, {"machine": describe_machine(), "megabytes": megabytes, "repeats": repeats, **figures})


@app.command()
def train(
    model: Annotated[Path, typer.Option(help="Folder of the model to train.")],
    *,
    json_out: JsonOut = None,
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps of each run.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs, one of each side.")] = 4,
) -> None:
    """Measure the trainer beside a bare loop, in wall and processor seconds, checkpoints, resume and a kill."""
    from bench.finetune.training import run  # noqa: PLC0415 - needs torch

    figures = {tuning: run(model=model, tuning=tuning, steps=steps, rounds=rounds) for tuning in ("lora", "full")}
    Console(width=150).print_json(data=figures)
    _write(json_out, {"machine": describe_machine(), "model": model.name, **figures})


def _write(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
