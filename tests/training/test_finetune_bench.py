"""The benchmark of the dataset gate runs, and reports what it was asked to."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from bench.finetune.__main__ import app
from bench.finetune.corpus import write_corpus


def test_the_gate_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = CliRunner().invoke(app, ["gate", "--json", str(out), "--megabytes", "0.5", "--repeats", "1"])
    assert result.exit_code == 0, result.output
    figures = json.loads(out.read_text())
    assert {(row["format"], row["line_bytes"]) for row in figures["rows"]} >= {("chat", 1000), ("text", 3000)}
    assert all(row["mb_per_s"] > 0 and row["examples"] > 0.9 * row["lines"] for row in figures["rows"])
    assert set(figures["stages"]) >= {"read", "encode", "chat template", "write and hash"}


def test_the_corpus_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_corpus(tmp_path / name, "chat", 300, 20_000)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
