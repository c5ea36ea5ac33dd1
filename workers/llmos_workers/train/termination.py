"""The termination message, in what kubelet carries: 4096 bytes (docs/decisions/0005)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

TERMINATION_LOG: Final = Path("/dev/termination-log")
MAX_BYTES: Final = 4096
_MAX_MESSAGE: Final = 1500
_DIGITS: Final = 6


def build_message(facts: Mapping[str, Any], gated: Sequence[str] = ()) -> str:
    """The facts as JSON. What is too long gives way: first what progress lines said, then metrics without a gate."""
    message = _round(dict(facts))
    if "message" in message:
        message["message"] = message["message"][:_MAX_MESSAGE]
    for name in ("evaluations", "lastCheckpoint", "progress"):
        if _measure(message) > MAX_BYTES:
            message.pop(name, None)
    metrics = message.get("evaluation", {}).get("metrics", [])
    metrics.sort(key=lambda metric: metric["name"] not in gated)
    while metrics and _measure(message) > MAX_BYTES:
        metrics.pop()
    return _encode(message)


def write_message(text: str) -> None:
    """Write it where kubelet looks for it."""
    path = Path(os.environ.get("LLMOS_TERMINATION_LOG", TERMINATION_LOG))
    # Outside a pod the default does not exist, and creating a file in /dev would help nobody.
    if path != TERMINATION_LOG or path.exists():
        path.write_text(text)


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if abs(value) < 1e6 else round(value, 1)
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    return [_round(item) for item in value] if isinstance(value, list) else value


def _encode(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _measure(value: object) -> int:
    return len(_encode(value).encode(errors="replace"))
