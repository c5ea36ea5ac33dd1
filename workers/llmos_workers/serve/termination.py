"""The termination message: what kubelet copies into the pod's status, and the operator reads there.

`{"reason": ..., "message": "cause. Remedy.", "detail": "last lines"}`, at most 4096 bytes of UTF-8, for kubelet cuts a
longer one at any byte. The detail gives way first, from its oldest line; the telling line at its head stays.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Final

from llmos_workers.serve.failures import Failure

MAX_BYTES: Final = 4096
_MAX_LINE: Final = 500
_MAX_LINES: Final = 40


def build_termination_message(failure: Failure, max_bytes: int = MAX_BYTES) -> bytes:
    """The message as JSON, in at most `max_bytes` bytes (which hold at least an empty message)."""
    head = {"reason": str(failure.reason), "detail": ""}
    message = _cut(failure.message, max_bytes - len(_encode({**head, "message": ""})))
    head = {"reason": str(failure.reason), "message": message, "detail": ""}
    return _encode({**head, "detail": _build_detail(failure, max_bytes - len(_encode(head)))})


def write_termination_message(path: Path, failure: Failure) -> None:
    """Write the message where kubelet looks for it."""
    path.write_bytes(build_termination_message(failure))


def _build_detail(failure: Failure, room_bytes: int) -> str:
    lines = [line[:_MAX_LINE] for line in failure.lines if line.strip()][-_MAX_LINES:]
    telling = failure.telling_line[:_MAX_LINE]
    while lines and _measure(_join(telling, lines)) > room_bytes:
        lines = lines[1:]
    return _cut(_join(telling, lines), room_bytes)


def _join(telling: str, lines: list[str]) -> str:
    return "\n".join(lines if not telling or telling in lines else [telling, "...", *lines])


def _cut(text: str, room_bytes: int) -> str:
    """The longest start of `text` that takes `room_bytes` in JSON: each character takes at least one byte."""
    text = text[: max(0, room_bytes)]
    while text and (excess := _measure(text) - room_bytes) > 0:
        # A character takes at most six bytes (\u0000), so this many are never too many.
        text = text[: -math.ceil(excess / 6)]
    return text


def _measure(text: str) -> int:
    return len(_encode(text)) - 2


def _encode(value: object) -> bytes:
    # Not ASCII-escaped: an accented letter takes two bytes instead of six. Lone surrogates cannot be encoded.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
