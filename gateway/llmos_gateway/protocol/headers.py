"""Which headers pass, both ways. What is not named here does not: no key of a caller, cookie or address passes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

REQUEST_ID: Final = "X-Request-Id"
TRACE_HEADERS: Final = ("traceparent", "tracestate")
_TO_CALLER: Final = ("Content-Type", "Retry-After")
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
SERVER: Final = "llmos"


def find_request_id(headers: Mapping[str, str]) -> str | None:
    """Return the caller's own id for this request if it is one that may stand in logs and headers."""
    presented = headers.get(REQUEST_ID)
    return presented if presented and _SANE_ID.fullmatch(presented) else None


def find_bearer(headers: Mapping[str, str]) -> str | None:
    """Return the key that the caller presents, None if there is none."""
    scheme, _, presented = headers.get("Authorization", "").partition(" ")
    presented = presented.strip()
    return presented if presented and scheme.lower() == "bearer" else None


def build_upstream_headers(headers: Mapping[str, str], attempt_id: str) -> dict[str, str]:
    """Return the headers for the engine.

    `attempt_id` must be new for each attempt: vLLM takes it for the id of the request inside the engine, where two
    requests with one id are an error, and a caller's id may be anybody's.
    """
    built = {"Content-Type": "application/json", "Accept": "*/*", REQUEST_ID: attempt_id}
    for name in TRACE_HEADERS:
        if name in headers:
            built[name] = headers[name]
    return built


def build_caller_headers(
    headers: Mapping[str, str], request_id: str, budget: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the headers for the caller of an engine's answer; `budget` is what is left of its tenant's tokens."""
    built = {"Server": SERVER, REQUEST_ID: request_id}
    if budget:
        built.update(budget)
    for name in _TO_CALLER:
        if name in headers:
            built[name] = headers[name]
    return built


def join_head(lines: Sequence[str]) -> bytes:
    """Return the head of a request or an answer.

    Raises:
        ValueError: something in a line would end it.
    """
    head, ends = "\r\n".join(lines), len(lines) - 1
    if head.count("\n") != ends or head.count("\r") != ends or "\0" in head:
        raise ValueError("a header would end its line")
    # Bytes that are no UTF-8 leave as they came.
    return f"{head}\r\n\r\n".encode("utf-8", "surrogateescape")
