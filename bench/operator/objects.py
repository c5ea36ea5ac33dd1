"""The objects that the scenarios create. Pure.

The model is written as already inspected: what is measured is the operator, and neither a download nor the start of an
inspect pod on a node that does not exist.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e2e.cluster.objects import build_kwok_node
from llmos.api import LLMModel, LLMModelSpec, ResolvedModel
from llmos.api.architecture_config import parse_architecture
from llmos.api.names import API_VERSION
from llmos_operator.planning.models import compute_source_hash

Object = dict[str, Any]

MODEL = "qwen2-5-7b"
ACCELERATOR = "simulated-h100"
NODES = 20
GPUS_PER_NODE = 240
_CONFIG = Path(__file__).parents[1] / "memory/data/model_configs/Qwen--Qwen2.5-7B-Instruct.json"
_PRODUCT = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


def build_namespace(name: str) -> Object:
    """A namespace of one scenario."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def build_nodes() -> list[Object]:
    """Simulated nodes with room for every pod: one GPU for each pod that a node may hold."""
    nodes = [dict(build_kwok_node(index)) for index in range(NODES)]
    for node in nodes:
        room = {**node["status"]["capacity"], "nvidia.com/gpu": str(GPUS_PER_NODE)}
        node["status"] = {"capacity": room, "allocatable": room}
    return nodes


def build_accelerator() -> Object:
    """The class whose pods may run on simulated nodes."""
    return {
        "apiVersion": API_VERSION,
        "kind": "AcceleratorClass",
        "metadata": {"name": ACCELERATOR},
        "spec": {
            "nodeSelector": _PRODUCT,
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
            "memory": "80Gi",
        },
    }


def build_model(namespace: str) -> tuple[Object, Object]:
    """An LLMModel and its status after inspection."""
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "LLMModel",
        "metadata": {"name": MODEL, "namespace": namespace},
        "spec": {"source": {"uri": "hf://Qwen/Qwen2.5-7B-Instruct@main"}},
    }
    architecture = parse_architecture(json.loads(_CONFIG.read_text()))
    resolved = ResolvedModel(
        digest="sha256:0",
        architecture=architecture.name,
        parameters=7_615_616_512,
        layers=28,
        kv_heads=4,
        head_dim=128,
        vocabulary=152_064,
        max_context=32_768,
        weights_bytes=15_231_233_024,
        dtype="bfloat16",
        config=architecture,
    )
    source_hash = compute_source_hash(LLMModelSpec.model_validate(manifest["spec"]))
    status = {"sourceHash": source_hash, "resolved": resolved.to_manifest(), "conditions": []}
    LLMModel.model_validate({**manifest, "status": status})
    return manifest, {**manifest, "status": status}


def build_pool(namespace: str, name: str, *, replicas: int = 0, drain_s: int = 120) -> Object:
    """A pool of simulator replicas on simulated nodes."""
    return {
        "apiVersion": API_VERSION,
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "modelRef": {"name": MODEL},
            "engine": {"name": "simulator"},
            "accelerator": {"class": ACCELERATOR},
            "contextLength": 8192,
            "replicas": replicas,
            "drain": {"timeoutSeconds": drain_s},
        },
    }


def build_names(count: int, prefix: str = "pool") -> list[str]:
    """Names of so many pools."""
    return [f"{prefix}-{index:05d}" for index in range(count)]
