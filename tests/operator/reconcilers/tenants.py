"""Tenants, and what a cluster has around them, for tests of what keeps them apart."""

from __future__ import annotations

from typing import Any


def build_tenant(name: str, *namespaces: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"namespaces": list(namespaces), **spec},
    }


def build_namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"made-by": "somebody"}}}


def build_account(namespace: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}


def backstop() -> list[dict[str, Any]]:
    """The admission policy of the chart, as far as anybody looks at it."""
    group = "admissionregistration.k8s.io/v1"
    policy = {"apiVersion": group, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "llmos-tenant-pods"}}
    return [
        {**policy, "spec": {"failurePolicy": "Fail"}},
        {**policy, "kind": "ValidatingAdmissionPolicyBinding", "spec": {"validationActions": ["Deny"]}},
    ]


def surroundings(*namespaces: str) -> list[dict[str, Any]]:
    """The backstop, and namespaces with their default account."""
    return [*backstop(), *map(build_namespace, namespaces), *map(build_account, namespaces)]
