"""API keys for the gateway: make, list and revoke them. The flows do no I/O (flow.py).

A key is a Secret in the namespace where the gateway runs (`llmos.api.apikeys`). The key itself exists once, in the
answer to `create`: only its hash is stored, so nobody can read it again, not even with every right in the cluster.
Whoever may write Secrets in that namespace may make keys; whoever deletes one revokes it.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from llmos.api.apikeys import (
    ID_CHARACTERS,
    KEY_PREFIX,
    SECRET_CHARACTERS,
    SECRET_SELECTOR,
    InvalidKeySecret,
    StoredKey,
    build_key_secret,
    compute_digest,
    find_key_id,
    read_key_secret,
)
from llmos.client.answers import check
from llmos.client.errors import ConflictError, NotFoundError
from llmos.client.flow import Flow, Request, Send

SYSTEM_NAMESPACE: Final = "llmos-system"
"""Where the gateway runs unless it was installed elsewhere."""
_ALPHABET: Final = string.ascii_letters + string.digits
_PAGE_OBJECTS: Final = 500
_EXISTS: Final = 409


@dataclass(frozen=True)
class KeyRights:
    """What the holder of a key may do. Empty means no limit of that kind."""

    namespaces: frozenset[str] = frozenset()
    """Namespaces whose pools it may call."""
    models: tuple[str, ...] = ()
    """Patterns of `namespace/pool`, or of a pool's name alone."""
    endpoints: tuple[str, ...] = ()
    """Of chat, completions, embeddings, responses."""
    expires_at: datetime | None = None
    tenant: str = ""


@dataclass(frozen=True)
class CreatedKey:
    """A new key. `key` is not stored anywhere."""

    key: str
    stored: StoredKey


@dataclass(frozen=True)
class ListedKey:
    """One Secret that is labelled as a key; `stored` is None if it holds none, and `problem` says why."""

    name: str
    uid: str
    created_at: datetime
    stored: StoredKey | None = None
    problem: str = ""


def generate_key() -> str:
    """Return a new key: an id and 256 random bits."""
    key_id, secret = (_pick(count) for count in (ID_CHARACTERS, SECRET_CHARACTERS))
    return f"{KEY_PREFIX}{key_id}-{secret}"


def _pick(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


class KeyFlows:
    """The operations, as flows. `namespace` is the gateway's."""

    def create(self, namespace: str, name: str, rights: KeyRights) -> Flow[CreatedKey]:
        """Make a key; an empty name means one is made up."""
        key = generate_key()
        stored = StoredKey(
            id=find_key_id(key) or "",
            name=name or f"key-{secrets.token_hex(4)}",
            digest=compute_digest(key),
            namespaces=rights.namespaces,
            models=rights.models,
            endpoints=rights.endpoints,
            expires_at=rights.expires_at,
            tenant=rights.tenant,
        )
        reply = yield Send(Request("POST", _collection(namespace), body=build_key_secret(stored, namespace)))
        if reply.status == _EXISTS:
            raise ConflictError(
                f"Secret {namespace}/{stored.name} exists already.",
                "Choose another name, or revoke that key first (llmos keys revoke).",
            )
        check(reply, f"Namespace {namespace}")
        return CreatedKey(key, stored)

    def list(self, namespace: str) -> Flow[tuple[ListedKey, ...]]:
        """Read all keys in order of their names."""
        found: list[ListedKey] = []
        params = {"labelSelector": SECRET_SELECTOR, "limit": str(_PAGE_OBJECTS)}
        while True:
            reply = yield Send(Request("GET", _collection(namespace), params))
            page = check(reply, "Secret").as_object()
            found += (_read(item) for item in page.get("items") or ())
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return tuple(sorted(found, key=lambda key: key.name))
            params = {**params, "continue": token}

    def revoke(self, namespace: str, name_or_id: str) -> Flow[ListedKey]:
        """Delete a key's Secret, and only if it is one.

        Raises:
            NotFoundError: there is no such key.
        """
        for key in (yield from self.list(namespace)):
            if name_or_id in {key.name, key.stored.id if key.stored else ""}:
                body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": key.uid}}
                reply = yield Send(Request("DELETE", f"{_collection(namespace)}/{key.name}", body=body))
                check(reply, f"Secret {namespace}/{key.name}")
                return key
        raise NotFoundError(
            f"Namespace {namespace} has no API key {name_or_id}.",
            "llmos keys list shows all; name the gateway's namespace with --system-namespace.",
        )


def _collection(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


def _read(item: Mapping[str, Any]) -> ListedKey:
    metadata = item["metadata"]
    created_at = datetime.fromisoformat(metadata["creationTimestamp"])
    try:
        return ListedKey(metadata["name"], metadata["uid"], created_at, read_key_secret(item))
    except InvalidKeySecret as error:
        return ListedKey(metadata["name"], metadata["uid"], created_at, problem=str(error))
