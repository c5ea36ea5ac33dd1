"""Reads what a server refused: turns a Reply into the error that says what to do. Pure.

A Kubernetes API server says it in a `Status` object; it answers in plain text only for paths, and so kinds, that it
does not know. A pool reached through it answers in its own words.
"""

from __future__ import annotations

from typing import Any

from llmos.client.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    LlmosError,
    NotFoundError,
    NotInstalledError,
    OverloadedError,
    UnauthenticatedError,
)
from llmos.client.flow import Reply

_INSTALL = "Install LLMOS (helm install llmos charts/llmos), or choose another cluster with --context."


def check(reply: Reply, what: str) -> Reply:
    """Return the reply, or raise what its refusal means. `what` names the object, for example `InferencePool a/b`."""
    if reply.is_error:
        raise build_error(reply, what)
    return reply


def build_error(reply: Reply, what: str) -> LlmosError:
    """The error for a reply of the API server with a status of 400 or above."""
    status = reply.as_object()
    message = as_sentence(str(status.get("message") or reply.text.strip() or f"HTTP {reply.status}"))
    match reply.status:
        case 401:
            return UnauthenticatedError(
                f"The API server does not accept the credentials: {message}",
                "Log in again, then check with: kubectl auth whoami.",
            )
        case 403:
            return ForbiddenError(message, "Ask the cluster's administrator for a role that allows it.")
        case 404:
            return _build_missing(what, is_known_kind=is_status(status))
        case 409:
            return ConflictError(
                f"{what}: {message}", "Change the field where it is managed, or take it over by applying with force."
            )
        case code if code == 429 or code >= 500:
            return OverloadedError(
                f"The API server cannot answer now (HTTP {code}): {message}",
                "Try again in a moment; if it stays so, look at the control plane.",
            )
    return InvalidError(message, "Correct what the server names and try again.")


def _build_missing(what: str, *, is_known_kind: bool) -> LlmosError:
    if is_known_kind:
        return NotFoundError(f"{what} does not exist.", "Check the name and the namespace; llmos status -A shows all.")
    kind = what.split(maxsplit=1)[0]
    return NotInstalledError(f"The cluster does not know {kind}: LLMOS is not installed.", _INSTALL)


def is_status(body: dict[str, Any]) -> bool:
    """Whether a body is the API server's own, not one of a server behind it."""
    return body.get("kind") == "Status" and body.get("apiVersion") == "v1"


def as_sentence(text: str) -> str:
    """The text with a full stop, so that a remedy can follow."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
