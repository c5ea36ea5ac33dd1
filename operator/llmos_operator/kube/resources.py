"""The kinds that the operator touches: where the API server serves each of them.

RBAC in the chart mirrors this list: a kind that is missing here is a kind that the operator cannot touch by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmos.api import names


@dataclass(frozen=True)
class Resource:
    """One kind and its place in the API: `group/version`, the plural in the URL, whether it lives in a namespace."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """What manifests say in `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Where all objects of the kind are served, whatever their namespace."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version}/{self.plural}"


PODS: Final = Resource("", "v1", "pods", "Pod", namespaced=True)
SERVICES: Final = Resource("", "v1", "services", "Service", namespaced=True)
PERSISTENT_VOLUME_CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", namespaced=True)
NODES: Final = Resource("", "v1", "nodes", "Node", namespaced=False)
JOBS: Final = Resource("batch", "v1", "jobs", "Job", namespaced=True)
EVENTS: Final = Resource("events.k8s.io", "v1", "events", "Event", namespaced=True)
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease", namespaced=True)
LLM_MODELS: Final = Resource(names.GROUP, names.VERSION, "llmmodels", "LLMModel", namespaced=True)
INFERENCE_POOLS: Final = Resource(names.GROUP, names.VERSION, "inferencepools", "InferencePool", namespaced=True)
ACCELERATOR_CLASSES: Final = Resource(
    names.GROUP, names.VERSION, "acceleratorclasses", "AcceleratorClass", namespaced=False
)
TENANTS: Final = Resource(names.GROUP, names.VERSION, "tenants", "Tenant", namespaced=False)
FINE_TUNE_JOBS: Final = Resource(names.GROUP, names.VERSION, "finetunejobs", "FineTuneJob", namespaced=True)
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap", namespaced=True)
PERSISTENT_VOLUMES: Final = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
SECRETS: Final = Resource("", "v1", "secrets", "Secret", namespaced=True)
"""Of API keys, in the operator's own namespace: a Tenant does not go before its keys."""
# What keeps tenants apart.
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount", namespaced=True)
LIMIT_RANGES: Final = Resource("", "v1", "limitranges", "LimitRange", namespaced=True)
RESOURCE_QUOTAS: Final = Resource("", "v1", "resourcequotas", "ResourceQuota", namespaced=True)
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", namespaced=True)
ROLE_BINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", namespaced=True)
ADMISSION_POLICIES: Final = Resource(
    "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False
)
ADMISSION_BINDINGS: Final = Resource(
    "admissionregistration.k8s.io",
    "v1",
    "validatingadmissionpolicybindings",
    "ValidatingAdmissionPolicyBinding",
    namespaced=False,
)

# Of Kueue, where it admits replicas. Which version is served, its CRD says.
CUSTOM_RESOURCE_DEFINITIONS: Final = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
LOCAL_QUEUES: Final = Resource("kueue.x-k8s.io", "v1beta2", "localqueues", "LocalQueue", namespaced=True)
WORKLOADS: Final = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload", namespaced=True)
OF_KUEUE: Final = (CUSTOM_RESOURCE_DEFINITIONS, LOCAL_QUEUES, WORKLOADS)

ALL: Final = (
    PODS,
    SERVICES,
    PERSISTENT_VOLUME_CLAIMS,
    NODES,
    JOBS,
    EVENTS,
    LEASES,
    LLM_MODELS,
    INFERENCE_POOLS,
    ACCELERATOR_CLASSES,
    TENANTS,
    FINE_TUNE_JOBS,
    CONFIG_MAPS,
    PERSISTENT_VOLUMES,
    SECRETS,
    NAMESPACES,
    SERVICE_ACCOUNTS,
    LIMIT_RANGES,
    RESOURCE_QUOTAS,
    NETWORK_POLICIES,
    ROLE_BINDINGS,
    ADMISSION_POLICIES,
    ADMISSION_BINDINGS,
)

_BY_TYPE: Final = {(resource.api_version, resource.kind): resource for resource in (*ALL, *OF_KUEUE)}


def resource_of(manifest: Mapping[str, Any]) -> Resource:
    """Return the resource that a manifest's `apiVersion` and `kind` name.

    Raises:
        LookupError: the operator does not handle that kind.
    """
    api_version, kind = manifest.get("apiVersion"), manifest.get("kind")
    try:
        return _BY_TYPE[(str(api_version), str(kind))]
    except KeyError:
        raise LookupError(
            f"no resource is known for {api_version!r}, {kind!r}. Add it to llmos_operator.kube.resources."
        ) from None
