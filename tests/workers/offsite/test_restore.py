"""What comes from the object store before an attempt, from a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from llmos_workers.fetch.errors import AccessDeniedError, SourceNotFoundError
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.offsite.checkpoints import RemoteCheckpoints
from llmos_workers.offsite.main import main
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.offsite.restore import Restoring, restore
from tests.object_store import Door
from tests.workers.offsite.conftest import BUCKET, make_checkpoint

QUICK = RetryPolicy(attempts=2, first_wait_s=0.01)


def put(root: RemoteFolder, folder: Path, step: int, attempt: int = 1, eval_loss: float | None = None) -> str:
    """A checkpoint that an earlier attempt put."""
    made = make_checkpoint(folder / f"of-{attempt}-{step}", step, eval_loss=eval_loss)
    return RemoteCheckpoints(root.child("checkpoints")).put(made, step, attempt, lambda: None)


def bring(root: RemoteFolder, work: Path) -> list[str]:
    restore(Restoring(root, work, attempt=2, retry=QUICK))
    return sorted(path.name for path in (work / "checkpoints").glob("*"))


def test_the_newest_and_the_best_come_whole(root: RemoteFolder, tmp_path: Path) -> None:
    for step, loss in ((10, 1.0), (20, 0.5), (30, 0.7), (40, 0.9)):
        put(root, tmp_path, step, eval_loss=loss)
    assert bring(root, tmp_path / "work") == ["step-00000020", "step-00000040"]
    came = tmp_path / "work" / "checkpoints" / "step-00000040" / "weights.pt"
    assert came.read_bytes().startswith(b"weights.pt of 40 ")


def test_the_best_stays_where_no_result_is_made_from_it(root: RemoteFolder, tmp_path: Path) -> None:
    for step, loss in ((10, 0.1), (20, 0.5)):
        put(root, tmp_path, step, eval_loss=loss)
    words = ["restore", "--uri", root.uri, "--work", str(tmp_path / "work"), "--attempt", "2", "--has-claim"]
    assert main([*words, "--without-best"]) == 0
    assert [path.name for path in (tmp_path / "work" / "checkpoints").iterdir()] == ["step-00000020"]


def test_what_the_volume_has_that_is_newer_stays(root: RemoteFolder, tmp_path: Path) -> None:
    put(root, tmp_path, 40)
    make_checkpoint(tmp_path / "work" / "checkpoints", 50)
    assert bring(root, tmp_path / "work") == ["step-00000050"]


def test_a_damaged_one_on_the_volume_gives_way_to_that_of_the_store(root: RemoteFolder, tmp_path: Path) -> None:
    put(root, tmp_path, 50)
    here = make_checkpoint(tmp_path / "work" / "checkpoints", 50)
    (here / "weights.pt").write_bytes(b"x" * 1000)
    assert bring(root, tmp_path / "work") == ["step-00000050"]
    assert (here / "weights.pt").read_bytes().startswith(b"weights.pt of 50 ")


def test_half_an_upload_is_never_taken(root: RemoteFolder, tmp_path: Path) -> None:
    put(root, tmp_path, 10)
    root.child("checkpoints/step-00000020.1").put("weights.pt", b"all of it")
    assert bring(root, tmp_path / "work") == ["step-00000010"]


@pytest.mark.parametrize("damage", ["flipped", "gone", "manifest"])
def test_a_damaged_one_in_the_store_is_passed_over(root: RemoteFolder, tmp_path: Path, damage: str) -> None:
    put(root, tmp_path, 10)
    place = RemoteFolder(put(root, tmp_path, 20))
    if damage == "flipped":
        data = bytearray(place.read("training.pt") or b"")
        data[5] ^= 1
        place.put("training.pt", bytes(data))
    elif damage == "gone":
        place.delete(["training.pt"])
    else:
        place.put("manifest.json", b"{")
    assert bring(root, tmp_path / "work") == ["step-00000010"]
    assert list((tmp_path / "work").rglob("*.tmp")) == []


def test_a_manifest_that_names_files_outside_is_damage(root: RemoteFolder, tmp_path: Path) -> None:
    root.child("output").put("manifest.json", json.dumps({"files": {"../../escape": "0" * 64}}).encode())
    assert bring(root, tmp_path / "work") == []
    assert not (tmp_path / "escape").exists()


def test_of_two_attempts_that_made_a_step_the_later_counts(root: RemoteFolder, tmp_path: Path) -> None:
    put(root, tmp_path, 10, attempt=1)
    put(root, tmp_path, 10, attempt=3)
    store = RemoteCheckpoints(root.child("checkpoints"))
    store.prune(keep=1, keep_best=True, attempt=3)
    assert [one.name for one in store.observe()] == ["step-00000010.3"]


def test_an_attempt_whose_node_is_lost_removes_nothing_that_the_next_one_is_putting(
    root: RemoteFolder, tmp_path: Path
) -> None:
    for step in (10, 20):
        put(root, tmp_path, step, attempt=2)
    for attempt in (1, 2, 3):
        root.child(f"checkpoints/step-00000015.{attempt}").put("weights.pt", b"not all of it yet")
    RemoteCheckpoints(root.child("checkpoints")).prune(keep=1, keep_best=False, attempt=1)
    left = {name.partition("/")[0] for name in root.child("checkpoints").list_files()}
    assert left == {"step-00000015.2", "step-00000015.3", "step-00000020.2"}


def test_pruning_keeps_the_newest_and_the_best_and_removes_what_was_never_complete(
    root: RemoteFolder, tmp_path: Path
) -> None:
    for step, loss in ((10, 0.1), (20, 0.5), (30, 0.4), (40, 0.3)):
        put(root, tmp_path, step, eval_loss=loss)
    root.child("checkpoints/step-00000035.1").put("weights.pt", b"half")
    root.child("checkpoints").put("notes.txt", b"of somebody else")
    store = RemoteCheckpoints(root.child("checkpoints"))
    store.prune(keep=2, keep_best=True, attempt=1)
    assert [one.step for one in store.observe()] == [10, 30, 40]
    assert {name.partition("/")[0] for name in root.child("checkpoints").list_files()} == {
        "step-00000010.1",
        "step-00000030.1",
        "step-00000040.1",
        "notes.txt",
    }


def test_a_volume_of_the_pod_alone_gets_the_dataset_and_what_attempts_did(root: RemoteFolder, tmp_path: Path) -> None:
    prepared = make_checkpoint(tmp_path / "prepared", 0)
    assert main(["put", "--uri", f"{root.uri}/dataset", "--folder", str(prepared)]) == 0
    root.put("attempts/00001.json", b"{}")
    restore(Restoring(root, tmp_path / "work", attempt=2, brings_dataset=True, retry=QUICK))
    assert (tmp_path / "work" / "dataset" / "weights.pt").read_bytes() == (prepared / "weights.pt").read_bytes()
    assert (tmp_path / "work" / "attempts" / "00001.json").is_file()


def test_a_dataset_that_somebody_removed_is_said(root: RemoteFolder, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no prepared dataset"):
        restore(Restoring(root, tmp_path, attempt=2, brings_dataset=True, retry=QUICK))


def test_wrong_credentials_are_named_with_the_remedy_and_never_told(
    root: RemoteFolder, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    said = tmp_path / "termination"
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(said))
    command = ["restore", "--uri", root.uri, "--work", str(tmp_path / "work"), "--attempt", "1"]
    assert main(command) == 1
    told = json.loads(said.read_text())
    assert told["reason"] == "AccessDenied"
    assert "checkpoint.storage.secretRef" in told["message"]
    assert "secret-key" not in said.read_text()
    said.unlink()
    assert main([*command, "--has-claim"]) == 0
    assert not said.exists()
    with pytest.raises(AccessDeniedError):
        RemoteFolder(root.uri).list_files()


def test_a_bucket_that_is_not_there_is_named(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "termination"
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(said))
    command = ["restore", "--uri", "s3://no-such-bucket/a", "--work", str(tmp_path / "work"), "--attempt", "1"]
    assert main(command) == 1
    told = json.loads(said.read_text())
    assert told["reason"] == "SourceNotFound"
    assert "Create the bucket" in told["message"]


def test_googles_store_is_written_by_the_same_road(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = {"gcs_base_url": server, "disable_oauth": True, "client_email": "", "private_key": ""}
    (tmp_path / "account.json").write_text(json.dumps({**account, "private_key_id": ""}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    httpx.put(f"{server}/{BUCKET}/google/a.txt", content=b"a", headers={"x-amz-acl": "public-read"}).raise_for_status()
    assert RemoteFolder(f"gs://{BUCKET}/google").read("a.txt") == b"a"
