"""API keys: how one looks, and how its Secret stores it. The CLI writes these Secrets, the gateway reads them.

A key is `sk-llmos-ID-SECRET`: 12 characters that name it in lists, logs and metrics, then 256 random bits in base 62.
Only the SHA-256 of the whole key is stored. There is nothing to stretch with a slow hash: guessing 256 random bits is
out of reach however fast a guess is, and the gateway hashes each request's key in microseconds without any cache that
could outlive a revocation.

The Secret stands in the gateway's namespace, carries the label `llmos.dev/component: api-key` and the type
`llmos.dev/api-key`, so that a gateway watches these and no other Secrets:

    id          the key's public part
    sha256      hex
    namespaces  names with commas, or * for all
    models      optional: patterns of `namespace/pool`, or of a pool's name alone, with commas
    endpoints   optional: of chat, completions, embeddings, responses, classify, pooling
    expiresAt   optional: RFC 3339
    tenant      optional: name of a Tenant, whose rights and limits the key has; if there is none, the key opens nothing
    tail        optional: the key's last characters, for people to tell keys apart
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from llmos.api.names import COMPONENT_API_KEY, LABEL_COMPONENT, LABEL_MANAGED_BY, MANAGED_BY

KEY_PREFIX: Final = "sk-llmos-"
ID_CHARACTERS: Final = 12
SECRET_CHARACTERS: Final = 43
"""Base 62 digits that hold 256 bits: 43 x log2(62) = 256.03."""
TAIL_CHARACTERS: Final = 4
"""So that 232 of the 256 bits are known to nobody but the holder."""
SECRET_TYPE: Final = "llmos.dev/api-key"  # noqa: S105 - the type of a Secret, not a password
SECRET_SELECTOR: Final = f"{LABEL_COMPONENT}={COMPONENT_API_KEY}"
ALL_NAMESPACES: Final = "*"
Part = Literal["chat", "completions", "embeddings", "responses", "classify", "pooling"]
"""Parts of the API that a key may be limited to."""

_KEY = re.compile(rf"{KEY_PREFIX}([0-9A-Za-z]{{{ID_CHARACTERS}}})-[0-9A-Za-z]{{{SECRET_CHARACTERS}}}")
_ID = re.compile(rf"[0-9A-Za-z]{{{ID_CHARACTERS}}}")
_TAIL = re.compile(rf"([0-9A-Za-z]{{{TAIL_CHARACTERS}}})?")
_DIGEST_BYTES = 32


class InvalidKeySecret(ValueError):  # noqa: N818 - read as words: the Secret is invalid
    """A Secret claims to hold an API key and does not."""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is stored of a key: everything but the key."""

    id: str
    name: str
    """Of its Secret."""
    digest: bytes
    namespaces: frozenset[str]
    """Where its holder may call pools; empty means everywhere."""
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    expires_at: datetime | None = None
    tenant: str = ""
    tail: str = ""
    """Its last characters; empty if they are not known."""


def find_key_id(presented: str) -> str | None:
    """Return the public part of a key, None if the text is none."""
    match = _KEY.fullmatch(presented)
    return match[1] if match else None


def compute_digest(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


def find_tail(key: str) -> str:
    """Return the last characters of a key, by which people tell keys apart."""
    return key[-TAIL_CHARACTERS:]


def encode_time(time: datetime) -> str:
    """Return a time as it stands in a key's Secret, before base64."""
    return time.astimezone(UTC).isoformat()


def build_key_secret(key: StoredKey, namespace: str) -> dict[str, Any]:
    """Return the Secret of a key."""
    data = {
        "id": key.id,
        "sha256": key.digest.hex(),
        "namespaces": ",".join(sorted(key.namespaces)) or ALL_NAMESPACES,
        "models": ",".join(key.models),
        "endpoints": ",".join(key.endpoints),
        "expiresAt": encode_time(key.expires_at) if key.expires_at else "",
        "tenant": key.tenant,
        "tail": key.tail,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": key.name,
            "namespace": namespace,
            "labels": {LABEL_MANAGED_BY: MANAGED_BY, LABEL_COMPONENT: COMPONENT_API_KEY},
        },
        "type": SECRET_TYPE,
        "data": {field: base64.b64encode(value.encode()).decode() for field, value in data.items() if value},
    }


def read_key_secret(secret: Mapping[str, Any]) -> StoredKey:
    """Return the key that a Secret stores.

    Raises:
        InvalidKeySecret: it stores none. Nothing is guessed: a restriction that cannot be read is no right.
    """
    name, data = secret["metadata"]["name"], secret.get("data") or {}
    if secret.get("type") != SECRET_TYPE:
        raise InvalidKeySecret(f"its type is not {SECRET_TYPE}")
    namespaces = _read_list(data, "namespaces")
    if not namespaces:
        raise InvalidKeySecret("namespaces is empty: name them, or write * for all")
    return StoredKey(
        id=_read_id(data),
        name=name,
        digest=_read_digest(data),
        namespaces=frozenset() if ALL_NAMESPACES in namespaces else frozenset(namespaces),
        models=_read_list(data, "models"),
        endpoints=_read_list(data, "endpoints"),
        expires_at=_read_time(data, "expiresAt"),
        tenant=_read_text(data, "tenant"),
        tail=_read_tail(data),
    )


def _read_text(data: Mapping[str, str], field: str) -> str:
    try:
        return base64.b64decode(data.get(field) or "", validate=True).decode().strip()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidKeySecret(f"{field} is no text") from error


def _read_list(data: Mapping[str, str], field: str) -> tuple[str, ...]:
    text = _read_text(data, field)
    parts = tuple(part.strip() for part in text.split(","))
    if text and not all(parts):
        raise InvalidKeySecret(f"{field} has an empty entry")
    return parts if text else ()


def _read_id(data: Mapping[str, str]) -> str:
    key_id = _read_text(data, "id")
    if not _ID.fullmatch(key_id):
        raise InvalidKeySecret(f"id is not {ID_CHARACTERS} letters and digits")
    return key_id


def _read_digest(data: Mapping[str, str]) -> bytes:
    try:
        digest = bytes.fromhex(_read_text(data, "sha256"))
    except ValueError as error:
        raise InvalidKeySecret("sha256 is not hexadecimal") from error
    if len(digest) != _DIGEST_BYTES:
        raise InvalidKeySecret("sha256 is not the hash of a key")
    return digest


def _read_tail(data: Mapping[str, str]) -> str:
    tail = _read_text(data, "tail")
    if not _TAIL.fullmatch(tail):
        raise InvalidKeySecret(f"tail is not {TAIL_CHARACTERS} letters and digits")
    return tail


def _read_time(data: Mapping[str, str], field: str) -> datetime | None:
    text = _read_text(data, field)
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidKeySecret(f"{field} is no time as 2030-01-31T12:00:00Z") from error
    if time.tzinfo is None:
        raise InvalidKeySecret(f"{field} names no time zone: end it with Z")
    return time
