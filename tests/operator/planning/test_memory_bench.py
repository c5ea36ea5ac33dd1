"""The benchmark scores every row it can, names the others, and its claim holds on the logs in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from bench.memory.__main__ import DATA, main
from bench.memory.heldout import predict_leaving_family_out
from bench.memory.observations import Observation, Skipped, read_observations
from bench.memory.scoring import decide, predict, summarize

COLUMNS = "id,model,gpu,gpu_total_gib,tp,max_model_len,gpu_memory_utilization,vllm_version,available_kv_gib,notes"


@pytest.fixture(scope="module")
def observations() -> list[Observation]:
    return read_observations(DATA / "kv_cache_observed.csv", DATA / "model_configs")[0]


def read_rows(tmp_path: Path, *rows: str) -> tuple[list[Observation], list[Skipped]]:
    observed = tmp_path / "observed.csv"
    observed.write_text("\n".join([COLUMNS, *rows]), encoding="utf-8")
    return read_observations(observed, DATA / "model_configs")


def test_available_cache_is_predicted_within_three_percent_from_the_configuration_alone(
    observations: list[Observation],
) -> None:
    score = summarize(predict(observation).kv_error_percent for observation in observations)
    assert score is not None
    assert score.count >= 60
    assert score.mape <= 3.0
    assert score.median <= 0.5


def test_families_that_the_constants_never_saw_are_predicted_as_well(observations: list[Observation]) -> None:
    score = summarize(prediction.kv_error_percent for prediction in predict_leaving_family_out(observations))
    assert score is not None
    assert score.mape <= 3.0


def test_nothing_fits_where_an_engine_refused_to_start(observations: list[Observation]) -> None:
    decisions = decide(observations)
    assert sum(not decision.started for decision in decisions) == 5
    assert not [decision for decision in decisions if decision.verdict == "dangerous"]


def test_blocks_agree_with_those_that_engines_logged(observations: list[Observation]) -> None:
    errors = [
        100 * abs(predict(observation).estimate.kv_cache.blocks - observation.blocks) / observation.blocks
        for observation in observations
        if observation.blocks
    ]
    score = summarize(errors)
    assert score is not None
    assert score.mape <= 1.0


def test_rows_that_cannot_be_scored_are_named_with_the_reason(tmp_path: Path) -> None:
    good = "1,qwen/qwen3-8b,H100,79.19,1,8192,0.9,0.19.0,53.5,"
    scored, skipped = read_rows(
        tmp_path,
        good,
        "2,nobody/nothing,H100,79.19,1,8192,0.9,0.19.0,5,",
        "3,Qwen/Qwen3-8B,H100,79.19,,8192,0.9,0.19.0,5,",
        "4,Qwen/Qwen3-8B,A1,,1,8192,,0.19.0,5,",
        "5,Qwen/Qwen3-8B,H100,79.19,1,8192,0.9,,5,",
    )
    assert [observation.row for observation in scored] == ["1"]
    assert [skip.reason for skip in skipped] == [
        "no config for model nobody/nothing",
        "tensor parallel size not stated",
        "memory of GPU A1 not stated",
        "engine version not stated",
    ]


def test_the_length_at_which_an_engine_failed_is_read_from_the_notes(tmp_path: Path) -> None:
    scored, _ = read_rows(
        tmp_path,
        "1,Qwen/Qwen3-32B,H100,79.19,1,16000,0.9,0.16,4.45,FAILED at max_model_len 32000",
        "2,Qwen/Qwen3-32B,H100,79.19,1,32000,0.9,0.16,4.45,FAILED to fit",
    )
    verdicts = [(decision.row, decision.max_model_len, decision.started) for decision in decide(scored)]
    assert verdicts == [("1", 16000, True), ("1", 32000, False), ("2", 32000, False)]


def test_the_command_prints_its_tables_and_writes_everything_as_json(tmp_path: Path) -> None:
    app = Typer()
    app.command()(main)
    out = tmp_path / "deep" / "scores.json"
    result = CliRunner().invoke(app, ["--json", str(out)])
    assert result.exit_code == 0, result.output
    assert "KAITO" in result.output
    assert "llm-d-planner" in result.output
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["rows"]["all"] == len(report["predictions"]) + len(report["skipped"])
    assert report["kv"]["all"]["mape"] < report["kaito"]["all"]["mape"]
