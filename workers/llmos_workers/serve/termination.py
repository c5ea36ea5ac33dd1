"""The termination message: what kubelet copies into the pod's status, and the operator reads there.

`{"reason": ..., "message": "cause. Remedy.", "detail": "last lines"}`, at most 4096 bytes of UTF-8, for kubelet cuts a
longer one at any byte. The detail gives way first, from its oldest line; the telling line at its head stays.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from llmos_workers.serve.failures import Failure

MAX_BYTES: Final = 4096
_MAX_LINE: Final = 500
_MAX_LINES: Final = 40


def build_termination_message(failure: Failure, max_bytes: int = MAX_BYTES) -> bytes:
    """The message as JSON, in at most `max_bytes` bytes."""
    message = failure.message
    while True:
        head = {"reason": str(failure.reason), "message": message, "detail": ""}
        room = max_bytes - len(_encode(head))
        if room >= 0 or not message:
            break
        message = message[: max(0, len(message) + min(room, -1))]
    lines = [line[:_MAX_LINE] for line in failure.lines if line.strip()]
    first, rest = lines[:1], lines[1:][-_MAX_LINES:]
    while rest and len(_encode(_join(first, rest))) - 2 > room:
        rest = rest[1:]
    detail = _join(first, rest)
    while detail and len(_encode(detail)) - 2 > room:
        detail = detail[: len(detail) * 3 // 4]
    return _encode({**head, "detail": detail})


def write_termination_message(path: Path, failure: Failure) -> None:
    """Write the message where kubelet looks for it."""
    path.write_bytes(build_termination_message(failure))


def _join(first: list[str], rest: list[str]) -> str:
    return "\n".join([*first, *rest])


def _encode(value: object) -> bytes:
    # Not ASCII-escaped: an accented letter takes two bytes instead of six. Lone surrogates cannot be encoded.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
