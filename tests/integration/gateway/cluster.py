"""Writes what the operator, Kubernetes and the CLI write."""

from __future__ import annotations

from typing import Any

from kubernetes.aio.client import ApiClient, CoreV1Api, CustomObjectsApi, DiscoveryV1Api

from llmos.api.apikeys import build_key_secret
from llmos.api.names import COMPONENT_SERVICE, GROUP, LABEL_COMPONENT, LABEL_POOL, VERSION
from tests.gateway.values import stored_key

_KIND = (GROUP, VERSION)
_PLURAL = "inferencepools"


async def create_pool(client: ApiClient, namespace: str, name: str = "chat", **spec: Any) -> None:
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "InferencePool",
        "metadata": {"name": name},
        "spec": {"modelRef": {"name": "qwen"}, "accelerator": {"class": "cpu"}, "replicas": 1, **spec},
    }
    await CustomObjectsApi(client).create_namespaced_custom_object(*_KIND, namespace, _PLURAL, body)


async def patch_pool_status(client: ApiClient, namespace: str, status: dict[str, Any], name: str = "chat") -> None:
    await CustomObjectsApi(client).patch_namespaced_custom_object_status(
        *_KIND, namespace, _PLURAL, name, {"status": status}, _content_type="application/merge-patch+json"
    )


async def delete_pool(client: ApiClient, namespace: str, name: str = "chat") -> None:
    await CustomObjectsApi(client).delete_namespaced_custom_object(*_KIND, namespace, _PLURAL, name)


def build_slice(*addresses: str, pool: str = "chat") -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"{pool}-1",
            "labels": {LABEL_POOL: pool, LABEL_COMPONENT: COMPONENT_SERVICE, "kubernetes.io/service-name": pool},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": f"p-{address}"},
            }
            for address in addresses
        ],
    }


async def create_slice(client: ApiClient, namespace: str, *addresses: str) -> None:
    await DiscoveryV1Api(client).create_namespaced_endpoint_slice(namespace, build_slice(*addresses))


async def replace_slice(client: ApiClient, namespace: str, *addresses: str) -> None:
    await DiscoveryV1Api(client).replace_namespaced_endpoint_slice("chat-1", namespace, build_slice(*addresses))


async def create_key(client: ApiClient, namespace: str, number: int = 0) -> None:
    await CoreV1Api(client).create_namespaced_secret(namespace, build_key_secret(stored_key(number), namespace))


async def delete_key(client: ApiClient, namespace: str, number: int = 0) -> None:
    await CoreV1Api(client).delete_namespaced_secret(stored_key(number).name, namespace)


async def create_model(client: ApiClient, namespace: str, name: str = "qwen") -> None:
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "LLMModel",
        "metadata": {"name": name},
        "spec": {"source": {"uri": "hf://org/name"}},
    }
    await CustomObjectsApi(client).create_namespaced_custom_object(*_KIND, namespace, "llmmodels", body)


async def share_model(client: ApiClient, namespace: str, *tenants: str, name: str = "qwen") -> None:
    await CustomObjectsApi(client).patch_namespaced_custom_object(
        *_KIND,
        namespace,
        "llmmodels",
        name,
        {"spec": {"sharedWith": list(tenants)}},
        _content_type="application/merge-patch+json",
    )


async def create_tenant(client: ApiClient, name: str, namespaces: list[str], allow: list[str]) -> None:
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {"namespaces": namespaces, "models": {"allow": allow}},
    }
    await CustomObjectsApi(client).create_cluster_custom_object(*_KIND, "tenants", body)


async def delete_tenant(client: ApiClient, name: str) -> None:
    await CustomObjectsApi(client).delete_cluster_custom_object(*_KIND, "tenants", name)
