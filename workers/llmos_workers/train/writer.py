"""Writes checkpoints while training goes on: one thread, one checkpoint in flight.

A checkpoint that becomes due while another is being written is taken at the first step after that, so a disk that is
slower than the interval makes the intervals longer, and neither fills the memory nor stops the accelerator. The best
checkpoint and the last one are waited for, because the result is made from them.

A failure to write is a warning: training goes on, the checkpoints that are there stay, and the next interval tries
again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from llmos_workers.train.checkpoints import Checkpoint, CheckpointStore
from llmos_workers.train.errors import DiskFullError, TrainError, is_disk_full
from llmos_workers.train.snapshot import Snapshot

log = logging.getLogger(__name__)

CLOSE_S: Final = 3600.0
"""Longest wait for a checkpoint that is being written."""


class CheckpointWriter:
    """Saves snapshots, in the background or at once. What it calls is called in the thread that saved."""

    def __init__(
        self, store: CheckpointStore, on_saved: Callable[[Checkpoint, float], None], on_failed: Callable[[str], None]
    ) -> None:
        """Write to `store`; `on_saved` gets the checkpoint and the seconds it took.

        `on_failed` is told why one in the background could not be written, and what to do.
        """
        self._store, self._on_saved, self._on_failed = store, on_saved, on_failed
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self.failures = 0

    @property
    def is_busy(self) -> bool:
        """Whether one is being written."""
        return self._pending is not None and not self._pending.done()

    def start(self, snapshot: Snapshot) -> None:
        """Write in the background. Wait for the one before, if there is one."""
        self.wait()
        self._pending = self._executor.submit(self._try_to_save, snapshot)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._pending is not None:
            self._pending.result(timeout=CLOSE_S)
            self._pending = None

    def save(self, snapshot: Snapshot) -> None:
        """Write, and return when it is complete.

        Raises:
            DiskFullError: there is no room.
            TrainError: it could not be written.
        """
        self.wait()
        try:
            self._save(snapshot)
        except OSError as error:
            raise build_write_error(error, f"The checkpoint of step {snapshot.state.step}") from error

    def close(self) -> None:
        """Wait for what is being written and end the thread."""
        self._executor.shutdown(wait=True)

    def _save(self, snapshot: Snapshot) -> None:
        began_s = time.monotonic()
        checkpoint = self._store.save(snapshot)
        self._on_saved(checkpoint, time.monotonic() - began_s)

    def _try_to_save(self, snapshot: Snapshot) -> None:
        try:
            self._save(snapshot)
        except OSError as error:
            self.failures += 1
            remedy = (
                "Give the claim more room, or lower checkpoint.keep" if is_disk_full(error) else "Look at the claim"
            )
            words = (
                f"The checkpoint of step {snapshot.state.step} could not be written: {error}. Training goes on, the "
                f"one before is still there, and the next interval tries again. {remedy}, or the last one fails, too."
            )
            log.warning("%s", words)
            self._on_failed(words)


def build_write_error(error: OSError, what: str) -> TrainError:
    """The error for something that could not be written."""
    if is_disk_full(error):
        return DiskFullError(
            f"{what} could not be written: {error}",
            "Give the claim more room (expand it, or raise checkpoint.storage.size in a new FineTuneJob), or lower "
            "checkpoint.keep; then raise retries.user, and the job goes on from its last checkpoint.",
        )
    return TrainError(f"{what} could not be written: {error}", "Look at the storage of the claim, and try again.")
