"""Tokens that an engine counted, found in its answer without parsing the whole of it.

An answer may hold megabytes of vectors or text beside one small `usage` object, so only that object is parsed. The
quotes of `"usage"` are structural: inside a JSON string they would be escaped, so a caller's text cannot pretend to be
one. It may still be a string of its own (`"content": "usage"`), after which no object follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

_MARK: Final = b'"usage"'
MAX_USAGE_BYTES: Final = 4096
"""An object that is longer is none."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, those that the engine found in its prefix cache."""
    is_exact: bool = True
    """False where the engine never said it and the gateway counted what passed."""


def find_usage(data: bytes) -> Usage | None:
    """Return the last usage object in a piece of JSON, None if there is none."""
    end = len(data)
    while (at := data.rfind(_MARK, 0, end)) >= 0:
        usage = _read_object(data[at + len(_MARK) : at + len(_MARK) + MAX_USAGE_BYTES])
        if usage is not None:
            return usage
        end = at
    return None


def _read_object(data: bytes) -> Usage | None:
    text = data[1:] if data.startswith(b":{") else data.lstrip()[1:].lstrip() if data.lstrip().startswith(b":") else b""
    if not text.startswith(b"{"):
        return None
    # It holds numbers and objects of numbers only, so that each brace is structural.
    end = text.find(b"}")
    while end >= 0:
        if text.count(b"{", 0, end) == text.count(b"}", 0, end) + 1:
            return _read_counts(text[: end + 1])
        end = text.find(b"}", end + 1)
    return None


def _read_counts(data: bytes) -> Usage | None:
    try:
        return read_usage(orjson.loads(data))
    except orjson.JSONDecodeError:
        return None


def read_usage(counts: Any) -> Usage | None:
    """Return what a usage object says, None if it is none."""
    if not isinstance(counts, dict):
        return None
    # /v1/responses says input and output where the others say prompt and completion.
    prompt = counts.get("prompt_tokens", counts.get("input_tokens"))
    if not isinstance(prompt, int):
        return None
    completion = counts.get("completion_tokens", counts.get("output_tokens"))
    details = counts.get("prompt_tokens_details") or counts.get("input_tokens_details")
    return Usage(_read_count(prompt), _read_count(completion), _read_cached(details))


def _read_cached(details: Any) -> int:
    return _read_count(details.get("cached_tokens")) if isinstance(details, dict) else 0


def _read_count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
