"""Who calls: an API key, what it may see, and how a presented one is checked.

Only the public id of a key takes part in a look-up; the rest is compared as SHA-256 digests in constant time, also when
the id is unknown, so that neither an id nor a digest can be felt for by timing. How keys look and are stored stands in
`llmos.api.apikeys`.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from llmos.api.apikeys import StoredKey, compute_digest, find_key_id

_NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One caller."""

    id: str
    """The key's public part, also in logs and metrics."""
    name: str
    """Of its Secret."""
    digest: bytes
    """SHA-256 of the whole key."""
    namespaces: frozenset[str] = frozenset()
    """Where it may call pools; empty means everywhere."""
    models: tuple[str, ...] = ()
    """Patterns of `namespace/pool`, or of a pool's name alone; empty means all pools of its namespaces. An adapter is
    meant by the name of its own LLMModel in the place of a pool's."""
    endpoints: tuple[str, ...] = ()
    """For example chat, completions, embeddings; empty means all."""
    expires_at_s: float | None = None
    """Unix time."""
    tenant: str = ""
    identity: str = field(init=False, repr=False, compare=False)
    """Who calls: the tenant, or the key itself if it has none. All that is shared out goes by it."""

    def __post_init__(self) -> None:
        """Say once who calls, which is asked many times for each request."""
        # No tenant's name holds a zero byte, so that no key can pass for a tenant.
        object.__setattr__(self, "identity", f"tenant\0{self.tenant}" if self.tenant else f"key\0{self.id}")

    def is_expired(self, now_s: float) -> bool:
        """Return whether its time is over."""
        return self.expires_at_s is not None and now_s >= self.expires_at_s

    def may_see(self, namespace: str, pool: str) -> bool:
        """Return whether this pool, or adapter, exists for the caller."""
        if self.namespaces and namespace not in self.namespaces:
            return False
        if not self.models:
            return True
        return any(fnmatchcase(f"{namespace}/{pool}" if "/" in p else pool, p) for p in self.models)

    def may_use(self, endpoint: str) -> bool:
        """Return whether the caller may use this part of the API."""
        return not self.endpoints or endpoint in self.endpoints


ANONYMOUS = ApiKey(id="anonymous", name="", digest=b"")
"""Everybody, where the gateway was told to ask nobody for a key."""


def build_api_key(stored: StoredKey) -> ApiKey:
    """Return the caller that a Secret describes."""
    return ApiKey(
        id=stored.id,
        name=stored.name,
        digest=stored.digest,
        namespaces=stored.namespaces,
        models=stored.models,
        endpoints=stored.endpoints,
        expires_at_s=stored.expires_at.timestamp() if stored.expires_at else None,
        tenant=stored.tenant,
    )


class KeyRing:
    """The keys that are valid now, found by their public id.

    Two Secrets may hold the same id, for example while one is renamed; each grants what it says until it is deleted.
    """

    def __init__(self) -> None:
        self._by_secret: dict[str, ApiKey] = {}
        self._by_id: dict[str, tuple[ApiKey, ...]] = {}

    def __len__(self) -> int:
        return len(self._by_secret)

    def has_tenant(self, tenant: str) -> bool:
        """Return whether any key stands for the tenant."""
        return any(key.tenant == tenant for key in self._by_secret.values())

    def put(self, key: ApiKey) -> None:
        """Add a key, in the place of what its Secret said before."""
        self.remove(key.name)
        self._by_secret[key.name] = key
        same_id = (*self._by_id.get(key.id, ()), key)
        self._by_id[key.id] = tuple(sorted(same_id, key=lambda other: other.name))

    def remove(self, secret: str) -> None:
        """Revoke what a Secret granted."""
        key = self._by_secret.pop(secret, None)
        if key is None:
            return
        left = tuple(other for other in self._by_id[key.id] if other.name != secret)
        if left:
            self._by_id[key.id] = left
        else:
            del self._by_id[key.id]

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Make these all the keys there are."""
        present = {key.name: key for key in keys}
        for secret in self._by_secret.keys() - present.keys():
            self.remove(secret)
        for key in present.values():
            self.put(key)

    def authenticate(self, presented: str, now_s: float) -> ApiKey | None:
        """Return the caller who presents this key at unix time `now_s`, None if it is unknown, wrong or expired."""
        key_id = find_key_id(presented)
        if key_id is None:
            return None
        digest = compute_digest(presented)
        found = self._by_id.get(key_id)
        if found is None:
            hmac.compare_digest(digest, _NO_DIGEST)
            return None
        for key in found:
            if hmac.compare_digest(digest, key.digest) and not key.is_expired(now_s):
                return key
        return None
