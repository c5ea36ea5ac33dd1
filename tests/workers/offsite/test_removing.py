"""What goes from the object store when a job is deleted, on a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.offsite import main as command
from llmos_workers.offsite.main import main
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.offsite.removing import remove_job
from tests.object_store import Door

JOB = (
    "attempt.json",
    "attempts/1.json",
    "checkpoints/step-00000010.1/manifest.json",
    "checkpoints/step-00000010.1/weights.pt",
    "dataset/manifest.json",
    "output/adapter_model.safetensors",
    "output/manifest.json",
    "tensorboard/events.1",
    "trials/2/output/manifest.json",
)


@pytest.fixture
def job(root: RemoteFolder) -> RemoteFolder:
    """All that a job puts."""
    for name in JOB:
        root.put(name, name.encode())
    return root


def test_everything_that_the_job_put_goes_and_may_be_gone_already(job: RemoteFolder) -> None:
    assert main(["remove", "--uri", job.uri]) == 0
    assert job.list_files() == {}
    assert main(["remove", "--uri", job.uri]) == 0


def test_what_others_put_beside_it_stays(job: RemoteFolder) -> None:
    for name in ("notes.txt", "team/tune/checkpoints/step-00000010.1/manifest.json", "output"):
        job.put(name, b"not of this job")
    neighbour = RemoteFolder(f"{job.uri}-2")
    neighbour.put("attempt.json", b"of another one")
    assert remove_job(job) == len(JOB)
    assert sorted(job.list_files()) == ["notes.txt", "output", "team/tune/checkpoints/step-00000010.1/manifest.json"]
    assert list(neighbour.list_files()) == ["attempt.json"]


def test_what_a_model_reads_stays(job: RemoteFolder) -> None:
    assert main(["remove", "--uri", job.uri, "--keep", "output", "--keep", "trials/2/output"]) == 0
    assert sorted(job.list_files()) == [name for name in JOB if "output/" in name]


def test_an_object_that_a_model_reads_stays_and_no_other_of_its_folder(job: RemoteFolder) -> None:
    job.put("output/model.gguf", b"weights")
    job.put("output/model.gguf.part", b"of something else")
    assert main(["remove", "--uri", job.uri, "--keep", "output/model.gguf"]) == 0
    assert sorted(job.list_files()) == ["output/model.gguf"]


def test_manifests_go_first(job: RemoteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(RemoteFolder, "delete", lambda _, names: order.extend(names))
    remove_job(job)
    assert len(order) == len(JOB)
    is_manifest = [name.endswith("/manifest.json") for name in order]
    assert is_manifest == sorted(is_manifest, reverse=True)


def test_a_bucket_that_is_gone_has_nothing(door: Door) -> None:
    assert main(["remove", "--uri", "s3://no-such-bucket/ml/team/tune"]) == 0


def test_a_store_that_fails_is_tried_again_and_told_in_the_end(
    job: RemoteFolder, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(command, "REMOVAL_RETRY", RetryPolicy(attempts=2, first_wait_s=0.01, longest_wait_s=0.1))
    door.is_shut = True
    assert main(["remove", "--uri", job.uri]) == 1
    told = json.loads((tmp_path / "log").read_text())
    assert told["message"].startswith(f"The object store {job.uri}: ")
    door.is_shut = False
    assert main(["remove", "--uri", job.uri]) == 0
    assert job.list_files() == {}


def test_credentials_that_are_not_taken_any_more_are_told_without_a_remedy_for_a_next_attempt(
    job: RemoteFolder, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "revoked")
    assert main(["remove", "--uri", job.uri]) == 1
    told = json.loads((tmp_path / "log").read_text())
    assert told["reason"] == "AccessDenied"
    assert "next attempt" not in told["message"]
    assert "secret-key" not in told["message"]
