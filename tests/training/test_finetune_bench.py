"""The benchmarks of the dataset gate and of the trainer run, and report what they were asked to."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.finetune.__main__ import app
from bench.finetune.corpus import write_corpus
from bench.finetune.killing import split_resume
from llmos_workers.train.attempts import AttemptRecord
from tests.training.train.world import make_base


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


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_the_trainer_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["train", "--model", str(make_base(tmp_path / "base")), "--json", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--steps", "2", "--rounds", "2"])
    assert result.exit_code == 0, f"{result.output} {result.exception!r}"
    report = json.loads(out.read_text())
    for tuning in ("lora", "full"):
        figures = report[tuning]
        assert len(figures["rounds"]) == 2
        assert all(one[side]["cpu_s"] > 0 for one in figures["rounds"] for side in ("bare", "trainer", "saving"))
        for measure in ("trainer_of_bare_wall", "trainer_of_bare_cpu"):
            assert 0 < figures[measure]["low"] <= figures[measure]["median"] <= figures[measure]["high"]
        assert sum(figures["resume_parts_s"].values()) == pytest.approx(figures["resume_to_first_step_s"])
        assert figures["resume_parts_s"]["imports"] > 0.1


def test_the_way_back_is_told_apart_by_the_log() -> None:
    log = "\n".join(
        (
            "a library says something",
            "1970-01-02 00:00:04,500 INFO attempt 1 begins",
            "1970-01-02 00:00:06,500 INFO an adapter of 100 parameters, computed in torch.float32 on the processor",
            "1970-01-02 00:00:07,000 INFO going on from step-00000006",
        )
    )
    began = datetime(1970, 1, 2).astimezone().timestamp()
    record = AttemptRecord(
        attempt=1, accelerators=1, resumed_step=6, began_at=began + 7.25, step=8, step_at=began + 8.25
    )
    parts = split_resume(began, log, record)
    assert parts == pytest.approx({"imports": 4.5, "model": 2.0, "checkpoint": 0.75, "first_step": 0.5})
    with pytest.raises(RuntimeError, match="no line"):
        split_resume(began, "", record)
