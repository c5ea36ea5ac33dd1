"""What goes to the object store while training goes on, to a real S3 server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llmos.api import CheckpointStatus
from llmos_workers.fetch.errors import AccessDeniedError
from llmos_workers.offsite import uploading
from llmos_workers.offsite.checkpoints import RemoteCheckpoints
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.offsite.uploading import Events, Local, Uploader
from llmos_workers.train.files import describe_file
from tests.object_store import Door
from tests.workers.offsite.conftest import make_checkpoint

SOON_S = 20.0


@dataclass
class Run:
    """A run whose checkpoints are made by hand."""

    root: RemoteFolder
    folder: Path
    uploaded: list[CheckpointStatus] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    uploader: Uploader = field(init=False)

    def __post_init__(self) -> None:
        events = Events(self.uploaded.append, self.troubles.append, lambda: None)
        self.uploader = Uploader(self.root, self.folder, attempt=1, keep=2, keep_best=True, events=events)

    def make(self, step: int, eval_loss: float | None = None) -> Local:
        made = make_checkpoint(self.folder / "checkpoints", step, eval_loss=eval_loss)
        sha256 = describe_file(made / "manifest.json").sha256
        status = CheckpointStatus(step=step, time=datetime.now(UTC), uri=f"file://{made}", sha256=sha256)
        return Local(made, status)

    def steps(self) -> list[int]:
        return [one.step for one in RemoteCheckpoints(self.root.child("checkpoints")).observe()]

    def finish(self) -> bool:
        return self.uploader.finish(time.monotonic() + SOON_S)


@contextmanager
def start(root: RemoteFolder, folder: Path) -> Iterator[Run]:
    run = Run(root, folder)
    run.uploader.start()
    try:
        yield run
    finally:
        run.uploader.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "FIRST_PAUSE_S", 0.05)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_checkpoint_is_complete_in_the_store_with_its_manifest_last(
    root: RemoteFolder, door: Door, tmp_path: Path
) -> None:
    with start(root, tmp_path) as run:
        run.uploader.offer(run.make(10), None)
        assert run.finish()
    names = [path.rpartition("/")[2] for path in door.uploads]
    assert names == ["training.pt", "weights.pt", "manifest.json"]
    (told,) = run.uploaded
    assert told.uri == f"{root.uri}/checkpoints/step-00000010.1"


def test_while_one_goes_up_only_the_newest_waits_and_both_stay_on_the_volume(
    root: RemoteFolder, door: Door, tmp_path: Path
) -> None:
    door.holds = lambda path: "step-00000010" in path
    with start(root, tmp_path) as run:
        run.uploader.offer(run.make(10), None)
        assert door.held.wait(SOON_S)
        for step in (20, 30, 40):
            run.uploader.offer(run.make(step), None)
        assert [step for step in (10, 20, 30, 40) if run.uploader.is_needed(step)] == [10, 40]
        door.holds = lambda _path: False
        assert run.finish()
    assert [status.step for status in run.uploaded] == [10, 40]
    assert not run.uploader.is_needed(40)


def test_the_best_goes_up_before_the_newest_and_both_are_kept(root: RemoteFolder, tmp_path: Path) -> None:
    with start(root, tmp_path) as run:
        best = run.make(10, eval_loss=0.1)
        for step in (20, 30, 40):
            run.uploader.offer(run.make(step, eval_loss=0.5), best)
            assert run.finish()
        assert [status.step for status in run.uploaded] == [10, 20, 30, 40]
        assert run.steps() == [10, 30, 40]


def test_a_store_that_is_away_is_a_trouble_until_it_is_back(root: RemoteFolder, door: Door, tmp_path: Path) -> None:
    door.is_shut = True
    with start(root, tmp_path) as run:
        run.uploader.offer(run.make(10), None)
        wait_for(lambda: len(run.troubles) > 1)
        assert "tries again" in run.troubles[0]
        run.uploader.offer(run.make(20), None)
        door.is_shut = False
        assert run.finish()
        wait_for(lambda: run.troubles[-1] == "")
    assert [status.step for status in run.uploaded] == [20]


def test_waiting_for_the_end_has_a_deadline(root: RemoteFolder, door: Door, tmp_path: Path) -> None:
    door.holds = lambda _path: True
    with start(root, tmp_path) as run:
        run.uploader.offer(run.make(10), None)
        began_s = time.monotonic()
        assert not run.uploader.finish(began_s + 0.3)
        assert time.monotonic() - began_s < SOON_S / 2
        door.holds = lambda _path: False


def test_a_file_that_cannot_be_read_ends_no_thread(root: RemoteFolder, tmp_path: Path) -> None:
    with start(root, tmp_path) as run:
        damaged = run.make(10)
        (damaged.folder / "manifest.json").unlink()
        run.uploader.offer(damaged, None)
        wait_for(lambda: bool(run.troubles))
        run.uploader.offer(run.make(20), None)
        assert run.finish()
    assert run.steps() == [20]


def test_records_of_the_attempt_and_event_files_go_with_it(root: RemoteFolder, tmp_path: Path) -> None:
    for name in ("attempts/00001.json", "tensorboard/events.1"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    with start(root, tmp_path) as run:
        run.uploader.offer(run.make(10), None)
        assert run.finish()
    assert root.read("attempts/00001.json") == b"{}"
    assert root.read("tensorboard/events.1") == b"{}"


def test_the_result_is_put_once_and_tried_until_its_deadline(
    root: RemoteFolder, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(root, tmp_path)
    result = make_checkpoint(tmp_path / "results", 1)
    run.uploader.publish_result(result, time.monotonic() + SOON_S, lambda: None)
    before = len(door.uploads)
    run.uploader.publish_result(result, time.monotonic() + SOON_S, lambda: None)
    assert len(door.uploads) == before
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    other = Run(RemoteFolder(f"{root.uri}/other"), tmp_path)
    with pytest.raises(AccessDeniedError):
        other.uploader.publish_result(result, time.monotonic(), lambda: None)
    assert "checkpoint.storage.secretRef" in other.troubles[-1]


def test_no_thread_is_left(root: RemoteFolder, tmp_path: Path) -> None:
    with start(root, tmp_path) as run:
        run.uploader.offer(run.make(10), None)
        assert run.finish()
    wait_for(lambda: all(thread.name != "uploader" for thread in threading.enumerate()))
