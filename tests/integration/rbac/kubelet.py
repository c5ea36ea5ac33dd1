"""Plays the kubelet on a control plane whose node is only an object: the scheduler binds pods to it, nothing runs.

Inspect steps leave their facts, datasets are prepared, fetch steps and training run until they are told to end,
replicas become ready, images of the host `registry.invalid` cannot be pulled, and whatever is deleted or has passed its
deadline ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from llmos.api import ModelArchitecture, ResolvedModel
from llmos.api.llmmodel import ResolvedAdapter
from llmos.api.names import (
    COMPONENT_FETCH,
    COMPONENT_INSPECT,
    COMPONENT_PREPARE,
    COMPONENT_SHARE,
    COMPONENT_TRAIN,
    CONTAINER_ENGINE,
    CONTAINER_SHARE,
    LABEL_COMPONENT,
)
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Conflict, NotFound
from llmos_operator.kube.resources import PODS

NODE: Final = "gpu-node"
CLASS: Final = "test-gpu-80gb"
"""What the operator makes of the node's product label."""
MISSING_IMAGE: Final = "registry.invalid/missing:1"
FACTS: Final = ResolvedModel(
    digest="sha256:0",
    architecture="LlamaForCausalLM",
    parameters=1,
    layers=1,
    kv_heads=1,
    head_dim=1,
    vocabulary=1,
    max_context=2048,
    weights_bytes=1,
    dtype="bfloat16",
    config=ModelArchitecture.model_validate(
        {
            "name": "LlamaForCausalLM",
            "family": "llama",
            "layers": 1,
            "hiddenSize": 8,
            "attentionHeads": 1,
            "keyValueHeads": 1,
            "headDim": 8,
            "vocabularySize": 10,
            "maxContextTokens": 2048,
            "cache": [{"kind": "full", "layers": 1, "heads": 1, "keyDim": 8, "valueDim": 8}],
            "weights": [{"part": "mlp", "parameters": 100, "bytes": 200, "split": "tensor"}],
        }
    ),
)
PREPARED: Final = {"outcome": "prepared", "report": {"digest": "sha256:d"}}
RESULT: Final = {"outcome": "complete", "output": {"digest": "sha256:1", "kind": "adapter"}}
ADAPTER_FACTS: Final = FACTS.model_copy(
    update={"digest": "sha256:" + "0" * 64, "adapter": ResolvedAdapter(rank=8), "architecture": "LoRA"}
)
_POLL_S: Final = 0.1
_LONG_AGO: Final = timedelta(hours=1)

Status = dict[str, Any]


async def add_node(kube: AioKube) -> None:
    """Add a node with eight GPUs that is ready for pods."""
    labels = {"nvidia.com/gpu.product": "Test-GPU-80GB", "nvidia.com/gpu.memory": "81920", "nvidia.com/gpu.count": "8"}
    identity = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    resources = {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "8"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", **_times()}
    status = {"capacity": resources, "allocatable": resources, "conditions": [ready]}
    node: Object = {**identity, "metadata": {"name": NODE, "labels": labels}}
    await kube.apply(node, field_manager="kubelet")
    await kube.apply_status({**identity, "status": status})
    # Admission taints a new node until a controller finds it ready; this one need not wait for that.
    await kube.apply({**node, "spec": {"taints": []}}, field_manager="kubelet")


def _times() -> dict[str, str]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"lastHeartbeatTime": now, "lastTransitionTime": now}


class Kubelet:
    """Looks after the pods of one namespace; `may_fetch` lets the fetch steps end."""

    def __init__(self, kube: AioKube, namespace: str) -> None:
        self.may_fetch = asyncio.Event()
        self.may_train = asyncio.Event()
        self._kube, self._namespace = kube, namespace
        self._written: dict[str, Status] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            for pod in await self._kube.list(PODS, namespace=self._namespace):
                if pod["spec"].get("nodeName"):
                    # Whoever else deletes or changes it: the next look shows what came of it.
                    with contextlib.suppress(NotFound, Conflict):
                        await self._look_after(pod)
            await asyncio.sleep(_POLL_S)

    async def _look_after(self, pod: Object) -> None:
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            await self._kube.delete(PODS, metadata["name"], self._namespace, grace_period_s=0)
            return
        status = self._build_status(pod)
        if self._written.get(metadata["uid"]) != status:
            identity = {"name": metadata["name"], "namespace": self._namespace}
            await self._kube.apply_status({"apiVersion": "v1", "kind": "Pod", "metadata": identity, "status": status})
            self._written[metadata["uid"]] = status

    def _build_status(self, pod: Object) -> Status:
        component = pod["metadata"]["labels"].get(LABEL_COMPONENT)
        if pod["spec"].get("activeDeadlineSeconds"):
            return {"phase": "Failed", "reason": "DeadlineExceeded"}
        if component == COMPONENT_INSPECT:
            is_adapter = "--adapter" in pod["spec"]["containers"][0]["command"]
            facts = ADAPTER_FACTS if is_adapter else FACTS
            return _ended(component, facts.model_dump_json(by_alias=True, exclude_none=True))
        if component == COMPONENT_FETCH:
            return _ended(component, "") if self.may_fetch.is_set() else _running(component)
        if component in {COMPONENT_PREPARE, COMPONENT_TRAIN}:
            result = PREPARED if component == COMPONENT_PREPARE else RESULT
            ends = component == COMPONENT_PREPARE or self.may_train.is_set()
            return _ended(component, json.dumps(result)) if ends else _running(component)
        if component == COMPONENT_SHARE:
            return _running(CONTAINER_SHARE)
        engine = next(c for c in pod["spec"]["containers"] if c["name"] == CONTAINER_ENGINE)
        return _waiting(CONTAINER_ENGINE) if engine["image"] == MISSING_IMAGE else _running(CONTAINER_ENGINE)


def _ended(container: str, message: str) -> Status:
    return {"phase": "Succeeded", "containerStatuses": [_container(container, terminated=_end(message))]}


def _end(message: str) -> Status:
    return {"exitCode": 0, "reason": "Completed", "message": message}


def _running(container: str) -> Status:
    ready = {"type": "Ready", "status": "True"}
    return {"phase": "Running", "conditions": [ready], "containerStatuses": [_container(container, running={})]}


def _waiting(container: str) -> Status:
    started = (datetime.now(UTC) - _LONG_AGO).strftime("%Y-%m-%dT%H:00:00Z")
    waiting = {"reason": "ImagePullBackOff", "message": "no such host"}
    return {"phase": "Pending", "startTime": started, "containerStatuses": [_container(container, waiting=waiting)]}


def _container(name: str, **state: Status) -> Status:
    is_ready = "running" in state
    return {"name": name, "image": "", "imageID": "", "ready": is_ready, "restartCount": 0, "state": state}
