"""Templates and models that the manifest tests build from."""

from __future__ import annotations

from typing import Any

from llmos.api import AcceleratorClass, InferencePool, LLMModel, PoolPlan
from llmos_operator.manifests.replica import ReplicaTemplate
from llmos_operator.planning.models import compute_source_hash
from llmos_operator.planning.settings import Settings
from tests.operator.reconcilers.world import RESOLVED, build_model, build_pool

UID = "00000000-0000-0000-0000-00000000000a"
SECRET = {"uri": "hf://org/name@main", "secretRef": {"name": "hf-token"}}
SETTINGS = Settings(
    worker_image="llmos-worker:1",
    worker_lite_image="llmos-worker-lite:1",
    image_pull_secrets=("registry",),
    fetch_env=(("HTTPS_PROXY", "http://proxy:3128"),),
    ca_bundle_config_map="ca",
)
PLAN = PoolPlan(
    tensor_parallel_size=2,
    max_model_len=8192,
    gpu_memory_utilization=0.9,
    kv_cache_gib=1,
    container_memory_gib=3.25,
)


def model(**spec: Any) -> LLMModel:
    body = build_model(**spec)
    body["metadata"]["uid"] = UID
    parsed = LLMModel.model_validate(body)
    facts = {"resolved": RESOLVED, "sourceHash": compute_source_hash(parsed.spec)}
    return LLMModel.model_validate({**body, "status": facts})


def pool(**spec: Any) -> InferencePool:
    body = build_pool(**({"engine": {"name": "vllm"}} | spec))
    body["metadata"]["uid"] = UID
    return InferencePool.model_validate(body)


def accelerator(**spec: Any) -> AcceleratorClass:
    placed = {
        "memory": "80Gi",
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        **spec,
    }
    return AcceleratorClass.model_validate({"metadata": {"name": "h100"}, "spec": placed})


ON_GPU: dict[str, Any] = {"accelerator": {"class": "h100", "count": 2}}


def template(
    *,
    of: LLMModel | None = None,
    on: AcceleratorClass | None = None,
    plan: PoolPlan = PLAN,
    settings: Settings = SETTINGS,
    **spec: Any,
) -> ReplicaTemplate:
    return ReplicaTemplate(pool(**spec), of or model(), on, plan, settings)


def gang_template(pods: int = 2, of: LLMModel | None = None, **spec: Any) -> ReplicaTemplate:
    """A replica of eight accelerators in each of so many pods."""
    plan = PLAN.model_copy(update={"tensor_parallel_size": 8, "pipeline_parallel_size": pods, "pods": pods})
    wanted = {"accelerator": {"class": "h100", "count": 8 * pods}}
    return template(of=of, on=accelerator(), plan=plan, **(wanted | spec))


TEMPLATES: dict[str, ReplicaTemplate] = {
    "vllm on the processor": template(),
    "vllm on accelerators": template(on=accelerator(), **ON_GPU),
    "vllm with a claim": template(of=model(storage={"mode": "claim", "size": "5Gi"}), on=accelerator(), **ON_GPU),
    "vllm with credentials": template(of=model(source=SECRET)),
    "vllm with files that lie in a claim": template(of=model(source={"uri": "pvc://weights/a/b"})),
    "vllm with trusted code": template(of=model(trustRemoteCode={"revision": "a" * 40})),
    "vllm as a user tunes it": template(
        engine={
            "name": "vllm",
            "image": "registry/own:1",
            "args": {"max-num-seqs": 64, "enable-prefix-caching": True, "enforce-eager": False},
            "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}, {"name": "HF_HUB_OFFLINE", "value": "0"}],
        },
        priorityClassName="important",
        drain={"timeoutSeconds": 600},
    ),
    "vllm with the least settings": template(settings=Settings()),
    "vllm over two nodes": gang_template(),
    "the simulator": template(engine={"name": "simulator"}),
    "the simulator on accelerators": template(engine={"name": "simulator"}, on=accelerator(), **ON_GPU),
}
MODELS: dict[str, LLMModel] = {
    "ephemeral": model(),
    "on a claim": model(storage={"mode": "claim", "size": "5Gi", "storageClassName": "fast"}),
    "on a claim to keep": model(storage={"mode": "claim", "keep": True, "accessMode": "ReadWriteMany"}),
    "with credentials": model(source=SECRET),
    "from a claim": model(source={"uri": "pvc://weights/a"}),
    "with trusted code": model(trustRemoteCode={"revision": "a" * 40}),
}
