"""Before an attempt: what the object store has and the volume lacks comes to the volume.

The attempt then finds everything where a claim would have it, and goes on from the newest checkpoint of both places.
The best one comes, too, where the result is made from it. What is damaged is said and passed over.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from llmos_workers.fetch.errors import ChecksumMismatchError, SourceNotFoundError
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.offsite.checkpoints import RemoteCheckpoint, RemoteCheckpoints, SavedManifest, find_best
from llmos_workers.offsite.folders import RETRY, bring_folder
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.train.files import MANIFEST, find_damage

log = logging.getLogger(__name__)

MARK: Final = "attempt.json"
"""Written before each attempt, so that credentials that may not write are known before an hour was trained."""


@dataclass(frozen=True)
class Restoring:
    """What comes from where to where."""

    root: RemoteFolder
    work: Path
    attempt: int
    trial: int = 0
    brings_dataset: bool = False
    """The volume is empty: the dataset is in the object store, too."""
    brings_best: bool = True
    """The result is made from the best checkpoint."""
    retry: RetryPolicy = RETRY

    @property
    def run(self) -> RemoteFolder:
        """Where checkpoints and result of the run are: of the job, or of a trial."""
        return self.root.child(f"trials/{self.trial}") if self.trial else self.root

    @property
    def folder(self) -> Path:
        """The same on the volume."""
        return self.work / "trials" / str(self.trial) if self.trial else self.work


def restore(restoring: Restoring) -> None:
    """Bring what is needed.

    Raises:
        FetchError: the object store cannot be read or written; what came is complete all the same.
    """
    text = json.dumps({"attempt": restoring.attempt, "time": datetime.now(UTC).isoformat(timespec="seconds")})
    restoring.retry.call(lambda: restoring.run.put(MARK, text.encode()))
    if restoring.brings_dataset:
        _bring_dataset(restoring)
    if not (restoring.folder / "output" / MANIFEST).is_file():
        _bring(restoring.run.child("output"), restoring.folder / "output", restoring.retry)
    _bring_checkpoints(restoring)
    _bring_attempts(restoring)


def _bring_dataset(restoring: Restoring) -> None:
    remote = restoring.root.child("dataset")
    if not bring_folder(remote, restoring.work / "dataset", restoring.retry):
        raise SourceNotFoundError(
            f"There is no prepared dataset in {remote.uri}",
            "Make a new FineTuneJob: somebody removed what this one had prepared.",
        )


def _bring_checkpoints(restoring: Restoring) -> None:
    folder = restoring.folder / "checkpoints"
    store = RemoteCheckpoints(restoring.run.child("checkpoints"))
    found = restoring.retry.call(store.observe)
    here = find_newest_complete(folder)
    newer = [one for one in found if one.step > here]
    for one in reversed(newer):
        if _bring_checkpoint(store, one, folder, restoring.retry):
            break
    best = find_best(found) if restoring.brings_best else None
    if best is not None and not is_complete(folder / f"step-{best.step:08d}"):
        _bring_checkpoint(store, best, folder, restoring.retry)


def _bring_checkpoint(store: RemoteCheckpoints, one: RemoteCheckpoint, folder: Path, retry: RetryPolicy) -> bool:
    return _bring(store.remote.child(one.name), folder / f"step-{one.step:08d}", retry)


def _bring(remote: RemoteFolder, target: Path, retry: RetryPolicy) -> bool:
    try:
        return bring_folder(remote, target, retry)
    except ChecksumMismatchError as error:
        log.warning("passing over %s, which is damaged: %s", remote.uri, error.cause)
        return False


def _bring_attempts(restoring: Restoring) -> None:
    """Bring what earlier attempts did, where the volume knows of none: lost time is computed from it."""
    folder, remote = restoring.folder / "attempts", restoring.run.child("attempts")
    if any(folder.glob("*.json")):
        return
    for name in restoring.retry.call(remote.list_files):
        if "/" not in name and name.endswith(".json"):
            remote.download(name, folder / name)


def find_newest_complete(folder: Path) -> int:
    """Return the step of the newest local checkpoint that is complete and undamaged; 0 where there is none."""
    for path in sorted(folder.glob("step-*[0-9]"), reverse=True):
        if is_complete(path):
            return int(path.name.removeprefix("step-"))
    return 0


def is_complete(folder: Path) -> bool:
    """Whether a local checkpoint is what its manifest says."""
    try:
        manifest = SavedManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return False
    return not find_damage(folder, manifest.files)
