"""Every way a request can fail before or beside the engine, each with its status and its code.

    ApiError
    +-- BadRequestError        400  the request says something that cannot be understood
    +-- UnauthenticatedError   401  no key, or none that is valid
    +-- ForbiddenError         403  the key may not use this part of the API
    +-- NotFoundError          404  no such URL, or no such model for this caller
    +-- MethodNotAllowedError  405
    +-- SlowRequestError       408  the request did not arrive in time
    +-- TooLargeError          413
    +-- UnsupportedError       415  a body that is compressed
    +-- TooManyRequestsError   429  a queue that is full for this caller
    +-- InternalError          500  a fault of the gateway
    +-- BadGatewayError        502  a replica was lost, or said something that is no answer
    +-- UnavailableError       503  nobody can answer now; try again
    +-- TimeLimitError         504  the answer took longer than the gateway allows

The shape is OpenAI's: `{"error": {"message", "type", "param", "code"}}`. The message tells the caller what to do and
never an internal address. `Retry-After` is sent exactly where trying again can help.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar, Final

import orjson

_INTERNAL: Final = re.compile(r"Traceback|File \"|\b\d{1,3}(?:\.\d{1,3}){3}\b|\.svc\b|https?://|0x[0-9a-f]{6,}")


class ApiError(Exception):
    """A failure that the caller is told about."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self, message: str, code: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def build_body(self) -> bytes:
        """Return the answer's body."""
        return build_error_body(self.message, self.type, self.code, self.param)

    def build_headers(self) -> dict[str, str]:
        """Return the headers that belong to this failure."""
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class BadRequestError(ApiError):
    """The request cannot be understood."""

    status = 400
    type = "invalid_request_error"


class UnauthenticatedError(ApiError):
    """The caller is unknown."""

    status = 401
    type = "authentication_error"

    def build_headers(self) -> dict[str, str]:
        """Return the headers that belong to this failure."""
        return {"WWW-Authenticate": "Bearer"}


class ForbiddenError(ApiError):
    """The caller may not do this."""

    status = 403
    type = "permission_error"


class NotFoundError(ApiError):
    """There is no such thing for this caller."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowedError(ApiError):
    """The URL is known, the method is another one."""

    status = 405
    type = "invalid_request_error"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"Only {allowed} is allowed here.", "method_not_allowed")
        self.allowed = allowed

    def build_headers(self) -> dict[str, str]:
        """Return the headers that belong to this failure."""
        return {"Allow": self.allowed}


class SlowRequestError(ApiError):
    """The body did not arrive in time."""

    status = 408
    type = "invalid_request_error"


class TooLargeError(ApiError):
    """The body is too large."""

    status = 413
    type = "invalid_request_error"


class UnsupportedError(ApiError):
    """The body is in a form that is not taken."""

    status = 415
    type = "invalid_request_error"


class TooManyRequestsError(ApiError):
    """A queue has no room for this caller."""

    status = 429
    type = "rate_limit_error"


class InternalError(ApiError):
    """The gateway failed."""


class BadGatewayError(ApiError):
    """A replica failed."""

    status = 502


class UnavailableError(ApiError):
    """Nobody can answer now."""

    status = 503
    type = "service_unavailable_error"


class TimeLimitError(ApiError):
    """The time for the whole request is over."""

    status = 504
    type = "timeout_error"


_BY_STATUS: dict[int, type[ApiError]] = {
    kind.status: kind for kind in (NotFoundError, TooManyRequestsError, UnavailableError)
}


def build_refusal(status: int, message: str, code: str, retry_after_s: float | None) -> ApiError:
    """Return the failure that has this status; a status that no queue refuses with becomes 503."""
    return _BY_STATUS.get(status, UnavailableError)(message, code, retry_after_s=retry_after_s)


def build_error_body(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """Return a body in OpenAI's shape."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def has_internals(text: str) -> bool:
    """Return whether a text looks like a traceback or holds an address, which callers are not told."""
    return _INTERNAL.search(text) is not None
