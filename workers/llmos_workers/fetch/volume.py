"""The volume that holds a model: how a folder becomes visible all at once, and who may write.

    DEST/.lock                 flock: one fetch at a time, released by the kernel when its holder dies
    DEST/.incoming-<digest12>  what is being fetched; a crash leaves it, the next run with the same digest goes on in it
    DEST/<digest12>/           a finished model with its manifest.json
    DEST/model -> <digest12>   what serving pods open; replaced by rename, so it never points at half a model

The root of a mounted volume cannot be renamed over, hence the link. The model that was served before stays until the
next fetch, because a pod may be loading it right now; at most two models lie on a volume for longer than a fetch.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmos_workers.fetch.errors import DiskFullError, VolumeBusyError
from llmos_workers.fetch.manifest import Manifest, is_complete, read_manifest

LINK_NAME: Final = "model"
_LOCK_NAME: Final = ".lock"
_INCOMING: Final = ".incoming-"
_LOCK_POLL_S: Final = 0.5
_DIGEST_CHARS: Final = 12
# Manifest, directories and file system overhead.
_MARGIN_BYTES: Final = 32 << 20

FreeBytes = Callable[[Path], int]


def observe_free_bytes(folder: Path) -> int:
    """Bytes that may still be written below the folder."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Volume:
    """A mounted volume. `capacity_bytes` is the declared size, where the file system does not know it (emptyDir)."""

    root: Path
    capacity_bytes: int | None = None
    free_bytes: FreeBytes = observe_free_bytes
    link_name: str = LINK_NAME
    content: str = "model"
    size_field: str = "spec.storage.size"
    """What is written, and the field that makes the volume larger, for messages."""

    @contextmanager
    def lock(self, timeout_s: float) -> Iterator[None]:
        """Hold the volume.

        Raises:
            VolumeBusyError: another fetch held it all the time.
        """
        deadline_s = time.monotonic() + timeout_s
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / _LOCK_NAME).open("a") as handle:
            while not _try_lock(handle.fileno()):
                if time.monotonic() >= deadline_s:
                    raise VolumeBusyError(
                        f"Another fetch has held the volume for {timeout_s:.0f} s",
                        "It is waited for; this step runs again.",
                    )
                time.sleep(_LOCK_POLL_S)
            yield

    def observe_current(self) -> tuple[Path, Manifest] | None:
        """The model that is in place, if it is complete."""
        folder = self.root / self.link_name
        manifest = read_manifest(folder)
        return (folder, manifest) if manifest is not None and is_complete(folder, manifest) else None

    def observe_finished(self, digest: str) -> Manifest | None:
        """The finished model of that digest, if it lies here complete."""
        folder = self.root / _short(digest)
        manifest = read_manifest(folder)
        return (
            manifest if manifest is not None and manifest.digest == digest and is_complete(folder, manifest) else None
        )

    def prepare_incoming(self, digest: str) -> Path:
        """Return the folder to fetch into, and remove what neither serves nor can be resumed."""
        incoming = self.root / f"{_INCOMING}{_short(digest)}"
        link = self.root / self.link_name
        keep = {incoming.name, link.readlink().name if link.is_symlink() else ""}
        for path in self.root.iterdir():
            is_ours = path.name.startswith(_INCOMING) or read_manifest(path) is not None
            if path.is_dir() and not path.is_symlink() and is_ours and path.name not in keep:
                shutil.rmtree(path)
        incoming.mkdir(exist_ok=True)
        return incoming

    def check_space(self, incoming: Path, wanted_bytes: int) -> None:
        """Refuse before the first byte what cannot fit after the last.

        Raises:
            DiskFullError: with the numbers and the size to ask for.
        """
        used_bytes = _size_of_tree(self.root)
        present_bytes = _size_of_tree(incoming)
        missing_bytes = max(0, wanted_bytes - present_bytes) + _MARGIN_BYTES
        free_bytes = self.free_bytes(self.root)
        if self.capacity_bytes is not None:
            free_bytes = min(free_bytes, self.capacity_bytes - used_bytes)
        if missing_bytes > free_bytes:
            free = _gib(max(0, free_bytes))
            raise DiskFullError(
                f"The {self.content} needs {_gib(missing_bytes)} GiB more, the volume has {free} GiB free",
                f"Raise {self.size_field} to at least {_ceil_gib(used_bytes + missing_bytes)}Gi.",
            )

    def publish(self, folder: Path, manifest: Manifest) -> Path:
        """Make a folder below the incoming one the model in place, and return where it is."""
        manifest.write(folder)
        make_readable(folder)
        _sync_tree(folder)
        final = self.root / _short(manifest.digest)
        if final.exists():
            shutil.rmtree(final)  # incomplete, or it would not have been fetched again
        folder.rename(final)
        self.point_to(Path(final.name))
        shutil.rmtree(self.root / f"{_INCOMING}{_short(manifest.digest)}", ignore_errors=True)
        return final

    def point_to(self, target: Path) -> None:
        """Let the link lead to `target`, from one instant to the next."""
        fresh = self.root / f".{self.link_name}-next"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(self.root / self.link_name)
        _sync(self.root)


def make_readable(folder: Path) -> None:
    """Let any user read, as chmod -R a+rX: serving pods run under another uid, and savers write mode 0600."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _short(digest: str) -> str:
    return digest.partition(":")[2][:_DIGEST_CHARS]


def _size_of_tree(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f}"


def _ceil_gib(size_bytes: int) -> int:
    return -(-size_bytes // 2**30)
