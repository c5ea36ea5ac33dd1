"""Folders that are there completely or not at all: the manifest comes last and goes first.

A manifest names its files with their sha256. Datasets, checkpoints and results have different ones; what is read of
them here is the same: `files`, which maps names to a sha256, or to an object with `sha256` in it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from llmos_workers.fetch.errors import ChecksumMismatchError, SourceNotFoundError
from llmos_workers.fetch.retry import RetryPolicy
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.train.files import MANIFEST, atomic_folder, write_text

log = logging.getLogger(__name__)

RETRY: Final = RetryPolicy(attempts=6, first_wait_s=1.0, longest_wait_s=30.0)


def publish_folder(remote: RemoteFolder, folder: Path, tick: Callable[[], None] = lambda: None) -> None:
    """Put a complete local folder; what was there before stops to be complete first.

    Args:
        remote: where to.
        folder: with a manifest.
        tick: called after each file; may raise to end it.
    """
    remote.delete([MANIFEST])
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST:
            remote.put(name, path)
            tick()
    remote.put(MANIFEST, (folder / MANIFEST).read_bytes())


def remove_folder(remote: RemoteFolder) -> None:
    """Remove a folder, its manifest first."""
    remote.delete([MANIFEST])
    remote.delete(name for name in remote.list_files() if name != MANIFEST)


def bring_folder(remote: RemoteFolder, target: Path, retry: RetryPolicy = RETRY) -> bool:
    """Bring a complete folder to `target`, verified; False where there is none. What is at `target` is replaced.

    Raises:
        ChecksumMismatchError: a file is missing, or not what the manifest says.
        FetchError: one of its subclasses.
    """
    text = retry.call(lambda: remote.read(MANIFEST))
    if text is None:
        return False
    hashes = read_hashes(text)
    with atomic_folder(target) as temporary:
        for name, sha256 in hashes.items():
            _bring_file(remote, name, temporary / name, sha256, retry)
        write_text(temporary / MANIFEST, text.decode())
    log.info("brought %d files from %s", len(hashes), remote.uri)
    return True


def _bring_file(remote: RemoteFolder, name: str, path: Path, sha256: str, retry: RetryPolicy) -> None:
    try:
        entry = retry.call(lambda: remote.download(name, path))
    except SourceNotFoundError as error:
        raise ChecksumMismatchError(f"{remote.uri}/{name} is missing, though its manifest names it") from error
    if entry.sha256 != sha256:
        raise ChecksumMismatchError(f"{remote.uri}/{name} is not what its manifest says")


def read_hashes(manifest: bytes) -> dict[str, str]:
    """Return the sha256 of each file that a manifest names.

    Raises:
        ChecksumMismatchError: it is no manifest, or names a file outside of its folder.
    """
    try:
        files: dict[str, Any] = json.loads(manifest)["files"]
        hashes = {name: str(each["sha256"] if isinstance(each, dict) else each) for name, each in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumMismatchError(f"A manifest cannot be read: {type(error).__name__}") from error
    if any(name.startswith("/") or ".." in Path(name).parts for name in hashes):
        raise ChecksumMismatchError("A manifest names a file outside of its folder")
    return hashes
