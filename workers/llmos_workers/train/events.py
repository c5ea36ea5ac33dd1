"""TensorBoard event files, written by the thread that trains.

tensorboardX's SummaryWriter has a queue and a thread of its own: what is in the queue is not in the file after a
flush, and a full disk ends the thread, after which the queue fills and training would wait for ever. Its record
writer has neither.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

log = logging.getLogger(__name__)


class EventLog:
    """One attempt's event file. Where it cannot be written, that is said once, and training goes on."""

    def __init__(self, folder: Path | None, attempt: int) -> None:
        """Begin a file; each attempt has its own. Without a folder nothing is written."""
        self._writer: EventsWriter | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"), f".{attempt}.{os.getpid()}")
        except OSError as error:
            self._give_up(error)

    def add(self, step: int, **values: float) -> None:
        """Write values of one step; `train_loss` becomes the tag train/loss."""
        if self._writer is None:
            return
        tags = [Summary.Value(tag=name.replace("_", "/", 1), simple_value=value) for name, value in values.items()]
        try:
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=tags)))
        except OSError as error:
            self._give_up(error)

    def flush(self) -> None:
        """Hand over to the kernel what was written."""
        if self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Flush, and write no more."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)
            self._writer = None

    def _give_up(self, error: OSError) -> None:
        log.warning("event files are no longer written: %s", error)
        self._writer = None
