"""Everything that the client raises.

    LlmosError                 the cause and the remedy, as text and as fields
    ├── NotFoundError          the object does not exist
    ├── InvalidError           the API server refused the object; the message is the server's
    ├── ConflictError          another field manager owns a field, or the object changed meanwhile
    ├── ForbiddenError         the user may not do this
    ├── NotReadyError          the object exists but cannot be used yet: reason and message of its Ready condition
    ├── EngineError            the pool answered with an error, or its answer was cut
    ├── NotInstalledError      the cluster does not know the kinds of LLMOS
    └── ConnectionFailedError  there is no working way to the server
        ├── ConfigurationError     no usable kubeconfig, context or service account
        ├── UnauthenticatedError   the server does not accept the credentials
        ├── UnreachableError       no connection, or it was cut
        └── OverloadedError        the server answers 429 or 5xx

A caller that wants to try again does so on `UnreachableError` and `OverloadedError` only; all others need a person or
another object to change first. Nothing here does I/O, and no other exception leaves `llmos.client` on purpose.
"""

from __future__ import annotations


class LlmosError(Exception):
    """Base of all errors of the client.

    `cause` is one sentence that says what is the case, `remedy` one or more that say what to do about it.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause} {remedy}")
        self.cause = cause
        self.remedy = remedy


class NotFoundError(LlmosError):
    """The object does not exist."""


class InvalidError(LlmosError):
    """The API server refused the object; `cause` holds the server's own words."""


class ConflictError(LlmosError):
    """Another field manager owns a field that was applied, or the object changed meanwhile."""


class ForbiddenError(LlmosError):
    """The user may not do this."""


class NotReadyError(LlmosError):
    """The object exists but cannot be used yet. `reason` and `message` are those of its Ready condition."""

    def __init__(self, cause: str, remedy: str, *, reason: str, message: str) -> None:
        super().__init__(cause, remedy)
        self.reason = reason
        self.message = message


class EngineError(LlmosError):
    """The pool answered with an error (`status` is the HTTP status, 200 when it came within a stream)."""

    def __init__(self, cause: str, remedy: str, *, status: int) -> None:
        super().__init__(cause, remedy)
        self.status = status


class NotInstalledError(LlmosError):
    """The cluster does not know the kinds of LLMOS."""


class ConnectionFailedError(LlmosError):
    """There is no working way to the server."""


class ConfigurationError(ConnectionFailedError):
    """No usable kubeconfig, context or service account."""


class UnauthenticatedError(ConnectionFailedError):
    """The server does not accept the credentials."""


class UnreachableError(ConnectionFailedError):
    """No connection, or it was cut."""


class OverloadedError(ConnectionFailedError):
    """The server answers 429 or 5xx."""
