"""What each attempt did and when, on the claim, so that the next one knows what was lost.

    attempts/00003.json   rewritten in place after each step: one write of a fixed size, so a kill leaves it whole

Lost are the seconds that an attempt spent on steps which had to be done again:

    lost(attempt) = (time at which its last step was done - time at which the step was done from which the next
                     attempt went on) x accelerators

Where the next attempt went on from a step that this one had itself begun with (it made no checkpoint that counts),
the first step of this attempt counts from the moment at which it began to train. An attempt that is stopped in order
loses nothing. The part of a step that was being done when the kill came is not known and not counted; neither are the
time to load a model, nor evaluations after the last step, nor the time between attempts, in which nothing is held.
The sum over all attempts is `lostAcceleratorSeconds`. It uses the clock of the node; a clock that jumps back counts
nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from llmos_workers.train.files import Entry

RECORD_BYTES: Final = 4096
_MARKS: Final = 60


class AttemptRecord(Entry):
    """One attempt. `marks` are steps at which a snapshot was taken, and when these steps were done."""

    attempt: int
    accelerators: int
    resumed_step: int
    began_at: float
    step: int
    step_at: float
    marks: tuple[tuple[int, float], ...] = ()


def compute_lost_s(records: Sequence[AttemptRecord]) -> float:
    """Accelerator seconds spent on steps that had to be done again; records in their order, the running one last."""
    return sum(_compute_lost_of(one, after.resumed_step) for one, after in pairwise(records))


def _compute_lost_of(record: AttemptRecord, resumed_step: int) -> float:
    if record.step <= resumed_step:
        return 0.0
    at = {record.resumed_step: record.began_at, **dict(record.marks)}
    # A step between marks cannot be: every checkpoint has a mark. A record that says less counts as from its beginning.
    return max(0.0, record.step_at - at.get(resumed_step, record.began_at)) * record.accelerators


class Heartbeat:
    """Writes the record of this attempt."""

    def __init__(
        self,
        folder: Path,
        *,
        attempt: int,
        accelerators: int,
        resumed_step: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin a record after those that are there."""
        folder.mkdir(parents=True, exist_ok=True)
        before = read_records(folder)
        now = clock()
        self._clock = clock
        self._record = AttemptRecord(
            attempt=attempt,
            accelerators=accelerators,
            resumed_step=resumed_step,
            began_at=now,
            step=resumed_step,
            step_at=now,
        )
        self.lost_s = compute_lost_s((*before, self._record))
        number = max((int(path.stem) for path in folder.glob("[0-9]*.json")), default=0) + 1
        self._file = (folder / f"{number:05d}.json").open("wb", buffering=0)
        self._write()

    def beat(self, step: int) -> None:
        """A step was done."""
        self._update(step=step, step_at=self._clock())

    def mark(self) -> None:
        """A snapshot was taken of the step that was done last."""
        self._update(marks=(*self._record.marks, (self._record.step, self._record.step_at))[-_MARKS:])

    def close(self) -> None:
        """Nothing more will be written."""
        self._file.close()

    def _update(self, **changes: object) -> None:
        self._record = self._record.model_copy(update=changes)
        self._write()

    def _write(self) -> None:
        text = json.dumps(self._record.model_dump(mode="json", by_alias=True))
        # Training is worth more than its account: a record that cannot be written is as good as the last one.
        with contextlib.suppress(OSError):
            os.pwrite(self._file.fileno(), text.encode().ljust(RECORD_BYTES - 1) + b"\n", 0)


class NoHeartbeat:
    """What takes its place where another rank keeps the record."""

    lost_s = 0.0

    def beat(self, step: int) -> None:
        """A step was done."""

    def mark(self) -> None:
        """A snapshot was taken."""

    def close(self) -> None:
        """Nothing more will be written."""


def read_records(folder: Path) -> tuple[AttemptRecord, ...]:
    """The records that are there, in their order; what cannot be read is left out."""
    records = []
    for path in sorted(folder.glob("[0-9]*.json")):
        try:
            records.append(AttemptRecord.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue
    return tuple(records)
