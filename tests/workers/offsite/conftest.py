"""An object store, a job's folder in it, and checkpoints made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.train.files import describe_file
from tests.object_store import Door, open_door, serve_bucket

BUCKET = "checkpoints"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_bucket(tmp_path_factory.mktemp("moto"), BUCKET) as url:
        yield url


@pytest.fixture
def door(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with open_door(server) as door:
        door.enter(monkeypatch)
        yield door


@pytest.fixture
def root(door: Door, request: pytest.FixtureRequest) -> RemoteFolder:
    """A folder of this test alone."""
    name = "".join(char if char.isalnum() else "-" for char in request.node.name)
    return RemoteFolder(f"s3://{BUCKET}/{name}")


def make_checkpoint(folder: Path, step: int, *, eval_loss: float | None = None, size_bytes: int = 1000) -> Path:
    """A complete checkpoint of a step."""
    made = folder / f"step-{step:08d}"
    made.mkdir(parents=True)
    for name in ("weights.pt", "training.pt"):
        (made / name).write_bytes(f"{name} of {step} ".encode().ljust(size_bytes, b"."))
    files = {path.name: describe_file(path).model_dump(by_alias=True) for path in made.iterdir()}
    evaluated = step if eval_loss is not None else 0
    manifest = {"step": step, "evaluatedStep": evaluated, "evalLoss": eval_loss, "files": files}
    (made / "manifest.json").write_text(json.dumps(manifest))
    return made
