"""The simulator starts like vLLM, and refuses in vLLM's words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos_workers.simulate.__main__ import main
from llmos_workers.simulate.settings import StartError, compute_model_facts, parse_settings


@pytest.fixture
def model_dir(tmp_path: Path) -> str:
    config = {"max_position_embeddings": 2048, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(tmp_path)


def test_sizes_come_from_the_model(model_dir: str) -> None:
    settings = parse_settings(["--model-dir", model_dir])
    assert settings.limits.max_model_len == 2048
    assert settings.embedding_size == 64


def test_sizes_of_a_multimodal_model_come_from_its_text_part() -> None:
    facts = compute_model_facts({"text_config": {"max_position_embeddings": 4096, "hidden_size": 32}})
    assert (facts.max_model_len, facts.embedding_size) == (4096, 32)


def test_a_context_beyond_the_models_is_refused(model_dir: str) -> None:
    with pytest.raises(StartError, match=r"User-specified max_model_len \(4096\) is greater than the derived"):
        parse_settings(["--model-dir", model_dir, "--max-model-len", "4096"])


def test_a_context_beyond_the_kv_cache_is_refused() -> None:
    with pytest.raises(StartError, match=r"estimated maximum model length is 160\."):
        parse_settings(["--max-model-len", "200", "--kv-blocks", "10"])


def test_a_batch_larger_than_the_token_budget_is_refused() -> None:
    with pytest.raises(StartError, match="must be greater than or equal to max_num_seqs"):
        parse_settings(["--max-num-seqs", "64", "--max-num-batched-tokens", "32"])


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="Can't load the configuration"):
        parse_settings(["--model-dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--no-such-flag", "unrecognized arguments: --no-such-flag"),
        ("--max-num-s=3", "unrecognized arguments: --max-num-s=3"),
        ("--max-num-seqs=0", "argument --max-num-seqs: 0 is not at least 1"),
        ("--fault-error-rate=2", "argument --fault-error-rate: 2.0 is not between 0 and 1"),
        ("--runner=draft", "argument --runner: invalid choice"),
    ],
)
def test_a_bad_argument_is_refused_by_argparse(argument: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_settings([argument])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("oom", 1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate"),
        ("badarg", 2, "error: unrecognized arguments"),
        ("crash", 1, "Engine core initialization failed"),
    ],
)
def test_a_start_fault_fails_like_a_real_engine(
    fault: str, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--fault-start", fault]) == status
    assert words in capsys.readouterr().err
