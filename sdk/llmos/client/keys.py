"""API keys for the gateway: make, list, rotate and revoke them. The flows do no I/O (flow.py).

A key is a Secret in the namespace where the gateway runs (`llmos.api.apikeys`). The key itself exists once, in the
answer to `create`: only its hash is stored, so nobody can read it again, not even with every right in the cluster.
Whoever may write Secrets in that namespace may make keys; whoever deletes one revokes it.

To rotate a key is to make another one of the same rights, and to let the old one end after a time in which both are
good. The new one comes first: if the old one cannot be changed, the new one is taken back and nothing has happened.
"""

from __future__ import annotations

import base64
import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
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
    encode_time,
    find_key_id,
    find_tail,
    read_key_secret,
)
from llmos.api.names import GROUP, VERSION
from llmos.client.answers import check
from llmos.client.errors import ConflictError, InvalidError, LlmosError, NotFoundError
from llmos.client.flow import Flow, Request, Send

SYSTEM_NAMESPACE: Final = "llmos-system"
"""Where the gateway runs unless it was installed elsewhere."""
_ALPHABET: Final = string.ascii_letters + string.digits
_PAGE_OBJECTS: Final = 500
_EXISTS: Final = 409
_MISSING: Final = 404
_MADE_UP: Final = re.compile(r"-[0-9a-f]{8}$")
"""End of a name that nobody chose."""


@dataclass(frozen=True)
class KeyRights:
    """What the holder of a key may do. Empty means no limit of that kind."""

    namespaces: frozenset[str] = frozenset()
    """Namespaces whose pools it may call."""
    models: tuple[str, ...] = ()
    """Patterns of `namespace/pool`, or of a pool's name alone."""
    endpoints: tuple[str, ...] = ()
    """Of chat, completions, embeddings, responses, classify, pooling."""
    expires_at: datetime | None = None
    tenant: str = ""


@dataclass(frozen=True)
class CreatedKey:
    """A new key. `key` is not stored anywhere."""

    key: str
    stored: StoredKey


@dataclass(frozen=True)
class RotatedKey:
    """A new key, and until when the old one is good."""

    new: CreatedKey
    old: StoredKey


@dataclass(frozen=True)
class Rotation:
    """How a key is replaced."""

    now: datetime
    overlap: timedelta
    """How long both keys are good."""
    name: str = ""
    """Of the new key; empty means one is made up from the old one's."""
    expires_at: datetime | None = None
    """When the new key ends; None gives it as long a life as the old one had."""


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
        """Make a key; an empty name means one is made up.

        Raises:
            NotFoundError: there is no such Tenant.
            ConflictError: there is a Secret of that name.
        """
        if rights.tenant:
            yield from _check_tenant(rights.tenant)
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
            tail=find_tail(key),
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
        key = yield from self._find(namespace, name_or_id)
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": key.uid}}
        reply = yield Send(Request("DELETE", f"{_collection(namespace)}/{key.name}", body=body))
        check(reply, f"Secret {namespace}/{key.name}")
        return key

    def rotate(self, namespace: str, name_or_id: str, rotation: Rotation) -> Flow[RotatedKey]:
        """Make a key of the same rights, and let the old one end.

        Raises:
            NotFoundError: there is no such key, or its Tenant is gone.
            InvalidError: the old one is no usable key.
        """
        listed = yield from self._find(namespace, name_or_id)
        stored = listed.stored
        if stored is None:
            raise InvalidError(
                f"Secret {namespace}/{listed.name} holds no usable key: {listed.problem}.",
                "Revoke it and make another one: llmos keys revoke, llmos keys create.",
            )
        rights = KeyRights(
            stored.namespaces, stored.models, stored.endpoints, _plan_end(listed, stored, rotation), stored.tenant
        )
        name = rotation.name or f"{_MADE_UP.sub('', stored.name)}-{secrets.token_hex(4)}"
        new = yield from self.create(namespace, name, rights)
        ends_at = min(rotation.now + rotation.overlap, stored.expires_at or datetime.max.replace(tzinfo=UTC))
        try:
            yield from _let_end(namespace, listed, ends_at)
        except LlmosError:
            yield Send(Request("DELETE", f"{_collection(namespace)}/{name}"))
            raise
        return RotatedKey(new, replace(stored, expires_at=ends_at))

    def _find(self, namespace: str, name_or_id: str) -> Flow[ListedKey]:
        for key in (yield from self.list(namespace)):
            if name_or_id in {key.name, key.stored.id if key.stored else ""}:
                return key
        raise NotFoundError(
            f"Namespace {namespace} has no API key {name_or_id}.",
            "llmos keys list shows all; name the gateway's namespace with --system-namespace.",
        )


def _plan_end(listed: ListedKey, stored: StoredKey, rotation: Rotation) -> datetime | None:
    if rotation.expires_at is not None or stored.expires_at is None:
        return rotation.expires_at
    return rotation.now + (stored.expires_at - listed.created_at)


def _let_end(namespace: str, key: ListedKey, ends_at: datetime) -> Flow[None]:
    body = {
        "metadata": {"uid": key.uid},
        "data": {"expiresAt": base64.b64encode(encode_time(ends_at).encode()).decode()},
    }
    reply = yield Send(
        Request("PATCH", f"{_collection(namespace)}/{key.name}", body=body, content_type="application/merge-patch+json")
    )
    check(reply, f"Secret {namespace}/{key.name}")


def _check_tenant(name: str) -> Flow[None]:
    reply = yield Send(Request("GET", f"/apis/{GROUP}/{VERSION}/tenants/{name}"))
    if reply.status == _MISSING and reply.as_object():
        raise NotFoundError(
            f"There is no Tenant {name}, so a key of it would open nothing.",
            "Create the Tenant first, or choose one of those that kubectl get tenants shows.",
        )
    check(reply, f"Tenant {name}")


def _collection(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets"


def _read(item: Mapping[str, Any]) -> ListedKey:
    metadata = item["metadata"]
    created_at = datetime.fromisoformat(metadata["creationTimestamp"])
    try:
        return ListedKey(metadata["name"], metadata["uid"], created_at, read_key_secret(item))
    except InvalidKeySecret as error:
        return ListedKey(metadata["name"], metadata["uid"], created_at, problem=str(error))
