"""A small cluster with tenants, pools on accelerators, and the pass that gives them out, against a fake API server."""

from __future__ import annotations

from typing import Any

from llmos.api.names import GATE_QUOTA
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, TENANTS
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.keys import Key
from llmos_operator.reconcilers.quota_board import QUOTA
from tests.operator.reconcilers.world import NAMESPACE, World, build_model

GPU = "nvidia.com/gpu"
CLASS = "h100"


def tenant(name: str, *namespaces: str, guaranteed: int = 2, cohort: str = "all", **quota: int) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {
            "namespaces": list(namespaces),
            "cohort": cohort,
            "quota": [{"class": CLASS, "guaranteed": guaranteed, **quota}],
        },
    }


def node(name: str = "n1", gpus: int = 4) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"gpu": "h100"}},
        "spec": {},
        "status": {"allocatable": {GPU: str(gpus)}, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def accelerator() -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": CLASS},
        "spec": {"memory": "80Gi", "nodeSelector": {"gpu": "h100"}},
        "status": {"observedGeneration": 1, "largestNode": 4, "capacity": 4, "nodes": 1},
    }


def gpu_pool(name: str, namespace: str = NAMESPACE, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "modelRef": {"name": "smollm2"},
            "engine": {"name": "simulator"},
            "accelerator": {"class": CLASS, "count": 1},
            "replicas": replicas,
            **spec,
        },
    }


class Cluster(World):
    """A world whose pools and quota are reconciled in turns, and whose scheduler obeys gates and pins."""

    def __init__(self, *objects: dict[str, Any], settings: Settings | None = None) -> None:
        models = [build_model() | {"metadata": {"name": "smollm2", "namespace": ns}} for ns in (NAMESPACE, "team-b")]
        super().__init__(node(), accelerator(), *models, *objects, settings=settings)
        self.told: list[Key] = []
        self.context.quota.on_news = self.told.append

    async def turn(self) -> None:
        """Everything that is due: pools, the quota, then whoever has news."""
        for item in self.kube.all(INFERENCE_POOLS):
            await self.reconcile("InferencePool", item["metadata"]["name"], item["metadata"]["namespace"])
        await self.quota()
        while self.told:
            key = self.told.pop()
            await self.reconcile(*key[::2], key.namespace)

    async def quota(self) -> None:
        self.pass_time(2)
        await self.reconcile(*QUOTA)

    async def settle(self, turns: int = 6) -> None:
        for _ in range(turns):
            await self.turn()
            self.bind()

    def bind(self) -> None:
        """Pods without a gate start on the node that they are pinned to."""
        for pod in self.pods():
            if self.is_gated(pod) or pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
                continue
            place = self.pin(pod) or "n1"
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            self.kube.put({**pod, "spec": {**pod["spec"], "nodeName": place}})
            self.kube.set_status(
                PODS,
                name,
                namespace,
                phase="Running",
                startTime=self.stamp(),
                podIP="10.0.0.1",
                conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": self.stamp()}],
                containerStatuses=[{"name": "engine", "state": {"running": {"startedAt": self.stamp()}}}],
            )

    def end_pods(self) -> None:
        for pod in self.pods():
            if "deletionTimestamp" in pod["metadata"]:
                self.kube.finish_deletion(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])

    @staticmethod
    def is_gated(pod: dict[str, Any]) -> bool:
        return {"name": GATE_QUOTA} in pod["spec"].get("schedulingGates", [])

    @staticmethod
    def pin(pod: dict[str, Any]) -> str:
        affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
        terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
        return terms[0]["matchFields"][0]["values"][0] if terms and "matchFields" in terms[0] else ""

    def held(self, namespace: str) -> list[str]:
        """Names of pods that hold an accelerator."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if pod["metadata"]["namespace"] == namespace and not self.is_gated(pod)
        ]

    def status(self, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        return self.kube.stored(INFERENCE_POOLS, namespace, name)

    def tenant_status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.kube.stored(TENANTS, "", name)["status"]
        return status
