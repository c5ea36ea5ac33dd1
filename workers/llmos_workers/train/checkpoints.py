"""Checkpoints on the claim: which are complete, which one to go on from, which to keep.

    checkpoints/step-00000200/{state.json, weights.pt, training.pt, manifest.json}

A folder is complete when it has a manifest and every file has the size and sha256 that it names. To go on, the newest
complete one is taken; damaged ones are said and passed over. One that is complete but was made with another dataset,
base or settings is no way to go on, and neither is one before it: the job would end up with a mixture that nobody
asked for.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from llmos.api import CheckpointStatus
from llmos_workers.train.errors import CheckpointMismatchError
from llmos_workers.train.files import (
    MANIFEST,
    TEMPORARY,
    Entry,
    FileEntry,
    atomic_folder,
    describe_file,
    find_damage,
    write_text,
)
from llmos_workers.train.scores import Scored, list_comparable
from llmos_workers.train.settings import Settings, find_changes
from llmos_workers.train.snapshot import Snapshot

log = logging.getLogger(__name__)

_PREFIX: Final = "step-"


@dataclass(frozen=True)
class Lineage:
    """What a run is made from."""

    dataset_digest: str
    base_digest: str
    settings: Settings


class CheckpointManifest(Scored):
    """What a checkpoint holds, and what it was made from."""

    format_version: int = 1
    time: datetime
    dataset_digest: str
    base_digest: str
    settings_digest: str
    settings: dict[str, Any]
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    manifest: CheckpointManifest
    manifest_sha256: str

    @property
    def status(self) -> CheckpointStatus:
        """What the job's status says about it."""
        return CheckpointStatus(
            step=self.manifest.step, time=self.manifest.time, uri=f"file://{self.folder}", sha256=self.manifest_sha256
        )


class CheckpointStore:
    """The folder of checkpoints of one run."""

    def __init__(self, folder: Path, lineage: Lineage, *, keep: int, keep_best: bool) -> None:
        """Keep the newest `keep`, and the best one."""
        self._folder, self._lineage, self._keep, self._keep_best = folder, lineage, keep, keep_best
        self._complete: dict[int, Checkpoint] = {}
        self.is_needed: Callable[[int], bool] = lambda _step: False
        """Whether the checkpoint of a step may not be removed yet."""

    def observe(self) -> None:
        """Find what is complete, as far as names and sizes tell, and remove what was half written.

        Raises:
            CheckpointMismatchError: it was made with another dataset, base or settings.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"*{TEMPORARY}"):
            log.info("removing %s, which was only half written", leftover.name)
            shutil.rmtree(leftover)
        for folder in sorted(self._folder.glob(f"{_PREFIX}*")):
            checkpoint = self._read(folder)
            if checkpoint is not None:
                self._complete[checkpoint.manifest.step] = checkpoint

    def begin_to_verify(self) -> Future[Checkpoint | None]:
        """Read, in a thread, the newest of those that `observe` found: the one to go on from, or if damaged the next.

        Until it is known nothing else may be asked of this folder.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix="verify")
        verifying = executor.submit(self._verify, lambda: self.newest)
        executor.shutdown(wait=False)
        return verifying

    def verify_best(self) -> Checkpoint | None:
        """The one to make the result from: the best where it is kept, else the newest. Damaged ones are passed over."""
        return self._verify(lambda: self.best or self.newest)

    @property
    def newest(self) -> Checkpoint | None:
        """The complete one with the most steps."""
        return self._complete[max(self._complete)] if self._complete else None

    @property
    def best(self) -> Checkpoint | None:
        """The one that the held-out examples found the best, the first of equal ones; where none is kept, None."""
        return find_best(self._complete.values()) if self._keep_best else None

    def save(self, snapshot: Snapshot) -> Checkpoint:
        """Write a checkpoint and remove what is no longer kept; nothing is removed before it is complete.

        Raises:
            OSError: it could not be written; nothing of it is left, and all that were there still are.
        """
        folder = self._folder / f"{_PREFIX}{snapshot.state.step:08d}"
        with atomic_folder(folder) as temporary:
            manifest = self._build_manifest(snapshot, snapshot.write(temporary))
            entry = write_text(temporary / MANIFEST, manifest.model_dump_json(by_alias=True, indent=1) + "\n")
        checkpoint = Checkpoint(folder, manifest, entry.sha256)
        self._complete[manifest.step] = checkpoint
        self._prune()
        return checkpoint

    def _build_manifest(self, snapshot: Snapshot, files: dict[str, FileEntry]) -> CheckpointManifest:
        state, lineage = snapshot.state, self._lineage
        return CheckpointManifest(
            step=state.step,
            time=datetime.now(UTC).replace(microsecond=0),
            evaluated_step=state.evaluated_step,
            eval_loss=state.eval_loss,
            judged_by=state.judged_by,
            score=state.score,
            dataset_digest=lineage.dataset_digest,
            base_digest=lineage.base_digest,
            settings_digest=lineage.settings.digest,
            settings=lineage.settings.facts,
            files=files,
        )

    def _prune(self) -> None:
        best = self.best
        kept = set(sorted(self._complete)[-self._keep :]) | ({best.manifest.step} if best else set())
        for step in [step for step in self._complete if step not in kept and not self.is_needed(step)]:
            shutil.rmtree(self._complete.pop(step).folder, ignore_errors=True)

    def _verify(self, choose: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """Read the chosen one whole; where it is damaged, choose again. The others are long, and not read."""
        while (chosen := choose()) is not None:
            damage = find_damage(chosen.folder, chosen.manifest.files)
            if not damage:
                return chosen
            _say_damaged(chosen.folder, damage)
            del self._complete[chosen.manifest.step]
        return None

    def _read(self, folder: Path) -> Checkpoint | None:
        path = folder / MANIFEST
        try:
            manifest = CheckpointManifest.model_validate_json(path.read_bytes())
            check_lineage(f"The checkpoint {folder.name}", manifest, self._lineage)
            damage = find_damage(folder, manifest.files, read=False)
        except (OSError, ValidationError) as error:
            damage = f"{MANIFEST} cannot be read: {type(error).__name__}"
        if damage:
            _say_damaged(folder, damage)
            return None
        return Checkpoint(folder, manifest, describe_file(path).sha256)


def _say_damaged(folder: Path, damage: str) -> None:
    log.warning("passing over the checkpoint %s, which is damaged: %s", folder.name, damage)


def find_best(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The one that the held-out examples found the best; the first of equal ones."""
    return min(
        list_comparable(checkpoints, lambda one: one.manifest),
        key=lambda one: (one.manifest.compared, one.manifest.step),
        default=None,
    )


class MadeFrom(Entry):
    """What anything that was saved says about its origin."""

    dataset_digest: str
    base_digest: str
    settings: dict[str, Any]


def check_lineage(what: str, saved: CheckpointManifest | MadeFrom, lineage: Lineage) -> None:
    """Refuse what was made from something else.

    Raises:
        CheckpointMismatchError: it names what is different.
    """
    differences = [
        f"{name} ({was}, now {now})"
        for name, was, now in (
            ("dataset", saved.dataset_digest, lineage.dataset_digest),
            ("base model", saved.base_digest, lineage.base_digest),
        )
        if was != now
    ]
    changes = find_changes(saved.settings, lineage.settings.facts)
    differences += [f"settings ({', '.join(changes)})"] if changes else []
    if differences:
        raise CheckpointMismatchError(f"{what} was made with another {' and another '.join(differences)}")
