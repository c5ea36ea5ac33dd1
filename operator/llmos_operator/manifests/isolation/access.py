"""Who may do what in a tenant's namespace.

The rights themselves are two ClusterRoles of the chart. The operator only binds them to the tenant's groups, namespace
by namespace: so it needs the right to bind these two, and none to grant rights that it does not have.
"""

from __future__ import annotations

from llmos.api.names import ROLE_TENANT_ADMIN, ROLE_TENANT_USER, tenant_group
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.isolation.tenant_namespace import TenantNamespace, build_isolation_metadata

DEFAULT_ACCOUNT = "default"
_RBAC = "rbac.authorization.k8s.io"


def build_account(namespace: TenantNamespace) -> Manifest:
    """Return the one field of the default ServiceAccount that is ours: pods get no token unless they ask for one."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": DEFAULT_ACCOUNT, "namespace": namespace.name},
        "automountServiceAccountToken": False,
    }


def build_account_release(namespace: str) -> Manifest:
    """Return the default ServiceAccount without that field: applied, it gives the field back."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": DEFAULT_ACCOUNT, "namespace": namespace},
    }


def build_role_bindings(namespace: TenantNamespace) -> list[Manifest]:
    """Return the bindings of the tenant's groups."""
    return [
        _build_binding(namespace, role, tenant_group(namespace.tenant.metadata.name, group))
        for role, group in ((ROLE_TENANT_ADMIN, "admin"), (ROLE_TENANT_USER, "user"))
    ]


def _build_binding(namespace: TenantNamespace, role: str, group: str) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": build_isolation_metadata(namespace, f"llmos-{role}"),
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": f"{namespace.settings.chart_name}-{role}"},
        "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": group}],
    }
