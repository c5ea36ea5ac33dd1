"""pvc://: files that already lie on a mounted claim."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from llmos_workers.fetch.errors import (
    ChecksumMismatchError,
    InvalidSourceError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.inspection import inspect_model
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import open_source
from llmos_workers.fetch.volume import Volume
from tests.workers.fetch.models import PARAMETERS, build_model, write_files

URI = "pvc://models/team/tiny"


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    write_files(tmp_path / "source/team/tiny", build_model())
    return tmp_path / "source"


def fetch(mount: Path, volume: Path, retry: RetryPolicy, uri: str = URI) -> Path:
    with open_source(uri, pvc_mount=mount) as source:
        return fetch_model(FetchRequest(uri, retry=retry), source, Volume(volume), io.StringIO())


def test_safetensors_are_verified_and_linked_not_copied(mount: Path, tmp_path: Path, quick: RetryPolicy) -> None:
    with open_source(URI, pvc_mount=mount) as source:
        assert inspect_model(source, "auto", retry=quick).parameters == PARAMETERS
    fetch(mount, tmp_path / "volume", quick)
    link = tmp_path / "volume/model"
    assert link.readlink() == mount / "team/tiny"
    assert (link / "config.json").is_file()


def test_a_truncated_file_is_seen(mount: Path, tmp_path: Path, quick: RetryPolicy) -> None:
    weights = mount / "team/tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ChecksumMismatchError, match="its header announces"):
        fetch(mount, tmp_path / "volume", quick)


def test_checksums_on_the_claim_are_verified(mount: Path, tmp_path: Path, quick: RetryPolicy) -> None:
    folder = mount / "team/tiny"
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in folder.iterdir())
    (folder / "SHA256SUMS").write_text(sums)
    fetch(mount, tmp_path / "volume", quick)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ChecksumMismatchError, match=r"tokenizer\.json"):
        fetch(mount, tmp_path / "other", quick)


def test_links_out_of_the_claim_are_not_followed(mount: Path, tmp_path: Path, quick: RetryPolicy) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (mount / "team/tiny/leak.json").symlink_to(tmp_path / "secret.json")
    with open_source(URI, pvc_mount=mount) as source:
        assert source.observe_listing().find("leak.json") is None


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("pvc://models/nowhere", SourceNotFoundError),
        ("pvc://models/../..", InvalidSourceError),
        ("pvc://UPPER/x", InvalidSourceError),
    ],
)
def test_wrong_places_are_refused(
    mount: Path, tmp_path: Path, quick: RetryPolicy, uri: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        fetch(mount, tmp_path / "volume", quick, uri)


def test_an_absent_mount_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="not mounted"), open_source(URI, pvc_mount=tmp_path / "none"):
        pass
