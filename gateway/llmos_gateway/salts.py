"""What keeps the cached prompts of callers apart in an engine that they share.

An engine answers sooner when it has the beginning of a prompt in its cache. Whoever may measure that can find out,
block by block, what others have asked (CVE-2025-46570). vLLM hashes a salt into the first block of each prompt, and so
into all that follow: without the salt nothing is found. A salt that callers choose protects nobody, so the gateway
takes theirs away and sets

    salt = base64url(HMAC-SHA256(secret, identity))

with the tenant of the key as the identity. Of a key without a tenant nothing is known but the key itself, so that is
its identity: two such keys share nothing. Whoever wants keys to share cached prompts gives them a Tenant.

An adapter computes other values from the same prompt than its base, and with new files than with its old ones, so its
name and digest are part of the identity, too. Engines tell adapters apart by themselves; this holds for all of them,
and for what the gateway remembers of their caches.

256 bits that only the holder of the secret can compute; all gateways must have the same secret, or each would find only
what went through itself.
"""

from __future__ import annotations

import base64
import hmac
from functools import lru_cache
from typing import Final

from llmos_gateway.keys import ApiKey

MIN_SECRET_BYTES: Final = 32
MAX_KNOWN: Final = 4096
"""Callers whose salts are kept; that of another one is computed when it comes."""


class CacheSalts:
    """Computes salts.

    Args:
        secret: random, and the same in all gateways.

    Raises:
        ValueError: the secret is too short to be one.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"it has {len(secret)} bytes, and must have at least {MIN_SECRET_BYTES} random ones")
        self._secret = secret
        self._find = lru_cache(maxsize=MAX_KNOWN)(self._compute)

    def compute(self, key: ApiKey, adapter: str = "") -> str:
        """Return the salt of a caller's prompts, for the model of a pool or for an adapter (its `identity`)."""
        # No name holds a zero byte, so that nobody's salt for an adapter is another one's for a model.
        return self._find(f"{key.identity}\0{adapter}" if adapter else key.identity)

    def _compute(self, identity: str) -> str:
        digest = hmac.digest(self._secret, identity.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
