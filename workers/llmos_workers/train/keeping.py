"""What an attempt keeps in an object store (`checkpoint.storage.uri`); the rest of the trainer knows no such place.

With a claim the store is a second place: it may fail for as long as it likes. Without one it is the only place that
survives the pod, so an attempt is not complete before its result is there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from llmos.api.finetunejob_checkpoint import Checkpointing
from llmos_workers.fetch.errors import FetchError
from llmos_workers.offsite.remote import RemoteFolder
from llmos_workers.offsite.uploading import Events, Local, Uploader
from llmos_workers.offsite.words import explain
from llmos_workers.pulse import Activity
from llmos_workers.train.checkpoints import Checkpoint, CheckpointStore
from llmos_workers.train.errors import KeepingError
from llmos_workers.train.reporting import Reporter

log = logging.getLogger(__name__)

END_S: Final = 10.0
"""Kept back from the deadline of SIGTERM, for the process has to end."""
LAST_CHECKPOINT_S: Final = 30.0
"""Longest wait for the last checkpoint before the result goes up: with the result it is hardly needed any more."""
RESULT_S: Final = 1800.0
"""Longest wait for the result to be in the object store, where that is the only place;"""
SECOND_PLACE_S: Final = 120.0
"""and where the claim has it."""


class Keeping:
    """Keeps checkpoints and result."""

    def __init__(
        self, remote: RemoteFolder, folder: Path, wanted: Checkpointing, attempt: int, may_go_on: Callable[[], None]
    ) -> None:
        """Keep what is in `folder`; `may_go_on` is called while the result goes up, and may raise to end it."""
        self._remote, self._folder, self._wanted, self._attempt = remote, folder, wanted, attempt
        self._may_go_on = may_go_on
        self._uploader: Uploader | None = None

    def start(self, store: CheckpointStore, reporter: Reporter, activity: Activity) -> None:
        """Begin to take checkpoints of `store`."""
        events = Events(reporter.on_uploaded, reporter.on_trouble, activity.touch)
        self._uploader = self._build_uploader(events)
        store.is_needed = self._uploader.is_needed
        self._uploader.start()

    def offer(self, newest: Checkpoint, best: Checkpoint | None) -> None:
        """A checkpoint is complete."""
        if self._uploader is not None:
            self._uploader.offer(_describe(newest), _describe(best) if best is not None else None)

    def finish(self, asked_s: float) -> None:
        """Wait until everything is there, within the time that was given when the clock (monotonic) said `asked_s`."""
        deadline_s = self._wanted.on_preempt.deadline_seconds
        until_s = asked_s + deadline_s - min(END_S, deadline_s / 5)
        if self._uploader is not None and not self._uploader.finish(until_s):
            log.warning("there was no time to upload the last checkpoint")

    def publish(self, output: Path) -> None:
        """Put the result.

        Raises:
            KeepingError: it could not be put, and there is no claim that has it.
            Stopped: from `may_go_on`.
        """
        uploader = self._uploader or self._build_uploader(Events(_forget, _forget, _do_nothing))
        has_claim = self._wanted.storage.has_claim
        uploader.finish(time.monotonic() + LAST_CHECKPOINT_S)
        try:
            uploader.publish_result(
                output, time.monotonic() + (SECOND_PLACE_S if has_claim else RESULT_S), self._may_go_on
            )
        except FetchError as error:
            if not has_claim:
                raise KeepingError(error.reason, explain(error, self._remote.uri)) from error
            log.warning("the result is in the claim alone")

    def close(self) -> None:
        """Begin nothing more."""
        if self._uploader is not None:
            self._uploader.close()

    def _build_uploader(self, events: Events) -> Uploader:
        wanted = self._wanted
        return Uploader(
            self._remote,
            self._folder,
            attempt=self._attempt,
            keep=wanted.keep,
            keep_best=wanted.keep_best,
            events=events,
        )


def build_keeping(
    uri: str, folder: Path, wanted: Checkpointing, attempt: int, trial: int, may_go_on: Callable[[], None]
) -> Keeping:
    """What keeps a run's files in the job's folder `uri`.

    Raises:
        KeepingError: nobody understands the URI, or what the environment says about it.
    """
    try:
        root = RemoteFolder(uri)
    except FetchError as error:
        raise KeepingError(error.reason, explain(error, uri)) from error
    return Keeping(root.child(f"trials/{trial}") if trial else root, folder, wanted, attempt, may_go_on)


def _describe(checkpoint: Checkpoint) -> Local:
    return Local(checkpoint.folder, checkpoint.status)


def _forget(_told: object) -> None:
    pass


def _do_nothing() -> None:
    pass
