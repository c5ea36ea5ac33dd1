"""https:// and http://: how a folder on a plain web server says what it holds."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

from llmos.api import ResolvedModel
from llmos_workers.fetch.errors import (
    ChecksumMismatchError,
    InvalidSourceError,
    SourceNotFoundError,
    UnsafeFormatError,
)
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import FileServer


def put(server: FileServer, files: dict[str, bytes], folder: str = "m") -> None:
    server.files |= {f"{folder}/{name}": data for name, data in files.items()}


def fetch(uri: str, volume: Path, retry: RetryPolicy) -> Path:
    with open_source(uri) as source:
        return fetch_model(FetchRequest(uri, retry=retry), source, Volume(volume), io.StringIO())


def inspect(uri: str, retry: RetryPolicy) -> ResolvedModel:
    with open_source(uri) as source:
        return inspect_model(source, "auto", retry=retry)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_is_found_by_its_well_known_names(
    files: FileServer, tmp_path: Path, quick: RetryPolicy, shards: int
) -> None:
    put(files, build_model(shards=shards))
    assert inspect(f"{files.url}/m/", quick).parameters == PARAMETERS
    folder = fetch(f"{files.url}/m/", tmp_path, quick)
    assert (folder / "tokenizer.json").read_bytes() == files.files["m/tokenizer.json"]
    assert len(list(folder.glob("*.safetensors"))) == shards


def test_checksums_beside_the_model_are_verified(files: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    model = build_model()
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  ./{name}\n" for name, data in model.items())
    put(files, model | {"SHA256SUMS": sums.encode()})
    fetch(f"{files.url}/m", tmp_path / "good", quick)
    files.files["m/tokenizer.json"] = files.files["m/tokenizer.json"].replace(b"BPE", b"XPE")
    with pytest.raises(ChecksumMismatchError, match=r"tokenizer\.json"):
        fetch(f"{files.url}/m", tmp_path / "bad", quick)


def test_a_fetched_folder_can_be_served_to_others_as_it_is(
    files: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    put(files, build_model())
    first = fetch(f"{files.url}/m", tmp_path / "first", quick)
    put(files, {path.name: path.read_bytes() for path in first.iterdir()}, "copy")
    second = fetch(f"{files.url}/copy", tmp_path / "second", quick)
    assert {path.name: path.read_bytes() for path in first.glob("*[!n]")} == {
        path.name: path.read_bytes() for path in second.glob("*[!n]")
    }
    assert (second / "model.safetensors").is_file()


def test_one_gguf_file_with_its_checksum_in_the_fragment(
    files: FileServer, quick: RetryPolicy, gguf_bytes: bytes
) -> None:
    files.files["x/tiny q8.gguf"] = gguf_bytes
    sha256 = hashlib.sha256(gguf_bytes).hexdigest()
    with open_source(f"{files.url}/x/tiny%20q8.gguf#sha256={sha256}") as source:
        (file,) = source.observe_listing().files
    assert (file.path, file.checksum) == ("tiny q8.gguf", f"sha256:{sha256}")
    assert inspect(f"{files.url}/x/tiny%20q8.gguf", quick).parameters == PARAMETERS


def test_a_server_that_knows_no_head_is_asked_by_range(files: FileServer, quick: RetryPolicy) -> None:
    put(files, build_model())
    files.knows_head = False
    assert inspect(f"{files.url}/m", quick).parameters == PARAMETERS


def test_pickle_files_alone_are_unsafe_and_never_fetched(files: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    put(files, {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04 would run code"})
    with pytest.raises(UnsafeFormatError, match="pickle"):
        fetch(f"{files.url}/m", tmp_path, quick)
    assert files.count("GET", "m/pytorch_model.bin") == 0


def test_an_empty_folder_says_what_was_looked_for(files: FileServer, quick: RetryPolicy) -> None:
    with pytest.raises(SourceNotFoundError, match="SHA256SUMS"):
        inspect(f"{files.url}/m", quick)


def test_another_programs_manifest_is_ignored(files: FileServer, quick: RetryPolicy) -> None:
    put(files, build_model() | {"manifest.json": b'{"name": "a web app", "icons": []}'})
    assert inspect(f"{files.url}/m", quick).parameters == PARAMETERS


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.safetensors", "a\\..\\b.safetensors"])
def test_names_that_leave_the_folder_are_refused(files: FileServer, quick: RetryPolicy, name: str) -> None:
    put(files, {"model.safetensors.index.json": json.dumps({"weight_map": {"w": name}}).encode()})
    with pytest.raises(InvalidSourceError, match="unsafe file name"):
        inspect(f"{files.url}/m", quick)


@pytest.mark.parametrize("index", [b"[]", b"not json", b'{"weight_map": {"w": 1}}', b'{"weight_map": []}'])
def test_a_broken_index_is_refused(files: FileServer, quick: RetryPolicy, index: bytes) -> None:
    put(files, {"model.safetensors.index.json": index})
    with pytest.raises(InvalidSourceError):
        inspect(f"{files.url}/m", quick)
