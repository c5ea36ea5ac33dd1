"""What becomes visible on a volume, when, and who may write."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from llmos_workers.fetch.download import Downloader
from llmos_workers.fetch.errors import DiskFullError, VolumeBusyError
from llmos_workers.fetch.fetching import FetchRequest, fetch_model
from llmos_workers.fetch.progress import Progress
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import RemoteFile, open_source
from llmos_workers.fetch.sources.pvc import VolumeSource
from llmos_workers.fetch.volume import Volume
from tests.workers.fetch.models import build_model
from tests.workers.fetch.servers import FileServer


@pytest.fixture
def uri(files: FileServer) -> str:
    files.files = {f"m/{name}": data for name, data in build_model().items()}
    return f"{files.url}/m"


def fetch(uri: str, volume: Volume, retry: RetryPolicy, out: io.StringIO | None = None) -> Path:
    with open_source(uri) as source:
        return fetch_model(FetchRequest(uri, retry=retry, lock_timeout_s=0.2), source, volume, out or io.StringIO())


def test_the_link_leads_to_a_complete_model_that_all_may_read(uri: str, tmp_path: Path, quick: RetryPolicy) -> None:
    folder = fetch(uri, Volume(tmp_path), quick)
    link = tmp_path / "model"
    assert link.is_symlink()
    assert link.readlink() == Path(folder.name)
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())
    assert folder.stat().st_mode & 0o555 == 0o555
    assert not list(tmp_path.glob(".incoming*"))


def test_a_second_run_fetches_nothing(files: FileServer, uri: str, tmp_path: Path, quick: RetryPolicy) -> None:
    fetch(uri, Volume(tmp_path), quick)
    fetched = files.count("GET", "m/model.safetensors")
    out = io.StringIO()
    fetch(uri, Volume(tmp_path), quick, out)
    assert files.count("GET", "m/model.safetensors") == fetched
    assert '"etaSeconds":0' in out.getvalue()


def test_a_damaged_model_is_fetched_again(uri: str, tmp_path: Path, quick: RetryPolicy) -> None:
    folder = fetch(uri, Volume(tmp_path), quick)
    (folder / "model.safetensors").write_bytes(b"")
    assert (fetch(uri, Volume(tmp_path), quick) / "model.safetensors").stat().st_size > 0


def test_a_new_version_replaces_the_link_and_the_version_before_last_goes(
    files: FileServer, uri: str, tmp_path: Path, quick: RetryPolicy
) -> None:
    seen = []
    for text in (b"{}", b'{"a": 1}', b'{"a": 22}'):
        files.files["m/tokenizer_config.json"] = text
        seen.append(fetch(uri, Volume(tmp_path), quick))
        assert (tmp_path / "model/tokenizer_config.json").read_bytes() == text
    assert [folder.exists() for folder in seen] == [False, True, True]


def test_leftovers_of_other_fetches_are_removed_and_foreign_files_kept(
    uri: str, tmp_path: Path, quick: RetryPolicy
) -> None:
    (tmp_path / ".incoming-0123456789ab/model").mkdir(parents=True)
    (tmp_path / "lost+found").mkdir()
    fetch(uri, Volume(tmp_path), quick)
    assert not (tmp_path / ".incoming-0123456789ab").exists()
    assert (tmp_path / "lost+found").exists()


def test_two_fetches_exclude_each_other(uri: str, tmp_path: Path, quick: RetryPolicy) -> None:
    with Volume(tmp_path).lock(1), pytest.raises(VolumeBusyError) as caught:
        fetch(uri, Volume(tmp_path), quick)
    assert caught.value.exit_code == 75


def test_the_second_of_two_fetches_finds_what_the_first_brought(
    files: FileServer, uri: str, tmp_path: Path, quick: RetryPolicy
) -> None:
    def run() -> None:
        with open_source(uri) as source:
            fetch_model(FetchRequest(uri, retry=quick, lock_timeout_s=20), source, Volume(tmp_path), io.StringIO())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert files.count("GET", "m/model.safetensors") == 1
    assert (tmp_path / "model/model.safetensors").is_file()


def test_a_full_volume_is_seen_before_the_first_byte(
    files: FileServer, uri: str, tmp_path: Path, quick: RetryPolicy
) -> None:
    with pytest.raises(DiskFullError, match=r"GiB free.*at least 1Gi"):
        fetch(uri, Volume(tmp_path, free_bytes=lambda _: 1000), quick)
    assert files.count("GET", "m/model.safetensors") == 0


def test_the_declared_size_counts_where_the_disk_is_larger(uri: str, tmp_path: Path, quick: RetryPolicy) -> None:
    with pytest.raises(DiskFullError):
        fetch(uri, Volume(tmp_path, capacity_bytes=10_000), quick)


def test_a_volume_that_fills_up_meanwhile_is_reported_as_full(tmp_path: Path, quick: RetryPolicy) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/w.json").write_bytes(b"x" * 5_000_000)
    (tmp_path / "target").mkdir()
    (tmp_path / "target/w.json.part").symlink_to("/dev/full")
    source = VolumeSource("pvc://claim", tmp_path / "source")
    with pytest.raises(DiskFullError):
        Downloader(source, Progress(1, io.StringIO()), quick).fetch_all(
            [RemoteFile("w.json", 5_000_000)], tmp_path / "target"
        )
