"""What inspection says about a model, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmos.api import ResolvedModel
from llmos_workers.fetch.errors import FetchError, InvalidSourceError, SourceNotFoundError, UnknownArchitectureError
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.remote_code import check_remote_code
from llmos_workers.fetch.sources import open_source
from tests.workers.fetch.models import CONFIG, HEADS, HIDDEN, LAYERS, PARAMETERS, VOCABULARY, build_model, write_files
from tests.workers.fetch.servers import COMMIT


def inspect(folder: Path, files: dict[str, bytes], **options: Any) -> ResolvedModel:
    write_files(folder / "m", files)
    with open_source("pvc://claim/m", pvc_mount=folder) as source:
        return inspect_model(source, "auto", **options)


@pytest.mark.parametrize("shards", [1, 2])
def test_safetensors_are_counted_exactly(tmp_path: Path, shards: int) -> None:
    facts = inspect(tmp_path, build_model(shards=shards))
    assert (facts.parameters, facts.weights_bytes, facts.dtype) == (PARAMETERS, 2 * PARAMETERS, "float16")
    assert (facts.layers, facts.kv_heads, facts.head_dim) == (LAYERS, 2, HIDDEN // HEADS)
    assert (facts.vocabulary, facts.max_context, facts.quantization) == (VOCABULARY, 512, "")
    assert facts.config is not None
    assert facts.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("said", "context"),
    [
        (b'{"max_seq_length": 128}', 128),
        (b'{"max_seq_length": 100000}', 512),
        (b'{"max_seq_length": null}', 512),
        (b"[]", 512),
        (b"no JSON", 512),
    ],
)
def test_an_embedding_model_takes_texts_as_long_as_it_was_made_for(tmp_path: Path, said: bytes, context: int) -> None:
    facts = inspect(tmp_path, {**build_model(), "sentence_bert_config.json": said})
    assert facts.config is not None
    assert (facts.max_context, facts.config.max_context_tokens) == (context, context)


def test_32_bit_weights_are_served_in_16(tmp_path: Path) -> None:
    facts = inspect(tmp_path, build_model("float32"))
    assert (facts.weights_bytes, facts.dtype) == (2 * PARAMETERS, "bfloat16")
    assert facts.download_bytes > 4 * PARAMETERS


def test_equal_models_have_equal_digests_and_changed_ones_do_not(tmp_path: Path) -> None:
    first, second = inspect(tmp_path / "a", build_model()), inspect(tmp_path / "b", build_model("float32"))
    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"config.json": None}, UnknownArchitectureError, "no config.json"),
        ({"config.json": b"not json"}, InvalidSourceError, "JSON"),
        ({"config.json": b"[]"}, InvalidSourceError, "no object"),
        ({"config.json": b"{}"}, UnknownArchitectureError, "architectures"),
        ({"config.json": b"[" * 100_000}, InvalidSourceError, "JSON"),
        ({"tokenizer.json": None}, SourceNotFoundError, "no tokenizer"),
        ({"model.safetensors": b"\x00" * 100}, InvalidSourceError, "not a safetensors file"),
    ],
)
def test_broken_models_are_refused_with_a_remedy(
    tmp_path: Path, change: dict[str, bytes | None], error: type[FetchError], message: str
) -> None:
    files = {name: data for name, data in (build_model() | change).items() if data is not None}
    with pytest.raises(error, match=message) as caught:
        inspect(tmp_path, files)
    assert caught.value.remedy


def test_code_of_the_models_own_is_refused_until_its_commit_is_trusted() -> None:
    config = CONFIG | {"model_type": "novel", "auto_map": {"AutoModelForCausalLM": "modeling_novel.NovelModel"}}
    with pytest.raises(UnknownArchitectureError, match=rf"trustRemoteCode.revision to {COMMIT}"):
        check_remote_code(config, COMMIT, "")
    with pytest.raises(UnknownArchitectureError, match="the trusted commit is"):
        check_remote_code(config, COMMIT, "f" * 40)
    check_remote_code(config, COMMIT, COMMIT)


def test_code_of_another_repository_is_never_run() -> None:
    config = {"model_type": "novel", "auto_map": {"AutoModel": "other/repo--modeling.Model"}}
    with pytest.raises(UnknownArchitectureError, match="another repository"):
        check_remote_code(config, COMMIT, COMMIT)


def test_a_built_in_architecture_needs_no_code_although_it_brings_some() -> None:
    check_remote_code({"model_type": "phi3", "auto_map": {"AutoModel": "modeling_phi3.Phi3Model"}}, COMMIT, "")
