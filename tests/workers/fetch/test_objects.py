"""s3:// and gs:// with obstore's real client against a real S3 server (moto) in a process of its own.

The XML interface of Google's store is the same for listing and reading, so the one server stands for both.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store

from llmos.api import ResolvedModel
from llmos_workers.fetch.errors import (
    AccessDeniedError,
    InvalidSourceError,
    RateLimitedError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from tests.object_store import serve_bucket
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import Fault, FileServer

BUCKET = "models"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_bucket(tmp_path_factory.mktemp("moto"), BUCKET) as url:
        yield url


@pytest.fixture
def store(moto: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    settings = {"AWS_ENDPOINT_URL": moto, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-key"}
    for name, value in {**settings, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    return S3Store(BUCKET, client_options={"allow_http": True})


def put(store: S3Store, files: dict[str, bytes], folder: str) -> None:
    for name, data in files.items():
        obstore.put(store, f"{folder}/{name}", data)


def inspect(uri: str, retry: RetryPolicy) -> ResolvedModel:
    with open_source(uri) as source:
        return inspect_model(source, "auto", retry=retry)


def fetch(uri: str, volume: Path, retry: RetryPolicy) -> Path:
    with open_source(uri) as source:
        return fetch_model(FetchRequest(uri, retry=retry), source, Volume(volume), io.StringIO())


def test_a_folder_in_a_bucket_is_inspected_and_fetched(store: S3Store, tmp_path: Path, quick: RetryPolicy) -> None:
    put(store, build_model(shards=2), "team/tiny")
    put(store, {"config.json": b"of another model"}, "team/tiny-2")
    assert inspect(f"s3://{BUCKET}/team/tiny/", quick).parameters == PARAMETERS
    folder = fetch(f"s3://{BUCKET}/team/tiny", tmp_path, quick)
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_what_an_earlier_run_left_is_gone_on_with(store: S3Store, tmp_path: Path, quick: RetryPolicy) -> None:
    model = build_model()
    put(store, model, "resume")
    with open_source(f"s3://{BUCKET}/resume") as source:
        listed = source.observe_listing().find("model.safetensors")
        assert listed is not None
        with source.open_stream(listed, 100, 50) as chunks:
            assert b"".join(chunks) == model["model.safetensors"][100:150]
        with source.open_stream(listed, 1000) as chunks:
            assert b"".join(chunks) == model["model.safetensors"][1000:]


def test_an_object_that_was_replaced_is_not_mixed(store: S3Store, quick: RetryPolicy) -> None:
    put(store, build_model(), "changing")
    with open_source(f"s3://{BUCKET}/changing") as source:
        listed = source.observe_listing().find("config.json")
        assert listed is not None
        put(store, {"config.json": b"{}"}, "changing")
        with pytest.raises(SourceUnavailableError, match="changed"), source.open_stream(listed) as chunks:
            list(chunks)


def test_one_gguf_object_can_be_named(store: S3Store, quick: RetryPolicy, gguf_bytes: bytes) -> None:
    put(store, {"tiny.gguf": gguf_bytes}, "ggufs")
    assert inspect(f"s3://{BUCKET}/ggufs/tiny.gguf", quick).format == "gguf"


@pytest.mark.parametrize("uri", [f"s3://{BUCKET}/nothing/here", "s3://no-such-bucket/tiny"])
def test_what_is_not_there_is_not_found(store: S3Store, quick: RetryPolicy, uri: str) -> None:
    with pytest.raises(SourceNotFoundError):
        inspect(uri, quick)


def test_googles_store_is_read_by_the_same_road(
    store: S3Store, moto: str, tmp_path: Path, quick: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, data in build_model().items():  # readable for all, as the emulated store checks no Google credentials
        httpx.put(
            f"{moto}/{BUCKET}/google/{name}", content=data, headers={"x-amz-acl": "public-read"}
        ).raise_for_status()
    account = {"gcs_base_url": moto, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    assert inspect(f"gs://{BUCKET}/google", quick).parameters == PARAMETERS
    assert (fetch(f"gs://{BUCKET}/google", tmp_path / "volume", quick) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("status", "error"),
    [(403, AccessDeniedError), (401, AccessDeniedError), (429, RateLimitedError), (503, SourceUnavailableError)],
)
def test_refusals_of_the_store_have_their_names(
    files: FileServer, store: S3Store, monkeypatch: pytest.MonkeyPatch, status: int, error: type[Exception]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", files.url)
    files.faults[BUCKET] = [Fault(status)] * 9
    with pytest.raises(error) as caught:
        inspect(f"s3://{BUCKET}/tiny", RetryPolicy(attempts=1))
    assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://", "s3:///path", "gs://user:pw@bucket/path"])
def test_a_malformed_uri_is_invalid(uri: str) -> None:
    with pytest.raises(InvalidSourceError), open_source(uri):
        pass
