"""Everything that can go wrong while a model is inspected or fetched, as one tree.

    FetchError                       reason                exit code
    ├── InvalidSourceError           InvalidSource         1
    ├── SourceNotFoundError          SourceNotFound        1
    ├── AccessDeniedError            AccessDenied          1
    ├── CertificateNotTrustedError   CertificateNotTrusted 1
    ├── TemporaryError               (abstract)            75
    │   ├── RateLimitedError         RateLimited           75
    │   ├── SourceUnavailableError   SourceUnavailable     75
    │   ├── ChecksumMismatchError    ChecksumMismatch      75
    │   └── VolumeBusyError          FetchFailed           75
    ├── DiskFullError                DiskFull              1
    ├── UnsafeFormatError            UnsafeFormat          1
    ├── UnknownArchitectureError     UnknownArchitecture   1
    └── ConversionFailedError        ConversionFailed      1

A source raises these and nothing else, so that the downloader above it knows from the class alone whether a second try
can help, and the operator knows from the reason what to tell the user. Exit code 75 (EX_TEMPFAIL) says that starting
the same step again later may succeed; 1 says that somebody must change something first.
"""

from __future__ import annotations

from typing import ClassVar, Final

from llmos.api import REASONS, Reason

EXIT_PERMANENT: Final = 1
EXIT_TRY_LATER: Final = 75


class FetchError(Exception):
    """A failure with a reason from the table of `llmos.api.reasons`; the text names cause and remedy."""

    reason: ClassVar[Reason] = Reason.FetchFailed
    exit_code: ClassVar[int] = EXIT_PERMANENT

    def __init__(self, cause: str, remedy: str = "") -> None:
        """Keep the cause; without a remedy of its own the message takes the one that the reason's row has."""
        self.cause = cause
        self.remedy = remedy or REASONS[self.reason].remedy
        super().__init__(f"{self.cause.rstrip('.')}. {self.remedy}")


class InvalidSourceError(FetchError):
    """The URI, or what it leads to, cannot be understood as a model."""

    reason = Reason.InvalidSource


class SourceNotFoundError(FetchError):
    """No such model, revision or file, or the model lacks a file that it needs."""

    reason = Reason.SourceNotFound


class AccessDeniedError(FetchError):
    """The source wants other credentials, or the terms of a gated model were not accepted."""

    reason = Reason.AccessDenied


class CertificateNotTrustedError(FetchError):
    """The source's TLS certificate is not one that is trusted here: another attempt would see the same one."""

    reason = Reason.CertificateNotTrusted


class TemporaryError(FetchError):
    """Trying again may help. `retry_after_s` is what the source asked for, if it did."""

    exit_code = EXIT_TRY_LATER

    def __init__(self, cause: str, remedy: str = "", *, retry_after_s: float | None = None) -> None:
        """Keep the pause that the source asked for beside cause and remedy."""
        super().__init__(cause, remedy)
        self.retry_after_s = retry_after_s


class RateLimitedError(TemporaryError):
    """The source answered 429."""

    reason = Reason.RateLimited


class SourceUnavailableError(TemporaryError):
    """The source cannot be reached, answers 5xx, or broke off in the middle of a file."""

    reason = Reason.SourceUnavailable


class ChecksumMismatchError(TemporaryError):
    """The bytes are not the ones that the source announced."""

    reason = Reason.ChecksumMismatch


class VolumeBusyError(TemporaryError):
    """Another fetch holds the volume."""

    reason = Reason.FetchFailed


class DiskFullError(FetchError):
    """The volume cannot hold the files."""

    reason = Reason.DiskFull


class UnsafeFormatError(FetchError):
    """Only pickle files, which run code when they are loaded."""

    reason = Reason.UnsafeFormat


class UnknownArchitectureError(FetchError):
    """Nobody here knows this architecture, or it needs code of the model's own."""

    reason = Reason.UnknownArchitecture


class ConversionFailedError(FetchError):
    """The GGUF file could not be turned into safetensors."""

    reason = Reason.ConversionFailed
