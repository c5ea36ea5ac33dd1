"""Tokens by which replicas know the operator, and share pods those whom it sent. Pure.

Each is made from the operator's key and from what it opens, so that nothing has to be stored with pods, which know no
more than its sha256; a new operator makes the same ones.
"""

from __future__ import annotations

import hashlib
import hmac

from llmos.api import InferencePool, LLMModel


def compute_pool_token(key: str, pool: InferencePool) -> str:
    """Return what a pool's replicas want to see before they change their adapters."""
    return _compute(key, "pool", pool.metadata.namespace, pool.metadata.uid)


def compute_share_token(key: str, model: LLMModel) -> str:
    """Return what the share pod of an adapter wants to see before it gives its files."""
    return _compute(key, "share", model.metadata.namespace, model.metadata.uid)


def _compute(key: str, *words: str | None) -> str:
    return hmac.new(key.encode(), "\0".join(word or "" for word in words).encode(), hashlib.sha256).hexdigest()
