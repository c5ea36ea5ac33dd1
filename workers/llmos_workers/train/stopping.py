"""What SIGTERM does to a run: the step that is being done is finished, then everything is saved.

A second SIGTERM ends the process at once; then no more is lost than the steps since the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from llmos_workers.train.errors import EXIT_STOPPED


class StopSignal:
    """Whether somebody wants the accelerator back."""

    def __init__(self) -> None:
        """Nobody does yet."""
        self.requested = False
        self.requested_s = 0.0
        """When, by the monotonic clock."""

    def listen(self) -> None:
        """Take SIGTERM from now on."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            os._exit(EXIT_STOPPED)
        self.requested, self.requested_s = True, time.monotonic()
