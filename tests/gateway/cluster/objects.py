"""Kubernetes objects as the API server sends them."""

from __future__ import annotations

from typing import Any

from llmos.api.apikeys import build_key_secret
from tests.gateway.values import stored_key

Object = dict[str, Any]


def pool_object(pool_id: str = "team/chat", *, version: int = 1, **spec: Any) -> Object:
    namespace, _, name = pool_id.partition("/")
    return {
        "metadata": {
            "namespace": namespace,
            "name": name,
            "generation": 2,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {"modelRef": {"name": "qwen"}, "accelerator": {"class": "cpu"}, "replicas": 1, **spec},
    }


def with_ready(item: Object, status: str, reason: str, message: str = "", *, generation: int = 2) -> Object:
    ready = {"type": "Ready", "status": status, "reason": reason, "message": message, "observedGeneration": generation}
    return {**item, "status": {**item.get("status", {}), "conditions": [ready]}}


def slice_object(
    pool_id: str = "team/chat",
    *addresses: str,
    name: str = "",
    version: int = 1,
    port: str = "http",
    component: str = "service",
) -> Object:
    namespace, _, pool = pool_id.partition("/")
    family = "IPv6" if any(":" in address for address in addresses) else "IPv4"
    return {
        "metadata": {
            "namespace": namespace,
            "name": name or f"{pool}-{family.lower()}",
            "resourceVersion": str(version),
            "labels": {"llmos.dev/pool": pool, "llmos.dev/component": component},
        },
        "addressType": family,
        "ports": [{"name": port, "port": 8000}],
        "endpoints": [endpoint_object(address, f"pod-{number}") for number, address in enumerate(addresses)],
    }


def endpoint_object(address: str, pod: str, **conditions: bool) -> Object:
    return {"addresses": [address], "conditions": conditions or {"ready": True}, "targetRef": {"name": pod}}


def key_object(number: int = 0, *, version: int = 1) -> Object:
    secret = build_key_secret(stored_key(number), "llmos-system")
    secret["metadata"]["resourceVersion"] = str(version)
    return secret


def tenant_object(name: str, *namespaces: str, version: int = 1, **spec: Any) -> Object:
    return {
        "metadata": {
            "name": name,
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {"namespaces": list(namespaces), **spec},
        "status": {"conditions": "of a newer version"},
    }


def model_object(*shared_with: str, version: int = 1) -> Object:
    return {
        "metadata": {"namespace": "team", "name": "qwen", "resourceVersion": str(version)},
        "spec": {"source": {"uri": "hf://org/name"}, "sharedWith": list(shared_with)},
    }
