"""What inspection says about an adapter, what it refuses, and that fetching brings its two files only."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from llmos.api import ResolvedModel
from llmos.api.adapters import compute_content_digest
from llmos_workers.fetch.adapter import compute_adapter_facts
from llmos_workers.fetch.errors import FetchError, InvalidSourceError, SourceNotFoundError, UnsafeFormatError
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from tests.workers.fetch.models import HIDDEN, LAYERS, build_adapter, build_model, write_files
from tests.workers.fetch.servers import FileServer


def inspect(folder: Path, files: dict[str, bytes], *, is_adapter: bool = True) -> ResolvedModel:
    write_files(folder / "m", files)
    with open_source("pvc://claim/m", pvc_mount=folder) as source:
        return inspect_model(source, "auto", is_adapter=is_adapter)


def test_an_adapter_tells_its_rank_its_modules_and_its_size(tmp_path: Path) -> None:
    facts = inspect(tmp_path, build_adapter(8, rank_pattern={"k_proj": 32}, target_modules=["v_proj", "q_proj"]))
    assert facts.adapter is not None
    assert (facts.adapter.rank, facts.adapter.target_modules) == (32, ("q_proj", "v_proj"))
    assert facts.parameters == LAYERS * 2 * 8 * HIDDEN
    assert (facts.architecture, facts.dtype, facts.layers, facts.config) == ("LoRA", "float32", 0, None)


def test_the_digest_is_made_of_what_the_files_hold(tmp_path: Path) -> None:
    files = build_adapter()
    first = inspect(tmp_path / "a", files)
    (tmp_path / "b").mkdir()
    assert inspect(tmp_path / "b", {**files, "README.md": b"other"}).digest == first.digest
    assert inspect(tmp_path / "c", build_adapter(seed=8)).digest != first.digest
    names = ("adapter_config.json", "adapter_model.safetensors")
    sums = [(name, len(files[name]), hashlib.sha256(files[name]).hexdigest()) for name in names]
    assert compute_content_digest(sums) == first.digest


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"adapter_config.json": None}, SourceNotFoundError, "no LoRA adapter"),
        ({"adapter_model.safetensors": None}, SourceNotFoundError, "no adapter_model.safetensors"),
        (
            {"adapter_model.safetensors": None, "adapter_model.bin": b"\x80\x04N."},
            UnsafeFormatError,
            "only as a pickle",
        ),
        ({"adapter_config.json": b"[]"}, InvalidSourceError, "no object"),
        ({"adapter_config.json": b"not json"}, InvalidSourceError, "JSON"),
        ({"adapter_config.json": b"{}"}, InvalidSourceError, "not LoRA"),
        ({"adapter_config.json": b'{"peft_type": "LORA"}'}, InvalidSourceError, "does not say the rank"),
        ({"adapter_config.json": b'{"peft_type": "LORA", "r": 0}'}, InvalidSourceError, "does not say the rank"),
        ({"adapter_model.safetensors": build_model()["model.safetensors"]}, InvalidSourceError, "no LoRA matrices"),
        ({"adapter_model.safetensors": b"\x00" * 100}, InvalidSourceError, "not a safetensors file"),
    ],
)
def test_what_is_no_adapter_is_refused_with_a_remedy(
    tmp_path: Path, change: dict[str, bytes | None], error: type[FetchError], message: str
) -> None:
    files = {name: data for name, data in {**build_adapter(), **change}.items() if data is not None}
    with pytest.raises(error, match=message) as caught:
        inspect(tmp_path, files)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "setting",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"layer_replication": [[0, 1]]}],
)
def test_what_no_engine_serves_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidSourceError, match="engines do not serve"):
        compute_adapter_facts({**json.loads(build_adapter()["adapter_config.json"]), **setting})


@pytest.mark.parametrize(
    ("setting", "head"),
    [
        ({}, ""),
        ({"task_type": "CAUSAL_LM"}, ""),
        ({"modules_to_save": ["score"]}, "score"),
        ({"modules_to_save": ["classifier"], "task_type": "TOKEN_CLS"}, "classifier"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
    ],
)
def test_the_head_of_a_classifier_is_told(setting: dict[str, Any], head: str) -> None:
    config = json.loads(build_adapter()["adapter_config.json"])
    assert compute_adapter_facts({**config, **setting}).head == head


def test_an_adapter_that_is_not_said_to_be_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSourceError, match=r"spec\.adapter\.baseModelRef"):
        inspect(tmp_path, build_adapter(), is_adapter=False)


def test_fetching_over_http_brings_the_two_files_of_the_adapter_only(
    tmp_path: Path, files: FileServer, quick: RetryPolicy
) -> None:
    adapter = build_adapter()
    files.files |= {f"a/{name}": data for name, data in adapter.items()}
    uri = f"{files.url}/a"
    with open_source(uri) as source:
        facts = inspect_model(source, "auto", is_adapter=True, retry=quick)
        request = FetchRequest(uri, is_adapter=True, retry=quick)
        folder = fetch_model(request, source, Volume(tmp_path / "v"), io.StringIO())
    assert facts.adapter is not None
    names = {path.name for path in folder.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    assert (folder / "adapter_model.safetensors").read_bytes() == adapter["adapter_model.safetensors"]
