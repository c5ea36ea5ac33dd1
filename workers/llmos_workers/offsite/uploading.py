"""During an attempt: complete checkpoints go to the object store while training goes on.

One thread, one upload in flight. What is offered while another one goes up waits in one place, and the newest takes it:
a store that is slower than the interval gets fewer checkpoints, never a queue of them. The best one known by then goes
up before each, for the result is made from it, and a run that goes on from N must have the best of N. A checkpoint that
waits or goes up is not removed from the volume (`is_needed`).

A failure is a warning: training goes on, and it is tried again after min(5 s x 2^n, 300 s), with what is newest then.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmos.api import CheckpointStatus
from llmos_workers.fetch.errors import FetchError
from llmos_workers.fetch.redaction import redact
from llmos_workers.offsite.checkpoints import RemoteCheckpoints
from llmos_workers.offsite.folders import publish_folder
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.offsite.words import explain
from llmos_workers.train.files import MANIFEST

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 300.0
HURRIED_PAUSE_S: Final = 1.0
"""The pause when the process is about to end: it is now or never."""
NOTES_S: Final = 15.0
"""The record of the attempt goes up so often: what is lost with the volume is known to this precision."""
_NOTES: Final = "attempts/*.json"
_EVENTS: Final = "tensorboard/*"
"""Event files grow with the run, and an object is always put whole: they go with checkpoints only."""


@dataclass(frozen=True)
class Local:
    """A complete checkpoint on the volume."""

    folder: Path
    status: CheckpointStatus

    @property
    def step(self) -> int:
        """Optimizer steps that it holds."""
        return self.status.step


@dataclass(frozen=True)
class Events:
    """Who is told, in the thread that uploads."""

    on_uploaded: Callable[[CheckpointStatus], None]
    """A checkpoint is complete in the object store; its status names that place."""
    on_trouble: Callable[[str], None]
    """What is wrong, with the remedy; empty = nothing any more."""
    on_activity: Callable[[], None]
    """A file went up."""


class Uploader:
    """Keeps what a run makes in an object store."""

    def __init__(
        self, run: RemoteFolder, folder: Path, *, attempt: int, keep: int, keep_best: bool, events: Events
    ) -> None:
        """Nothing is asked yet. `folder` is that of the run on the volume, `run` the same in the store."""
        self._run, self._folder, self._attempt = run, folder, attempt
        self._keep, self._keep_best, self._events = keep, keep_best, events
        self._store = RemoteCheckpoints(run.child("checkpoints"))
        self._changed = threading.Condition()
        self._waiting: tuple[Local, ...] = ()
        self._going: tuple[Local, ...] = ()
        self._uploaded: set[tuple[int, str]] = set()
        self._ends = self._hurries = False
        self._sizes: dict[Path, tuple[int, int]] = {}
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def offer(self, newest: Local, best: Local | None) -> None:
        """Put these when it is their turn; what waited before is forgotten."""
        with self._changed:
            self._waiting = (best, newest) if best is not None and best.step != newest.step else (newest,)
            self._changed.notify_all()

    def is_needed(self, step: int) -> bool:
        """Whether a checkpoint waits or goes up: it must stay on the volume."""
        with self._changed:
            return any(one.step == step for one in (*self._waiting, *self._going))

    def finish(self, until_s: float) -> bool:
        """Wait until everything that was offered is there, or the clock (monotonic) says `until_s`."""
        with self._changed:
            self._hurries = True
            self._changed.notify_all()
            while self._waiting or self._going:
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def publish_result(self, folder: Path, until_s: float, may_go_on: Callable[[], None]) -> None:
        """Put the result, again and again until it is there; `may_go_on` is called meanwhile, and may raise to end it.

        Raises:
            FetchError: it was not there by `until_s`.
        """
        for failures in itertools.count(1):
            try:
                self._publish_result(folder, may_go_on)
            except FetchError as error:
                pause_s = _compute_pause_s(failures)
                self._say(redact(explain(error, self._run.uri)))
                if time.monotonic() + pause_s >= until_s:
                    raise
                for _ in range(math.ceil(pause_s)):
                    may_go_on()
                    time.sleep(1)
            else:
                self._events.on_trouble("")
                return

    def _publish_result(self, folder: Path, may_go_on: Callable[[], None]) -> None:
        remote = self._run.child("output")
        if remote.read(MANIFEST) == (folder / MANIFEST).read_bytes():
            return
        publish_folder(remote, folder, may_go_on)
        log.info("the result is in %s", remote.uri)

    def close(self) -> None:
        """Begin nothing more. What is going up is left to itself: the process ends, and half of it never counts."""
        with self._changed:
            self._ends, self._waiting = True, ()
            self._changed.notify_all()

    def _work(self) -> None:
        failures = 0
        while (batch := self._take(_compute_pause_s(failures))) is not None:
            try:
                self._put_changed(_NOTES)
                for one in batch:
                    self._put(one)
                if batch:
                    self._put_changed(_EVENTS)
                    self._store.prune(keep=self._keep, keep_best=self._keep_best, attempt=self._attempt)
            except FetchError as error:
                failures += 1
                self._say(redact(explain(error, self._run.uri)))
                self._give_back(batch)
            except Exception as error:  # the thread must go on: a checkpoint that cannot be read is no reason to end
                failures += 1
                log.exception("an upload failed")
                self._say(f"The object store {self._run.uri}: {type(error).__name__}. The pod's log has the traceback.")
                self._give_back(batch)
            else:
                if failures:
                    failures = 0
                    self._events.on_trouble("")
                self._done()

    def _take(self, pause_s: float) -> tuple[Local, ...] | None:
        """Wait for something to do, at most until the small files are due; None = the end."""
        with self._changed:
            began_s = time.monotonic()
            while not self._ends:
                pause_s = min(pause_s, HURRIED_PAUSE_S) if self._hurries else pause_s
                left_s = began_s + (pause_s or NOTES_S) - time.monotonic()
                if (self._waiting and not pause_s) or left_s <= 0:
                    self._going, self._waiting = self._waiting, ()
                    return self._going
                self._changed.wait(left_s)
        return None

    def _put(self, one: Local) -> None:
        key = (one.step, one.status.sha256)
        if key in self._uploaded:
            return
        began_s = time.monotonic()
        uri = self._store.put(one.folder, one.step, self._attempt, self._events.on_activity)
        self._uploaded.add(key)
        log.info("the checkpoint of step %d is in the object store after %.1f s", one.step, time.monotonic() - began_s)
        self._events.on_uploaded(one.status.model_copy(update={"uri": uri}))

    def _put_changed(self, pattern: str) -> None:
        """Put files that changed since they were put."""
        for path in sorted(self._folder.glob(pattern)):
            stat = path.stat()
            now = (stat.st_size, stat.st_mtime_ns)
            if self._sizes.get(path) != now:
                self._run.put(path.relative_to(self._folder).as_posix(), path)
                self._sizes[path] = now

    def _say(self, trouble: str) -> None:
        log.warning("%s", trouble)
        self._events.on_trouble(trouble)

    def _give_back(self, batch: tuple[Local, ...]) -> None:
        with self._changed:
            self._going, self._waiting = (), self._waiting or batch
            self._changed.notify_all()

    def _done(self) -> None:
        with self._changed:
            self._going = ()
            self._changed.notify_all()


def _compute_pause_s(failures: int) -> float:
    return float(min(FIRST_PAUSE_S * 2 ** min(failures - 1, 10), LONGEST_PAUSE_S)) if failures else 0.0
