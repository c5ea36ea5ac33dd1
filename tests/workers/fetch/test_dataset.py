"""The dataset step: which files it takes, from where, and what a second run does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from llmos.api import Reason
from llmos_workers.fetch.dataset import select_dataset_files
from llmos_workers.fetch.errors import SourceNotFoundError
from llmos_workers.fetch.main import main
from llmos_workers.fetch.manifest import read_manifest
from llmos_workers.fetch.sources import RemoteFile
from tests.workers.fetch.servers import Fault, FileServer, Hub, add_to_index, build_wheel

LINE = b'{"text": "one"}\n'
QUICK = ("--attempts", "3", "--first-wait-s", "0.01")


@pytest.fixture
def termination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination"
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(path))
    return path


def run(uri: str, dest: Path, *more: str) -> int:
    return main(["dataset", "--source", uri, "--dest", str(dest), *QUICK, *more])


def read_names(dest: Path) -> set[str]:
    folder = (dest / "data").resolve()
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def put_folder(files: FileServer, folder: str, content: dict[str, bytes]) -> str:
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items())
    files.files |= {f"{folder}/{name}": data for name, data in content.items()}
    files.files[f"{folder}/SHA256SUMS"] = sums.encode()
    return f"{files.url}/{folder}/"


def test_a_folder_gives_its_json_lines_and_nothing_else(files: FileServer, tmp_path: Path) -> None:
    content = {"a.jsonl": LINE, "more/b.jsonl.gz": b"gz", "c.jsonl.zst": b"zst", "README.md": b"#", "x.parquet": b"P"}
    assert run(put_folder(files, "d", content), tmp_path / "dest") == 0
    assert read_names(tmp_path / "dest") == {"a.jsonl", "more/b.jsonl.gz", "c.jsonl.zst", "manifest.json"}
    assert (tmp_path / "dest/data/a.jsonl").read_bytes() == LINE


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz", "train.jsonl.zst", "data.json"])
def test_a_single_file_is_named_by_the_uri(files: FileServer, tmp_path: Path, name: str) -> None:
    files.files = {f"d/{name}": LINE, "d/other.jsonl": LINE}
    assert run(f"{files.url}/d/{name}?X-Amz-Signature=abc", tmp_path / "dest") == 0
    assert read_names(tmp_path / "dest") == {name, "manifest.json"}
    manifest = read_manifest(tmp_path / "dest/data")
    assert manifest is not None
    assert manifest.source == f"{files.url}/d/{name}"


def test_a_broken_download_goes_on_and_a_second_run_asks_nobody(files: FileServer, tmp_path: Path) -> None:
    data = LINE * 500_000
    files.files["d/train.jsonl"] = data
    files.faults["d/train.jsonl"] = [Fault(cut_after_bytes=1 << 20), Fault(503)]
    uri = f"{files.url}/d/train.jsonl"
    assert run(uri, tmp_path / "dest") == 0
    assert (tmp_path / "dest/data/train.jsonl").read_bytes() == data
    assert [asked for method, _, asked in files.requests if method == "GET"][-1].startswith("bytes=")
    files.requests.clear()
    files.files["d/train.jsonl"] = b"changed"
    assert run(uri, tmp_path / "dest") == 0
    assert files.requests == []


def test_another_source_takes_the_place_of_the_first(files: FileServer, tmp_path: Path) -> None:
    files.files = {"d/one.jsonl": LINE, "d/two.jsonl": LINE}
    for name in ("one", "two"):
        assert run(f"{files.url}/d/{name}.jsonl", tmp_path / "dest") == 0
    assert read_names(tmp_path / "dest") == {"two.jsonl", "manifest.json"}


def test_what_was_prepared_is_not_fetched_again(files: FileServer, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/.prepared").touch()
    assert run(f"{files.url}/d/train.jsonl", tmp_path / "dest") == 0
    assert files.requests == []


@pytest.mark.parametrize("uri", ["hf://org/tiny@v1", "hf://datasets/org/tiny", "hf://org/tiny/train.jsonl"])
def test_a_hub_is_asked_for_a_dataset(hub: Hub, tmp_path: Path, uri: str) -> None:
    hub.content = "datasets"
    hub.files.files = {"train.jsonl": LINE, "README.md": b"#"}
    assert run(uri, tmp_path / "dest") == 0
    assert read_names(tmp_path / "dest") == {"train.jsonl", "manifest.json"}


def test_a_claim_is_copied(tmp_path: Path) -> None:
    (tmp_path / "source/d").mkdir(parents=True)
    (tmp_path / "source/d/train.jsonl").write_bytes(LINE)
    assert run("pvc://data/d", tmp_path / "dest", "--pvc-mount", str(tmp_path / "source")) == 0
    copied = (tmp_path / "dest/data/train.jsonl").resolve()
    assert copied.is_relative_to(tmp_path / "dest")
    assert copied.read_bytes() == LINE


def test_a_wheel_gives_what_lies_in_it(files: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{files.url}/simple/")
    add_to_index(files, "tiny-data", "1.0", build_wheel({"tiny_data/train.jsonl": LINE, "tiny_data/code.py": b""}))
    assert run("pypi://tiny-data==1.0/tiny_data", tmp_path / "dest") == 0
    assert read_names(tmp_path / "dest") == {"train.jsonl", "manifest.json"}


@pytest.mark.parametrize(
    ("path", "fault", "reason", "code"),
    [
        ("none.jsonl", None, "SourceNotFound", 1),
        ("d/train.jsonl", 403, "AccessDenied", 1),
        ("d/train.jsonl", 503, "SourceUnavailable", 75),
        ("folder/", None, "SourceNotFound", 1),
    ],
)
def test_failures_have_the_reasons_that_models_have(
    files: FileServer, tmp_path: Path, termination: Path, path: str, fault: int | None, reason: str, code: int
) -> None:
    files.files["d/train.jsonl"] = LINE
    files.faults["d/train.jsonl"] = [Fault(fault)] * 9 if fault else []
    assert run(f"{files.url}/{path}", tmp_path / "dest") == code
    failure = json.loads(termination.read_text())
    assert failure["reason"] == reason
    assert "spec.source." not in failure["message"]


def test_a_volume_that_is_too_small_is_seen_before_the_first_byte(
    files: FileServer, tmp_path: Path, termination: Path
) -> None:
    files.files["d/train.jsonl"] = LINE * 1000
    assert run(f"{files.url}/d/train.jsonl", tmp_path / "dest", "--capacity-bytes", "10000") == 1
    failure = json.loads(termination.read_text())
    assert failure["reason"] == Reason.DiskFull
    assert "spec.checkpoint.storage.size" in failure["message"]


def test_the_choice_is_sorted_and_leaves_hidden_files_out() -> None:
    listed = [RemoteFile(name, 1) for name in ("b.jsonl", "a.JSONL", ".hidden/c.jsonl", "notes.txt")]
    assert [file.path for file in select_dataset_files(listed, "s3://bucket/d")] == ["a.JSONL", "b.jsonl"]
    with pytest.raises(SourceNotFoundError, match="one file"):
        select_dataset_files(listed[3:], "s3://bucket/d")
    assert select_dataset_files([RemoteFile("notes.txt", 1)], "s3://bucket/d/notes.txt")
