"""What the operator makes in every namespace of a tenant, so that no tenant can starve, read or reach another.

    namespace  labels: whose it is, and the Pod Security level `restricted`
    network    closed in both directions, and one NetworkPolicy for each opening that serving needs
    limits     LimitRange (a request for pods that name none) and ResourceQuota (the backstop of the quota ledger)
    access     no token in pods of the default account; RoleBindings of the tenant's groups

What belongs to others (the Namespace, its default ServiceAccount) is applied with a few fields only, which are given
back when the namespace leaves; everything else is ours and deleted then.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.isolation.access import build_account, build_account_release, build_role_bindings
from llmos_operator.manifests.isolation.limits import build_limit_range, build_resource_quota
from llmos_operator.manifests.isolation.namespace import build_namespace, build_namespace_release
from llmos_operator.manifests.isolation.network import build_network_policies
from llmos_operator.manifests.isolation.tenant_namespace import TenantNamespace

__all__ = ["TenantNamespace", "build_account_release", "build_isolation", "build_namespace_release"]


def build_isolation(namespace: TenantNamespace, accelerators: Mapping[str, int]) -> list[Manifest]:
    """Return everything for one namespace.

    Args:
        namespace: whose, and under which settings.
        accelerators: most accelerators by resource name, `planning.isolation.plan_backstop`.
    """
    return [
        build_namespace(namespace),
        *build_network_policies(namespace),
        build_account(namespace),
        build_limit_range(namespace),
        build_resource_quota(namespace, accelerators),
        *build_role_bindings(namespace),
    ]
