"""Tenants, classes, pools, nodes and pods as the quota observes them, for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from llmos.api import AcceleratorClass, InferencePool, Tenant
from llmos.api.names import (
    ANNOTATION_ACCELERATOR_CLASS,
    COMPONENT_TRAIN,
    GATE_QUOTA,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
)
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.quota import QuotaRules, Snapshot
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation
from llmos_operator.planning.quota_view import Observed, build_snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
H100 = "nvidia-h100"
GPU = "nvidia.com/gpu"


def tenant(name: str, *namespaces: str, age_s: int = 0, **spec: Any) -> Tenant:
    created = (NOW - timedelta(seconds=age_s)).isoformat()
    return Tenant.model_validate(
        {"metadata": {"name": name, "creationTimestamp": created}, "spec": {"namespaces": list(namespaces), **spec}}
    )


def accelerator(name: str = H100, **spec: Any) -> AcceleratorClass:
    return AcceleratorClass.model_validate({"metadata": {"name": name}, "spec": {"memory": "80Gi", **spec}})


def pool(name: str = "chat", *, namespace: str = "team-a", count: int = 2, **spec: Any) -> InferencePool:
    size = {} if spec else {"replicas": 1}
    return InferencePool.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"modelRef": {"name": "m"}, "accelerator": {"class": H100, "count": count}, **size, **spec},
        }
    )


def node(name: str, gpus: int = 8, *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
        "status": {"allocatable": {GPU: str(gpus)}},
    }


def pod(
    replica: str,
    *,
    of: str = "chat",
    namespace: str = "team-a",
    rank: int = 0,
    on: str = "",
    gated: bool = False,
    record: QuotaRecord | None = None,
    age_s: float = 10,
    phase: str = "",
    priority: int = 0,
    ending: bool = False,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": f"{replica}-{rank}",
        "namespace": namespace,
        "labels": {LABEL_POOL: of, LABEL_REPLICA: replica, LABEL_RANK: str(rank)},
        "annotations": build_record_annotation(record) if record else {},
        "creationTimestamp": (NOW - timedelta(seconds=age_s)).isoformat(),
    }
    if ending:
        metadata["deletionTimestamp"] = NOW.isoformat()
    spec: dict[str, Any] = {"containers": [], "priority": priority}
    spec |= {"nodeName": on} if on else {}
    spec |= {"schedulingGates": [{"name": GATE_QUOTA}]} if gated else {}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase or ("Running" if on else "Pending")}}


def attempt(name: str, **more: Any) -> dict[str, Any]:
    """One pod of an attempt of a job, for two accelerators."""
    made = pod(name, **more)
    made["metadata"]["labels"] |= {LABEL_JOB: "tune", LABEL_COMPONENT: COMPONENT_TRAIN}
    del made["metadata"]["labels"][LABEL_POOL]
    made["metadata"]["annotations"][ANNOTATION_ACCELERATOR_CLASS] = H100
    made["spec"]["containers"] = [{"resources": {"limits": {GPU: "2"}}}]
    return made


def stranger(on: str, gpus: int, phase: str = "Running") -> dict[str, Any]:
    return {
        "metadata": {"name": "notebook", "namespace": "elsewhere"},
        "spec": {"nodeName": on, "containers": [{"resources": {"limits": {GPU: str(gpus)}}}, {}]},
        "status": {"phase": phase},
    }


def snapshot(
    *pods: dict[str, Any],
    tenants: tuple[Tenant, ...] = (tenant("a", "team-a", quota=[{"class": H100, "guaranteed": 4}]),),
    pools: tuple[InferencePool, ...] = (pool(),),
    nodes: tuple[dict[str, Any], ...] = (node("n1"),),
    classes: tuple[AcceleratorClass, ...] = (accelerator(),),
    untenanted: dict[str, int] | None = None,
    unreadable: dict[str, str] | None = None,
) -> Snapshot:
    observed = Observed(NOW, Tenants(tenants, unreadable or {}), classes, pools, nodes, pods)
    return build_snapshot(observed, rules=QuotaRules(), untenanted=untenanted)
