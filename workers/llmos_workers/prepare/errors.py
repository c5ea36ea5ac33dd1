"""Everything that can end the preparation of a dataset, as one tree.

    PrepareError                 reason              remedy of
    ├── DatasetInvalidError      DatasetInvalid      the dataset's owner
    ├── PersonalDataFoundError   PersonalDataFound   the dataset's owner
    ├── ExamplesTooLongError     ExamplesTooLong     the dataset's owner
    ├── NothingToLearnError      NothingToLearn      the dataset's owner
    ├── BaseModelChangedError    BaseModelChanged    whoever changed the LLMModel
    ├── TeacherMismatchError     TeacherMismatch     whoever chose the teacher
    ├── SourceGoneError          PreparationFailed   nobody: the next attempt fetches again
    └── ClaimFullError           DiskFull            whoever sized the claim

No message holds text of the dataset: only file names, line numbers and names of fields that the job itself gives.
"""

from __future__ import annotations

from typing import ClassVar

from llmos.api import REASONS, DatasetReport, Reason


class PrepareError(Exception):
    """A failure with a reason from the table of `llmos.api.reasons`; the text names cause and remedy."""

    reason: ClassVar[Reason] = Reason.PreparationFailed

    def __init__(self, cause: str, remedy: str = "", report: DatasetReport | None = None) -> None:
        """Keep the cause; without a remedy of its own the message takes the one that the reason's row has."""
        self.cause = cause.rstrip(".")
        self.remedy = remedy or REASONS[self.reason].remedy
        self.report = report
        super().__init__(f"{self.cause}. {self.remedy}")


class DatasetInvalidError(PrepareError):
    """Too many lines cannot be learned from, or none of them can with this model."""

    reason = Reason.DatasetInvalid


class PersonalDataFoundError(PrepareError):
    """There is personal data, and the job says that there must be none."""

    reason = Reason.PersonalDataFound


class ExamplesTooLongError(PrepareError):
    """There are examples that are too long, and the job says that there must be none."""

    reason = Reason.ExamplesTooLong


class NothingToLearnError(PrepareError):
    """Nothing is left to learn, or to hold out."""

    reason = Reason.NothingToLearn


class BaseModelChangedError(PrepareError):
    """The dataset was prepared for another base model."""

    reason = Reason.BaseModelChanged


class TeacherMismatchError(PrepareError):
    """The teacher has another vocabulary than the base model."""

    reason = Reason.TeacherMismatch


class SourceGoneError(PrepareError):
    """The dataset's files are not there (any more)."""


class ClaimFullError(PrepareError):
    """The claim cannot hold the prepared dataset."""

    reason = Reason.DiskFull
