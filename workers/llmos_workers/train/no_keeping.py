"""What takes the place of `keeping.Keeping` where nothing is kept elsewhere: without the object store's client."""

from __future__ import annotations

from pathlib import Path

from llmos_workers.pulse import Activity
from llmos_workers.train.checkpoints import Checkpoint, CheckpointStore
from llmos_workers.train.reporting import Reporter


class NoKeeping:
    """Keeps nothing."""

    def start(self, store: CheckpointStore, reporter: Reporter, activity: Activity) -> None:
        """The attempt begins."""

    def offer(self, newest: Checkpoint, best: Checkpoint | None) -> None:
        """A checkpoint is complete."""

    def finish(self, asked_s: float) -> None:
        """The attempt is to end."""

    def publish(self, output: Path) -> None:
        """The result is complete."""

    def close(self) -> None:
        """The attempt ends."""
