"""Keeps secrets out of everything that leaves a fetch step: messages, logs, manifests.

Two nets: URLs lose userinfo, query and fragment (presigned URLs carry their signature there), and the values of
environment variables that look like credentials are replaced wherever they still show up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

_URL_SECRETS: Final = re.compile(
    r"(?<![a-z0-9+.-])(?P<scheme>[a-z][a-z0-9+.-]{0,31}://)(?:[^\s/@'\"]*@)?(?P<rest>[^\s?#'\"<>]*)(?:[?#][^\s'\"<>]*)?",
    re.IGNORECASE,
)
_TOKEN: Final = re.compile(r"\bhf_[A-Za-z0-9]{8,}\b|(?i:\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}")
_SECRET_NAME: Final = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|API_KEY", re.IGNORECASE)
_MIN_SECRET_CHARS: Final = 6
HIDDEN: Final = "[hidden]"


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the text without credentials."""
    text = _URL_SECRETS.sub(_keep_place, text)
    text = _TOKEN.sub(HIDDEN, text)
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _MIN_SECRET_CHARS and not value.startswith("/"):
            text = text.replace(value, HIDDEN)
    return text


def _keep_place(match: re.Match[str]) -> str:
    return match["scheme"] + match["rest"]
