"""hf:// with huggingface_hub's real client against a hub on loopback."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from llmos.api import ResolvedModel
from llmos_workers.fetch.errors import AccessDeniedError, InvalidSourceError, RateLimitedError, SourceNotFoundError
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import COMMIT, Fault, Hub


def fetch(uri: str, volume: Path, retry: RetryPolicy, revision: str = "") -> Path:
    request = FetchRequest(uri, revision=revision, retry=retry)
    with open_source(uri, revision=revision) as source:
        return fetch_model(request, source, Volume(volume), io.StringIO())


def inspect(uri: str, retry: RetryPolicy) -> ResolvedModel:
    with open_source(uri) as source:
        return inspect_model(source, "auto", retry=retry)


def test_a_branch_is_resolved_to_its_commit(hub: Hub, quick: RetryPolicy) -> None:
    hub.files.files = build_model()
    facts = inspect("hf://org/tiny@v1", quick)
    assert (facts.revision, facts.parameters, facts.architecture) == (COMMIT, PARAMETERS, "LlamaForCausalLM")


def test_inspecting_reads_the_weights_header_by_range_only(hub: Hub, quick: RetryPolicy) -> None:
    hub.files.files = build_model()
    inspect("hf://org/tiny", quick)
    asked = [ranges for _, path, ranges in hub.files.requests if path == "model.safetensors"]
    assert asked
    assert all(asked)


def test_a_model_is_fetched_at_its_commit_and_later_runs_need_no_hub(
    hub: Hub, tmp_path: Path, quick: RetryPolicy
) -> None:
    hub.files.files = build_model(shards=3) | {"pytorch_model.bin": b"pickle", "consolidated.safetensors": b"twice"}
    fetch("hf://org/tiny", tmp_path, quick)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)} < names
    assert not names & {"pytorch_model.bin", "consolidated.safetensors", "README.md"}
    manifest = json.loads((tmp_path / "model/manifest.json").read_text())
    assert (manifest["revision"], manifest["source"]) == (COMMIT, "hf://org/tiny")
    hub.statuses = [Fault(503)] * 99
    assert fetch("hf://org/tiny", tmp_path, quick, revision=COMMIT) == tmp_path / "model"


def test_the_token_goes_to_the_hub_but_not_where_it_redirects_to(
    hub: Hub, tmp_path: Path, quick: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files.files = build_model()
    hub.needed_token = "hf_aVerySecretToken"
    monkeypatch.setenv("HF_TOKEN", hub.needed_token)
    fetch("hf://org/tiny", tmp_path, quick)
    assert hub.cdn_headers
    assert all("Authorization" not in headers for headers in hub.cdn_headers)


def test_a_gated_model_says_how_to_get_in(hub: Hub, quick: RetryPolicy) -> None:
    hub.needed_token, hub.gated = "hf_aVerySecretToken", True
    with pytest.raises(AccessDeniedError, match=r"gated.*Accept the model's terms"):
        inspect("hf://org/tiny", quick)


@pytest.mark.parametrize("uri", ["hf://org/other", "hf://org/tiny@nowhere", "hf://org/tiny/missing.gguf"])
def test_what_is_not_there_is_not_found(hub: Hub, quick: RetryPolicy, uri: str) -> None:
    hub.files.files = build_model()
    with pytest.raises(SourceNotFoundError):
        inspect(uri, quick)


def test_a_busy_hub_is_asked_again_and_a_busier_one_reported(hub: Hub, quick: RetryPolicy) -> None:
    hub.files.files = build_model()
    hub.statuses = [Fault(429, {"Retry-After": "0"}), Fault(500)]
    assert inspect("hf://org/tiny", quick).parameters == PARAMETERS
    hub.statuses = [Fault(429, {"Retry-After": "600"})]
    with pytest.raises(RateLimitedError) as caught:
        inspect("hf://org/tiny", quick)
    assert caught.value.retry_after_s == 600


def test_one_gguf_file_of_several_can_be_named(hub: Hub, quick: RetryPolicy, gguf_bytes: bytes) -> None:
    hub.files.files = {"q4/tiny.gguf": gguf_bytes, "q8/tiny.gguf": gguf_bytes}
    with pytest.raises(InvalidSourceError, match="Name one of them"):
        inspect("hf://org/tiny", quick)
    facts = inspect("hf://org/tiny/q8/tiny.gguf", quick)
    assert (facts.format, facts.parameters) == ("gguf", PARAMETERS)


@pytest.mark.parametrize("uri", ["hf://", "hf://@main", "hf://org/tiny@", "hf://org/../x"])
def test_a_malformed_uri_is_invalid(uri: str, hub: Hub, quick: RetryPolicy) -> None:
    with pytest.raises((InvalidSourceError, SourceNotFoundError)):
        inspect(uri, quick)
