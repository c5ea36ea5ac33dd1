"""The objects of the end-to-end scenarios. Pure."""

from __future__ import annotations

from typing import Any, Final

from bench.operator.objects import MODEL
from e2e.cluster.objects import build_kwok_node
from llmos.api.names import (
    API_VERSION,
    COMPONENT_REPLICA,
    GATE_QUOTA,
    LABEL_COMPONENT,
    LABEL_GANG_SIZE,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
    LABEL_REVISION,
    MANAGED_BY,
)
from llmos_operator.manifests.common import build_container_security, build_pod_security

Object = dict[str, Any]

BASELINE_CLASS: Final = "quota-gpu"
NODE_INDEX: Final = 900
NO_SCHEDULER: Final = "nobody"
"""Name of a scheduler that there is not: such pods are admitted and go no further."""


def build_node(accelerators: int) -> Object:
    """The one large node of the baseline: Kueue's has none at all."""
    node = dict(build_kwok_node(NODE_INDEX))
    room = {**node["status"]["capacity"], "nvidia.com/gpu": str(accelerators), "pods": "1000"}
    node["metadata"] = {**node["metadata"], "labels": {**node["metadata"]["labels"], "nvidia.com/gpu.product": "Quota"}}
    node["status"] = {"capacity": room, "allocatable": room}
    return node


def build_class() -> Object:
    """The class of that node."""
    spec = {
        "nodeSelector": {"nvidia.com/gpu.product": "Quota"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
        "memory": "80Gi",
        # The ResourceQuota behind the ledger bounds what waits, too, and Kueue's baseline has none; a class whose nodes
        # come on demand has none either.
        "autoprovisioned": True,
    }
    return _build("AcceleratorClass", BASELINE_CLASS, "", spec)


def build_pod(
    namespace: str,
    pool: str,
    replica: str,
    rank: int,
    class_name: str,
    gpus: int,
    priority: str,
    *,
    pods: int = 1,
    scheduler: str = "default-scheduler",
) -> Object:
    """One gated pod of a gang of `pods`. It serves nothing: no endpoint of a Service is written for it."""
    product = "Quota" if class_name == BASELINE_CLASS else "NVIDIA-H100-80GB-HBM3"
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_POOL: pool,
        LABEL_COMPONENT: COMPONENT_REPLICA,
        LABEL_REPLICA: replica,
        LABEL_RANK: str(rank),
        LABEL_REVISION: "x",
    }
    if pods > 1:
        labels[LABEL_GANG_SIZE] = str(pods)
    container = {
        "name": "engine",
        "image": "none",
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
        "securityContext": build_container_security(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": replica if not rank else f"{replica}-{rank}", "namespace": namespace, "labels": labels},
        "spec": {
            "containers": [container],
            "securityContext": build_pod_security(),
            "schedulerName": scheduler,
            "schedulingGates": [{"name": GATE_QUOTA}],
            "priorityClassName": priority,
            "automountServiceAccountToken": False,
            "nodeSelector": {"nvidia.com/gpu.product": product},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
        },
    }


def build_pool(namespace: str, name: str, class_name: str, gpus: int, replicas: int) -> Object:
    """A pool that is refused for an argument of its engine: it makes no pods, and keeps up to so many replicas."""
    spec = {
        "modelRef": {"name": MODEL},
        "engine": {"name": "simulator", "args": {"api-key": "refused"}},
        "accelerator": {"class": class_name, "count": gpus},
        "replicas": replicas,
    }
    return _build("InferencePool", name, namespace, spec)


def build_tenant(name: str, namespace: str, class_name: str, guaranteed: int) -> Object:
    """A Tenant of the only cohort."""
    # Without a borrow limit: there is no more to borrow than the limit of Kueue's baseline allows.
    quota = {"class": class_name, "guaranteed": guaranteed}
    spec = {"namespaces": [namespace], "cohort": "all", "quota": [quota], "priorityRange": {"min": 0, "max": 200}}
    return _build("Tenant", name, "", spec)


def _build(kind: str, name: str, namespace: str, spec: Object) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
