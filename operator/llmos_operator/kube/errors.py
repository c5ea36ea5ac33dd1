"""What can go wrong between the operator and the API server.

    KubeError               code, message (cause), remedy
    ├── NotFound            the object of a write, its namespace or its whole kind does not exist
    ├── Conflict            another writer came first, or the object was replaced: observe again
    ├── Forbidden           RBAC, quota, or an admission policy said no
    ├── Invalid             the API server refused the content
    ├── Unavailable         no answer in time, too many requests, or a server error: try again later
    └── Fenced              this process may not write now: another one may be the leader

A reconcile catches only what it can explain in a condition (`Forbidden`, `Invalid`); everything else goes to the work
queue, which tries again with back-off.
"""
# ruff: noqa: N818 - "except Conflict" says all; the tree above is read as words.

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar


class KubeError(Exception):
    """Base of all errors of a request to the API server."""

    remedy: ClassVar[str] = "Look at the operator's log."

    def __init__(self, message: str, *, code: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(f"{message} {self.remedy}" if self.remedy else message)
        self.message = message
        """The cause, in the API server's words where it gave some."""
        self.code = code
        """HTTP status; 0 when there was no answer."""
        self.retry_after_s = retry_after_s
        """How long the server asked us to wait, if it did."""


class NotFound(KubeError):
    """The object of a write, its namespace or its kind does not exist."""

    remedy = "If it is the kind that is unknown, install the CRDs of this version of LLMOS."

    missing_name = ""
    """Name of what is missing, where the server knows the kind: the object that was asked for, or its namespace."""

    @property
    def object_missing(self) -> bool:
        """Whether the server knows the kind and says that this very object is missing."""
        return bool(self.missing_name)


class Conflict(KubeError):
    """The object changed or was replaced since it was read."""

    remedy = "It is read again and tried again."


class Forbidden(KubeError):
    """RBAC, a quota or an admission policy refused the request."""

    remedy = "Change the policy or the quota, or grant the permission."


class Invalid(KubeError):
    """The API server refused the content of the request."""

    remedy = "Correct the field that the message names."


class Unavailable(KubeError):
    """The API server did not answer, or could not."""

    remedy = "It is tried again with back-off."


class Fenced(KubeError):
    """The lease is lost or about to be: nothing may be written."""

    remedy = "Another replica of the operator takes over."


_BY_CODE: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Unavailable,  # A token that has just expired: it is read again within a minute.
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    410: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


def build_error(what: str, code: int, headers: Mapping[str, str], body: bytes) -> KubeError:
    """Return the error for an answer that is not a success.

    Args:
        what: the request in words, for example "apply of Pod default/a".
        code: HTTP status of the answer.
        headers: headers of the answer, of which `Retry-After` matters.
        body: a `Status` object as JSON, or plain text.
    """
    status = parse_status(body)
    reason = status.get("message") or body.decode(errors="replace").strip()[:512] or "no explanation"
    error = Conflict if _names_another_uid(status) else _BY_CODE.get(code, Unavailable)
    retry_after = headers.get("Retry-After", "")
    built = error(
        f"{what}: {reason} (HTTP {code}).",
        code=code,
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )
    if isinstance(built, NotFound):
        built.missing_name = (status.get("details") or {}).get("name") or ""
    return built


def _names_another_uid(status: Mapping[str, Any]) -> bool:
    # For custom resources the server calls a uid precondition that failed an invalid change of an immutable field.
    causes = (status.get("details") or {}).get("causes") or ()
    return any(cause.get("field") == "metadata.uid" for cause in causes)


def parse_status(body: bytes) -> dict[str, Any]:
    """Return the `Status` object in a body, or an empty dict if it holds something else."""
    try:
        status = json.loads(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) and status.get("kind") == "Status" else {}
