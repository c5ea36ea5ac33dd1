"""Manifests as a user would write them, and short words for what stands in a status."""

from __future__ import annotations

from typing import Any

from e2e.support.api import Api, Object
from e2e.support.removal import E2E_LABEL
from e2e.support.waiting import eventually
from llmos.api.names import COMPONENT_REPLICA, LABEL_COMPONENT, LABEL_POOL

GPU_RESOURCE = "nvidia.com/gpu"
PRETEND_CLASS = "llmos-pretend-80gb"
"""AcceleratorClass that the operator makes for the pretended GPUs of the cluster's real node."""
KWOK_CLASS = "nvidia-h100-80gb-hbm3"
"""The same for the simulated nodes."""


def build_namespace(name: str) -> Object:
    """A namespace that enforces the strictest Pod Security level, so that every story proves our pods pass it."""
    labels = {E2E_LABEL: "true", "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def build_model(namespace: str, uri: str, *, name: str = "tiny", secret_name: str = "", **storage: Any) -> Object:
    """An LLMModel; `storage` are fields of spec.storage."""
    spec: Object = {"source": {"uri": uri}, "storage": storage or {"size": "1Gi"}}
    if secret_name:
        spec["source"]["secretRef"] = {"name": secret_name}
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def build_adapter(
    namespace: str, uri: str, *, name: str, base: str = "tiny", attach_to: tuple[str, ...] = ()
) -> Object:
    """An LLMModel that is a LoRA adapter."""
    model = build_model(namespace, uri, name=name)
    adapter = {"baseModelRef": {"name": base}, "attachTo": list(attach_to)}
    return {**model, "spec": {**model["spec"], "adapter": adapter}}


def build_pool(
    namespace: str,
    *,
    name: str = "pool",
    model: str = "tiny",
    accelerator: str = "cpu",
    count: int = 1,
    replicas: int = 1,
    engine: str = "simulator",
    image: str = "",
    args: Object | None = None,
    **spec: Any,
) -> Object:
    """An InferencePool on the simulator; `spec` are further fields of its spec. With `scaling` it has no `replicas`."""
    if "scaling" not in spec:
        spec["replicas"] = replicas
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "modelRef": {"name": model},
            "engine": {"name": engine, "args": args or {}} | ({"image": image} if image else {}),
            "accelerator": {"class": accelerator, "count": count},
            **spec,
        },
    }


def pool_selector(name: str) -> str:
    """Label selector of a pool's pods."""
    return f"{LABEL_POOL}={name},{LABEL_COMPONENT}={COMPONENT_REPLICA}"


def read_condition(thing: Object | None, kind: str = "Ready") -> Object:
    """A condition of an object; empty as long as there is none, or as it speaks about an older spec."""
    if thing is None:
        return {}
    conditions: list[Object] = thing.get("status", {}).get("conditions", [])
    found = next((condition for condition in conditions if condition["type"] == kind), {})
    return found if found.get("observedGeneration") == thing["metadata"]["generation"] else {}


def is_ready(thing: Object | None) -> bool:
    """Whether the Ready condition holds for the present spec."""
    return read_condition(thing).get("status") == "True"


def is_active(pod: Object) -> bool:
    """Whether a pod runs or may run: it is not finished."""
    return pod.get("status", {}).get("phase") not in {"Failed", "Succeeded"}


def count_gpus_held(pods: list[Object]) -> int:
    """GPUs that pods hold: the scheduler counts those of every unfinished pod that is bound to a node."""
    return sum(
        int(container.get("resources", {}).get("limits", {}).get(GPU_RESOURCE, 0))
        for pod in pods
        if is_active(pod) and pod["spec"].get("nodeName")
        for container in pod["spec"]["containers"]
    )


async def wait_ready(api: Api, thing: Object, *, timeout_s: float = 120.0) -> Object:
    """Wait until an object says that it is ready, and return it."""
    kind, name, namespace = thing["kind"], thing["metadata"]["name"], thing["metadata"]["namespace"]
    found = await eventually(
        f"{kind} {name} is ready", lambda: api.get(kind, name, namespace), is_ready, timeout_s=timeout_s
    )
    assert found is not None
    return found
