"""LimitRange and ResourceQuota: what holds in a tenant's namespace without the operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmos.api.names import GROUP
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.isolation.tenant_namespace import TenantNamespace, build_isolation_metadata
from llmos_operator.planning.isolation import BACKSTOP_QUOTA, STORAGE_RESOURCES

MOST_OBJECTS: Final = {
    f"count/llmmodels.{GROUP}": "500",
    f"count/inferencepools.{GROUP}": "200",
    f"count/finetunejobs.{GROUP}": "200",
}
"""Every object of ours costs the operator memory and time: no tenant may make them without end."""
DEFAULT_REQUEST: Final = {"cpu": "100m", "memory": "128Mi"}


def build_limit_range(namespace: TenantNamespace) -> Manifest:
    """Return a request for containers that name none: schedulers and quotas count a pod without requests as nothing.

    There is no default limit: an engine on an accelerator may use the memory that its node has.
    """
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": build_isolation_metadata(namespace, "llmos-requests"),
        "spec": {"limits": [{"type": "Container", "defaultRequest": DEFAULT_REQUEST}]},
    }


def build_resource_quota(namespace: TenantNamespace, accelerators: Mapping[str, int]) -> Manifest:
    """Return the backstop of the ledger: most accelerators by resource name, most objects of our kinds, and what claims
    may take if the Tenant says so."""
    hard = {f"requests.{resource}": str(count) for resource, count in sorted(accelerators.items())}
    storage = namespace.tenant.spec.storage
    if storage.size is not None:
        hard[STORAGE_RESOURCES[0]] = storage.size
    if storage.claims is not None:
        hard[STORAGE_RESOURCES[1]] = str(storage.claims)
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": build_isolation_metadata(namespace, BACKSTOP_QUOTA),
        "spec": {"hard": {**hard, **MOST_OBJECTS}},
    }
