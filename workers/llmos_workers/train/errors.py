"""Everything that can end an attempt, as one tree.

    TrainError                    reason               exit code
    ├── NotPreparedError          TrainingFailed       1
    ├── BaseModelChangedError     BaseModelChanged     1
    ├── CheckpointMismatchError   CheckpointMismatch   1
    ├── LossNotFiniteError        LossNotFinite        1
    ├── OutOfMemoryError          OutOfMemory          1
    ├── DiskFullError             DiskFull             1
    ├── KeepingError              what the store said  1
    ├── PeerLostError             PeerLost             1
    └── PeerFailedError           what the other said  1
    Stopped                       (no failure)         143

The text names cause and remedy; the operator takes the reason for whose fault it is.
"""

from __future__ import annotations

import errno
from typing import Final

from llmos.api import REASONS, Reason

EXIT_FAILED: Final = 1
EXIT_STOPPED: Final = 143
# A quota and a limit of a file's size say "full" in their own words.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class TrainError(Exception):
    """A failure with a reason from the table of `llmos.api.reasons`."""

    reason: Reason = Reason.TrainingFailed

    def __init__(self, cause: str, remedy: str = "") -> None:
        """Keep the cause; without a remedy of its own the message takes the one that the reason's row has."""
        super().__init__(f"{cause.rstrip('.')}. {remedy or REASONS[self.reason].remedy}")


class NotPreparedError(TrainError):
    """There is no prepared dataset, or not the one that was expected."""


class BaseModelChangedError(TrainError):
    """The dataset was prepared with the tokenizer of another base model."""

    reason = Reason.BaseModelChanged


class CheckpointMismatchError(TrainError):
    """What is saved was made with another dataset, base or settings."""

    reason = Reason.CheckpointMismatch


class LossNotFiniteError(TrainError):
    """A loss or a gradient is infinite or no number; the weights are still those of the step before."""

    reason = Reason.LossNotFinite


class OutOfMemoryError(TrainError):
    """A micro-batch does not fit, with all that saves memory switched on."""

    reason = Reason.OutOfMemory


class DiskFullError(TrainError):
    """The claim has no room."""

    reason = Reason.DiskFull


class KeepingError(TrainError):
    """What was made could not be put into the object store, and it is nowhere else."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Keep the reason, and the words that name the remedy."""
        Exception.__init__(self, message)
        self.reason = reason


class PeerLostError(TrainError):
    """Another rank ended without a word, no longer answers, or never came."""

    reason = Reason.PeerLost


class PeerFailedError(TrainError):
    """Another rank failed and said why: that is why this one ends, too."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Keep the other's reason and its words, which name the remedy."""
        Exception.__init__(self, message)
        self.reason = reason


class Stopped(Exception):  # noqa: N818  being asked to stop is no error
    """SIGTERM came, and all is saved."""


def is_disk_full(error: BaseException) -> bool:
    """Whether the error says that there is no room."""
    return isinstance(error, OSError) and error.errno in _FULL
