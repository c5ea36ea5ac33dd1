"""The downloader against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web

from llmos_workers.fetch.download import Downloader
from llmos_workers.fetch.errors import (
    AccessDeniedError,
    ChecksumMismatchError,
    FetchError,
    RateLimitedError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from llmos_workers.fetch.progress import Progress
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.fetch.sources import RemoteFile
from llmos_workers.fetch.sources.https import WebSource
from tests.workers.fetch.servers import Fault, FileServer, serve

DATA = bytes(range(256)) * 12_000  # 3 MB: several chunks
SHA256 = hashlib.sha256(DATA).hexdigest()
PARALLEL = 3
WEIGHTS = RemoteFile("w.bin", len(DATA), checksum=f"sha256:{SHA256}")


@pytest.fixture
def server(files: FileServer) -> FileServer:
    files.files["m/w.bin"] = DATA
    return files


def fetch(server: FileServer, folder: Path, retry: RetryPolicy, *wanted: RemoteFile) -> None:
    progress = Progress(sum(file.size_bytes for file in wanted), io.StringIO())
    with closing(WebSource(f"{server.url}/m")) as source:
        Downloader(source, progress, retry).fetch_all(wanted, folder)


def test_a_file_arrives_verified_and_under_its_own_name_only(
    server: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    fetch(server, tmp_path, quick, WEIGHTS)
    assert [path.name for path in tmp_path.iterdir()] == ["w.bin"]
    assert (tmp_path / "w.bin").read_bytes() == DATA


def test_a_429_is_repeated_after_the_pause_that_the_server_asks_for(
    server: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    server.faults["m/w.bin"] = [Fault(429, {"Retry-After": "1"})]
    started_s = time.monotonic()
    fetch(server, tmp_path, quick, WEIGHTS)
    assert time.monotonic() - started_s >= 1.0
    assert server.count("GET", "m/w.bin") == 2


def test_a_pause_longer_than_the_policy_allows_ends_the_step_at_once(
    server: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    server.faults["m/w.bin"] = [Fault(429, {"Retry-After": "3600"})]
    with pytest.raises(RateLimitedError) as caught:
        fetch(server, tmp_path, quick, WEIGHTS)
    assert caught.value.retry_after_s == 3600
    assert caught.value.exit_code == 75


def test_server_errors_are_repeated_until_it_recovers(server: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    server.faults["m/w.bin"] = [Fault(503), Fault(500), Fault(502)]
    fetch(server, tmp_path, quick, WEIGHTS)
    assert (tmp_path / "w.bin").read_bytes() == DATA


def test_attempts_are_bounded(server: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    server.faults["m/w.bin"] = [Fault(503)] * 99
    with pytest.raises(SourceUnavailableError):
        fetch(server, tmp_path, quick, WEIGHTS)
    assert server.count("GET", "m/w.bin") == quick.attempts


@pytest.mark.parametrize(
    ("status", "error"), [(401, AccessDeniedError), (403, AccessDeniedError), (404, SourceNotFoundError)]
)
def test_a_refusal_is_not_repeated(
    server: FileServer, tmp_path: Path, quick: RetryPolicy, status: int, error: type[FetchError]
) -> None:
    server.faults["m/w.bin"] = [Fault(status)]
    with pytest.raises(error) as caught:
        fetch(server, tmp_path, quick, WEIGHTS)
    assert caught.value.exit_code == 1
    assert server.count("GET", "m/w.bin") == 1


def test_a_broken_connection_goes_on_where_it_broke(server: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    server.faults["m/w.bin"] = [Fault(cut_after_bytes=1_500_000)]
    fetch(server, tmp_path, quick, WEIGHTS)
    assert (tmp_path / "w.bin").read_bytes() == DATA
    ranges = [asked for method, _, asked in server.requests if method == "GET"]
    assert ranges[0] == ""
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 1_500_000


def test_a_server_without_ranges_is_read_from_the_start_again(
    server: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    server.knows_ranges = False
    server.faults["m/w.bin"] = [Fault(cut_after_bytes=1_500_000)]
    fetch(server, tmp_path, quick, WEIGHTS)
    assert (tmp_path / "w.bin").read_bytes() == DATA


def test_what_an_earlier_run_left_is_not_fetched_again(server: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    (tmp_path / "w.bin.part").write_bytes(DATA[:2_000_000])
    fetch(server, tmp_path, quick, WEIGHTS)
    assert (tmp_path / "w.bin").read_bytes() == DATA
    assert [asked for *_, asked in server.requests] == ["bytes=2000000-"]


def test_a_rotten_leftover_is_thrown_away_and_fetched_anew(
    server: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    (tmp_path / "w.bin.part").write_bytes(b"rotten" * 1000)
    fetch(server, tmp_path, quick, WEIGHTS)
    assert (tmp_path / "w.bin").read_bytes() == DATA


def test_wrong_bytes_are_tried_once_more_and_then_refused(
    server: FileServer, tmp_path: Path, quick: RetryPolicy
) -> None:
    server.files["m/w.bin"] = DATA[:-1] + b"!"
    with pytest.raises(ChecksumMismatchError) as caught:
        fetch(server, tmp_path, quick, WEIGHTS)
    assert caught.value.exit_code == 75
    assert server.count("GET", "m/w.bin") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_git_checksum_is_verified_too(server: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    right = hashlib.sha1(f"blob {len(DATA)}\0".encode() + DATA, usedforsecurity=False).hexdigest()
    fetch(server, tmp_path / "right", quick, RemoteFile("w.bin", len(DATA), checksum=f"git-sha1:{right}"))
    with pytest.raises(ChecksumMismatchError):
        fetch(server, tmp_path / "wrong", quick, RemoteFile("w.bin", len(DATA), checksum=f"git-sha1:{'0' * 40}"))


def test_a_file_that_changed_at_the_source_is_not_mixed(server: FileServer, tmp_path: Path, quick: RetryPolicy) -> None:
    listed = RemoteFile("w.bin", len(DATA), version="the-old-tag")
    with pytest.raises(SourceUnavailableError, match="changed while"):
        fetch(server, tmp_path, quick, listed)


def test_the_first_failure_stops_the_others(server: FileServer, tmp_path: Path) -> None:
    server.files["m/slow.bin"] = DATA
    server.faults["m/slow.bin"] = [Fault(503, {"Retry-After": "60"})] * 9
    patient = RetryPolicy(attempts=4, first_wait_s=0.01, longest_wait_s=120)
    started_s = time.monotonic()
    with pytest.raises(SourceNotFoundError):
        fetch(server, tmp_path, patient, RemoteFile("slow.bin", len(DATA)), RemoteFile("missing.bin", 1))
    assert time.monotonic() - started_s < 30


def test_files_come_at_the_same_time_and_no_more_of_them_than_allowed(tmp_path: Path, quick: RetryPolicy) -> None:
    at_once, most, gate = 0, 0, asyncio.Event()

    async def give_when_all_have_come(_request: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == PARALLEL:
            # One more than allowed would come now.
            asyncio.get_running_loop().call_later(0.2, gate.set)
        await asyncio.wait_for(gate.wait(), 20)
        at_once -= 1
        return web.Response(body=DATA)

    wanted = [RemoteFile(f"{number}.bin", len(DATA), checksum=f"sha256:{SHA256}") for number in range(PARALLEL + 2)]
    with serve(give_when_all_have_come) as url, closing(WebSource(f"{url}/m")) as source:
        progress = Progress(sum(file.size_bytes for file in wanted), io.StringIO())
        Downloader(source, progress, quick, parallel=PARALLEL).fetch_all(wanted, tmp_path)
    assert most == PARALLEL
    assert {path.read_bytes() == DATA for path in tmp_path.iterdir()} == {True}


def test_nobody_listening_is_unavailable(tmp_path: Path, quick: RetryPolicy) -> None:
    with pytest.raises(SourceUnavailableError):
        fetch(FileServer(url="http://127.0.0.1:9"), tmp_path, quick, WEIGHTS)
