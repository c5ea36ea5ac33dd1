"""When two examples are the same, and the words by which they are compared. Pure.

    digest = blake2b-128( canonical JSON of what is learned, NFC, without space around texts )

So neither the order of fields, nor fields that are not learned, nor the file matter. The chance that any two of a
hundred million different examples share 128 bits is below 1e-22.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any, Final

import orjson

from llmos_workers.prepare.examples import Example

DIGEST_BYTES: Final = 16
_WORD: Final = re.compile(r"\w+")


def compute_digest(example: Example) -> bytes:
    """Return 16 bytes that are the same for examples that say the same."""
    tidy = [_tidy(example.messages), example.tools, _tidy(example.prompt), _tidy(example.text)]
    tidy += [_tidy(each) for each in (example.rejected, example.positive) if each]
    tidy += [_tidy(example.words), example.labels] if example.labels else []
    key = orjson.dumps(tidy, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(key, digest_size=DIGEST_BYTES).digest()


def _tidy(value: Any) -> Any:
    if isinstance(value, str):
        return (value if value.isascii() else unicodedata.normalize("NFC", value)).strip()
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in value.items()}
    return [_tidy(item) for item in value] if isinstance(value, (list, tuple)) else value


def find_words(text: str) -> list[str]:
    """Return the words of a text without case and punctuation (NFKC, so that shapes of letters do not matter)."""
    return _WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower())


def get_prompt(example: Example) -> str:
    """Return what is asked: everything before the last answer but the system message; the text where nothing is."""
    if not example.messages:
        return example.prompt or example.text
    return "\n".join(str(one.get("content") or "") for one in example.messages[:-1] if one["role"] != "system")


def get_whole(example: Example) -> str:
    """Return everything but the system message, which whole datasets share."""
    if example.messages or example.prompt:
        return f"{get_prompt(example)}\n{example.answer}"
    return f"{example.text}\n{example.positive}" if example.positive else example.text
