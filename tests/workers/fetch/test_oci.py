"""oci://: an artifact of named files in a registry on loopback."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmos_workers.fetch.errors import AccessDeniedError, InvalidSourceError, SourceNotFoundError
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from tests.workers.fetch.models import PARAMETERS, build_model
from tests.workers.fetch.servers import Registry, serve


@contextmanager
def run(registry: Registry) -> Iterator[str]:
    with serve(registry.handle) as url:
        yield url.replace("http://", "oci://")


def test_an_artifact_is_inspected_by_ranges_and_fetched_by_digest(tmp_path: Path, quick: RetryPolicy) -> None:
    registry = Registry(build_model())
    with run(registry) as url:
        uri = f"{url}/models/tiny:v1"
        with open_source(uri) as source:
            facts = inspect_model(source, "auto", retry=quick)
        assert facts.parameters == PARAMETERS
        assert facts.revision.startswith("sha256:")
        with open_source(uri, revision=facts.revision) as source:
            request = FetchRequest(uri, revision=facts.revision, retry=quick)
            folder = fetch_model(request, source, Volume(tmp_path), io.StringIO())
    assert (folder / "model.safetensors").read_bytes() == registry.files["model.safetensors"]
    assert any(facts.revision in path for path, _ in registry.requests)


def test_the_registrys_token_dance_is_danced(quick: RetryPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_USERNAME", "reader")
    monkeypatch.setenv("REGISTRY_PASSWORD", "secret")
    registry = Registry(build_model(), user="reader", password="secret")
    with run(registry) as url, open_source(f"{url}/models/tiny:v1") as source:
        assert inspect_model(source, "auto", retry=quick).parameters == PARAMETERS


def test_without_credentials_access_is_denied(quick: RetryPolicy) -> None:
    registry = Registry(build_model(), user="reader", password="secret")
    with run(registry) as url, open_source(f"{url}/models/tiny:v1") as source, pytest.raises(AccessDeniedError):
        inspect_model(source, "auto", retry=quick)


def test_an_unknown_tag_is_not_found(quick: RetryPolicy) -> None:
    with run(Registry({})) as url, open_source(f"{url}/models/tiny:v2") as source, pytest.raises(SourceNotFoundError):
        inspect_model(source, "auto", retry=quick)


@pytest.mark.parametrize("uri", ["oci://", "oci://host", "oci://host/UPPER:v1", "oci://user:pw@host/models/tiny"])
def test_a_malformed_uri_is_invalid_and_its_password_not_repeated(uri: str) -> None:
    with pytest.raises(InvalidSourceError) as caught, open_source(uri):
        pass
    assert "pw" not in str(caught.value)
