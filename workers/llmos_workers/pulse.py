"""Signs of life of a long task: when it last did something, said on standard output again and again.

    {"event": "progress", "phase": "loading", "activeAt": "2026-01-01T12:00:00+00:00"}

The operator ends a pod whose `activeAt` stays behind for too long (retries.stalledAfterMinutes). What counts:

- whatever the task calls a sign (`touch`): a micro-batch, a batch of an evaluation, a checkpoint that is complete;
- where nothing can be counted (loading, hashing, saving), that the process uses the processor (`by_effort`). Bytes
  that come slowly still cost it some; a process that waits for a storage that does not answer uses none. While an
  accelerator computes this would be no sign, for waiting for one may keep a processor busy.

The lines come from a thread, so that they come while the task is deep in a library, too. If even the thread hangs, the
last line says since when.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TextIO

INTERVAL_S: Final = 15.0
EFFORT: Final = 0.002
"""Share of one processor that counts as work; this thread itself takes a hundredth of that."""


class Activity:
    """When a task last did something. All methods may be called from any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.time, processor: Callable[[], float] = time.process_time
    ) -> None:
        """Begin now; effort counts until said otherwise, for everything begins with loading."""
        self._clock, self._processor = clock, processor
        self._counts_effort = True
        self._at = self._looked_at = clock()
        self._used_s = processor()

    def touch(self) -> None:
        """The task did something."""
        self._at = self._clock()

    @contextlib.contextmanager
    def by_effort(self, counts: bool = True) -> Iterator[None]:
        """Within the block, using the processor is a sign of life, or is not."""
        before = self._counts_effort
        self.count_effort(counts=counts)
        try:
            yield
        finally:
            self.count_effort(counts=before)

    def count_effort(self, *, counts: bool) -> None:
        """From here on, using the processor is a sign of life, or is not. That something else begins is one, too."""
        self.touch()
        self._counts_effort = counts

    def look(self) -> datetime:
        """Return when the task last did something, with what it used since the last look."""
        now, used_s = self._clock(), self._processor()
        if self._counts_effort and used_s - self._used_s > EFFORT * max(0.0, now - self._looked_at):
            self._at = now
        self._looked_at, self._used_s = now, used_s
        return self.at

    @property
    def at(self) -> datetime:
        """When the task last did something, as far as is known."""
        return datetime.fromtimestamp(self._at, UTC).replace(microsecond=0)


class Pulse:
    """Writes a line at the start and each `INTERVAL_S`, until it is closed."""

    def __init__(self, out: TextIO, phase: str, activity: Activity | None = None) -> None:
        """Write to `out`."""
        self.activity = activity or Activity()
        self.speak: Callable[[], None] = self._print
        """Writes a line; whoever has more to say takes its place."""
        self._out, self._phase = out, phase
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.speak()
        self._thread.start()

    def close(self) -> None:
        """End; nothing is written after this returns."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout=INTERVAL_S)

    def _run(self) -> None:
        while not self._end.wait(INTERVAL_S):
            self.activity.look()
            # A pipe that nobody reads any more ends the lines, not the task.
            with contextlib.suppress(OSError, ValueError):
                self.speak()

    def _print(self) -> None:
        line = {"event": "progress", "phase": self._phase, "activeAt": self.activity.at.isoformat()}
        print(json.dumps(line), file=self._out, flush=True)
