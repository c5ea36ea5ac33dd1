"""What all builders of this folder are given, and the metadata of what they make."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.api import Tenant
from llmos.api.names import COMPONENT_ISOLATION, LABEL_COMPONENT, LABEL_TENANT
from llmos_operator.manifests.common import Manifest, build_metadata, build_owner
from llmos_operator.planning.settings import Settings


@dataclass(frozen=True)
class TenantNamespace:
    """One namespace of a tenant."""

    tenant: Tenant
    name: str
    uid: str
    """Of the Namespace: what is applied to it must not make it anew after it was deleted."""
    settings: Settings


def build_isolation_metadata(namespace: TenantNamespace, name: str) -> Manifest:
    """Return the metadata of an object that is ours; it goes with the Tenant."""
    tenant = namespace.tenant
    labels = {LABEL_TENANT: tenant.metadata.name, LABEL_COMPONENT: COMPONENT_ISOLATION}
    return build_metadata(name, namespace.name, labels=labels, owner=build_owner(tenant.kind, tenant.metadata))
