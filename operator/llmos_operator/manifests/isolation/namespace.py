"""The labels of a tenant's Namespace: whose it is, and the Pod Security level that the API server enforces there.

Only these labels are ours; whoever made the Namespace keeps all others.
"""

from __future__ import annotations

from typing import Final

from llmos.api.names import LABEL_TENANT
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.isolation.tenant_namespace import TenantNamespace

POD_SECURITY_LEVEL: Final = "restricted"
POD_SECURITY_VERSION: Final = "v1.30"
"""Pinned to the oldest Kubernetes that the chart supports: an upgrade of the cluster changes nothing by itself."""


def build_namespace(namespace: TenantNamespace) -> Manifest:
    """Return the labels; with the uid, so that a Namespace that was deleted is not made anew."""
    labels = {LABEL_TENANT: namespace.tenant.metadata.name}
    for mode in ("enforce", "audit", "warn"):
        labels[f"pod-security.kubernetes.io/{mode}"] = POD_SECURITY_LEVEL
        labels[f"pod-security.kubernetes.io/{mode}-version"] = POD_SECURITY_VERSION
    manifest = build_namespace_release(namespace.name, namespace.uid)
    return {**manifest, "metadata": {**manifest["metadata"], "labels": labels}}


def build_namespace_release(name: str, uid: str) -> Manifest:
    """Return the Namespace without them: applied, it gives the labels back."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": uid}}
