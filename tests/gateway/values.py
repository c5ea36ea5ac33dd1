"""Pools, endpoints, keys and tenants for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from llmos.api import Tenant
from llmos.api.apikeys import StoredKey, compute_digest
from llmos_gateway.catalog import Adapter, Endpoint, Pool
from llmos_gateway.keys import ApiKey, build_api_key

SECRET = "s" * 43


def key_text(number: int = 0, secret: str = SECRET) -> str:
    """Return a whole key as a client presents it."""
    return f"sk-llmos-{key_id(number)}-{secret}"


def key_id(number: int) -> str:
    return f"key{number:09d}"


def stored_key(
    number: int = 0,
    *,
    name: str = "",
    namespaces: frozenset[str] = frozenset(),
    models: tuple[str, ...] = (),
    expires_at: datetime | None = None,
    tenant: str = "",
) -> StoredKey:
    return StoredKey(
        id=key_id(number),
        name=name or f"secret-{number}",
        digest=compute_digest(key_text(number)),
        namespaces=namespaces,
        models=models,
        expires_at=expires_at,
        tenant=tenant,
    )


def api_key(
    number: int = 0, *, namespaces: tuple[str, ...] = (), models: tuple[str, ...] = (), tenant: str = ""
) -> ApiKey:
    return build_api_key(stored_key(number, namespaces=frozenset(namespaces), models=models, tenant=tenant))


def tenant(name: str, *namespaces: str, age_s: int = 0, **spec: Any) -> Tenant:
    created = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=age_s)
    spec["namespaces"] = namespaces or (name,)
    return Tenant.model_validate({"metadata": {"name": name, "creationTimestamp": created}, "spec": spec})


def pool(pool_id: str = "team/chat", *, model: str = "qwen", is_hopeless: bool = False, problem: str = "") -> Pool:
    namespace, _, name = pool_id.partition("/")
    return Pool(namespace, name, model, is_hopeless=is_hopeless, problem=problem, desired=1)


def adapter(name: str = "support", *replicas: int, **fields: Any) -> Adapter:
    """An adapter on the replicas of `endpoint` with these numbers."""
    return Adapter(name, replicas=frozenset(endpoint(number).replica for number in replicas), **fields)


def endpoint(number: int = 1) -> Endpoint:
    return Endpoint(f"10.0.0.{number}:8000", f"10.0.0.{number}:8001", f"chat-{number}")
