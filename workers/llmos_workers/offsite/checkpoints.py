"""Checkpoints in an object store: which are complete, which one to go on from, which to keep.

Each has a folder of its own for each attempt that made it (`step-00000200.3`), so that an attempt whose node does not
know yet that it is lost never mixes its files with those of the next one.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from llmos_workers.offsite.folders import publish_folder, remove_folder
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.train.files import MANIFEST, FileEntry
from llmos_workers.train.scores import Scored, list_comparable

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"step-(\d{8,12})\.(\d{1,9})$")


class SavedManifest(Scored):
    """The part of a checkpoint's manifest that decides what becomes of it."""

    files: dict[str, FileEntry]


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A complete checkpoint in an object store."""

    name: str
    attempt: int
    manifest: SavedManifest
    sha256: str
    """Of the manifest."""

    @property
    def step(self) -> int:
        """Optimizer steps that it holds."""
        return self.manifest.step


def find_best(found: Iterable[RemoteCheckpoint]) -> RemoteCheckpoint | None:
    """The one that the held-out examples found the best; the first step of equal ones, and its latest attempt."""
    comparable = list_comparable(found, lambda one: one.manifest)
    return min(comparable, key=lambda one: (one.manifest.compared, one.step, -one.attempt), default=None)


def choose_kept(found: Iterable[RemoteCheckpoint], *, keep: int, keep_best: bool) -> set[str]:
    """Names of the newest `keep` steps, of each the latest attempt, and of the best one."""
    latest = {one.step: one for one in sorted(found, key=lambda one: one.attempt)}
    kept = {latest[step].name for step in sorted(latest)[-keep:]}
    best = find_best(latest.values()) if keep_best else None
    return kept | ({best.name} if best is not None else set())


@dataclass
class RemoteCheckpoints:
    """The checkpoints of one run. Manifests are read once."""

    remote: RemoteFolder
    _read: dict[str, RemoteCheckpoint] = field(default_factory=dict)

    def observe(self) -> tuple[RemoteCheckpoint, ...]:
        """Those that are complete, the newest last."""
        sizes = self.remote.list_files()
        return self._choose_complete(sizes)

    def put(self, folder: Path, step: int, attempt: int, tick: Callable[[], None]) -> str:
        """Put a complete local checkpoint, and return where it is; `tick` is called after each file."""
        name = f"step-{step:08d}.{attempt}"
        self._read.pop(name, None)
        place = self.remote.child(name)
        publish_folder(place, folder, tick)
        return place.uri

    def prune(self, *, keep: int, keep_best: bool, attempt: int) -> None:
        """Remove what is no longer kept, and what was never complete, but for what a later attempt may be putting."""
        sizes = self.remote.list_files()
        complete = self._choose_complete(sizes)
        kept, over = choose_kept(complete, keep=keep, keep_best=keep_best), {one.name for one in complete}
        for name in {path.partition("/")[0] for path in sizes} - kept:
            match = _NAME.match(name)
            if match is not None and (name in over or int(match[2]) <= attempt):
                log.info("removing the checkpoint %s from the object store", name)
                remove_folder(self.remote.child(name))
                self._read.pop(name, None)

    def _choose_complete(self, sizes: dict[str, int]) -> tuple[RemoteCheckpoint, ...]:
        names = sorted({path.partition("/")[0] for path in sizes if path.endswith(f"/{MANIFEST}")})
        found = (self._look(name, sizes) for name in names)
        return tuple(sorted((one for one in found if one is not None), key=lambda one: (one.step, one.attempt)))

    def _look(self, name: str, sizes: dict[str, int]) -> RemoteCheckpoint | None:
        match = _NAME.match(name)
        if match is None:
            return None
        one = self._read.get(name) or self._parse(name, int(match[2]))
        lacks = one is not None and any(
            sizes.get(f"{name}/{path}") != each.size_bytes for path, each in one.manifest.files.items()
        )
        if one is None or lacks:
            log.warning("passing over the checkpoint %s in the object store, which is damaged", name)
            return None
        self._read[name] = one
        return one

    def _parse(self, name: str, attempt: int) -> RemoteCheckpoint | None:
        text = self.remote.read(f"{name}/{MANIFEST}")
        try:
            manifest = SavedManifest.model_validate_json(text or b"")
        except ValidationError:
            return None
        return RemoteCheckpoint(name, attempt, manifest, hashlib.sha256(text or b"").hexdigest())
