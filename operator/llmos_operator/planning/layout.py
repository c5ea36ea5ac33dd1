"""From a pool, its model and its accelerator class to the layout of a replica, or to the reason why there can be none.

Everything that can be known before a pod exists is refused here, in the order in which a person would mend it: the
model, the
accelerator, the memory.
"""

from __future__ import annotations

from dataclasses import replace

from llmos.api import AcceleratorClass, InferencePool, LLMModel, PoolPlan, Reason
from llmos.api.inferencepool import find_argument
from llmos.api.names import CONDITION_READY, CPU_CLASS
from llmos_operator.planning.engine_profile import GIB, EngineSettings
from llmos_operator.planning.failures import Failure, build_failure, name_model
from llmos_operator.planning.gang_shape import refuse_claim, refuse_shape
from llmos_operator.planning.lora_memory import compute_host_adapters
from llmos_operator.planning.memory import plan_memory
from llmos_operator.planning.memory_cpu import plan_cpu_memory
from llmos_operator.planning.memory_estimate import Accelerators, DoesNotFit, MemoryPlan
from llmos_operator.planning.pools import Layout
from llmos_operator.planning.quantities import parse_quantity_bytes

SIMULATED_CONTEXT_TOKENS = 4096
_LARGEST_ARGUMENT = 1e9
_ENGINE_KEY_VARIABLE = "VLLM_API_KEY"


def plan_layout(
    pool: InferencePool, model: LLMModel | None, accelerator: AcceleratorClass | None, engine_version: str = ""
) -> Layout:
    """Return the plan of a replica, or why there is none."""
    wanted = _wanted(pool, accelerator)
    refusal = (
        _refuse_engine_key(pool)
        or _refuse_model(pool, model)
        or _refuse_class(pool, accelerator)
        or refuse_shape(wanted, accelerator)
        or refuse_claim(pool, model, wanted)
        or _refuse_adapters(pool, wanted)
    )
    if refusal is not None:
        return Layout(refusal=refusal)
    resolved = model.status.resolved if model is not None else None
    if pool.spec.engine.name == "simulator" and (resolved is None or resolved.config is None):
        return _simulated_layout(pool, wanted)
    if resolved is None or resolved.config is None:
        return Layout(
            refusal=build_failure(Reason.UnknownArchitecture, "The inspect step found no architecture facts.")
        )
    settings = _engine_settings(pool, engine_version)
    if settings.gpu_memory_utilization > 1:
        detail = (
            f"engine.args gpu-memory-utilization is {settings.gpu_memory_utilization:g}: it is a share of at most 1."
        )
        return Layout(refusal=build_failure(Reason.InvalidSpec, detail))
    # An image of the user's own may know more architectures than this release.
    allow_unknown = bool(pool.spec.engine.image) or pool.spec.engine.name == "simulator"
    if accelerator is None:
        outcome = plan_cpu_memory(
            resolved.config,
            weights_bytes=resolved.weights_bytes or None,
            settings=settings,
            context_length=pool.spec.context_length,
            allow_unknown_architecture=allow_unknown,
        )
    else:
        outcome = plan_memory(
            resolved.config,
            wanted,
            weights_bytes=resolved.weights_bytes or None,
            settings=settings,
            context_length=pool.spec.context_length,
            tensor_parallel_size=pool.spec.parallelism.tensor,
            pipeline_parallel_size=pool.spec.parallelism.pipeline,
            allow_unknown_architecture=allow_unknown,
        )
    if isinstance(outcome, DoesNotFit):
        return Layout(refusal=Failure(Reason(outcome.reason.value), outcome.message))
    return Layout(plan=_build_pool_plan(outcome))


def _refuse_engine_key(pool: InferencePool) -> Failure | None:
    """An engine that asks for a key of its own would refuse the gateway, whose callers' keys never reach it."""
    engine = pool.spec.engine
    names = [name for name in engine.args if find_argument(name, ("api-key",))]
    names += [variable.name for variable in engine.env if variable.name == _ENGINE_KEY_VARIABLE]
    if not names:
        return None
    detail = (
        f"spec.engine sets {names[0]}: the engine would answer nobody, for the gateway asks for keys and passes none "
        "on. Remove it; `llmos keys create` makes keys for callers."
    )
    return build_failure(Reason.BadEngineArgument, detail)


def _refuse_model(pool: InferencePool, model: LLMModel | None) -> Failure | None:
    name = pool.spec.model_ref.name
    if model is None:
        detail = f"There is no LLMModel {name} in namespace {pool.metadata.namespace}."
        return build_failure(Reason.ModelNotFound, detail)
    if model.spec.adapter is not None:
        base = model.spec.adapter.base_model_ref.name
        detail = (
            f"LLMModel {name} is a LoRA adapter: set modelRef to its base model {base}, and name {name} in "
            "spec.adapters.models."
        )
        return build_failure(Reason.InvalidSpec, detail)
    if pool.spec.engine.name == "simulator":
        return None
    ready = next((c for c in model.status.conditions if c.type == CONDITION_READY), None)
    if ready is None or ready.observed_generation < model.metadata.generation:
        return name_model(build_failure(Reason.ModelNotReady, f"LLMModel {name} is being looked at."), name)
    if ready.status != "True" and model.metadata.deletion_timestamp is None:
        says = f"LLMModel {name} says {ready.reason}: {ready.message}"
        return name_model(build_failure(Reason.ModelNotReady, says), name)
    return None


def _refuse_adapters(pool: InferencePool, wanted: Accelerators) -> Failure | None:
    """The members of a gang would need the files, too, and nobody tells them."""
    if pool.spec.adapters is None or wanted.pods == 1:
        return None
    detail = (
        f"A replica has {wanted.pods} pods, and adapters can be loaded only where it is one: remove spec.adapters, or "
        "ask for no more accelerators than one node has."
    )
    return build_failure(Reason.InvalidSpec, detail)


def _refuse_class(pool: InferencePool, accelerator: AcceleratorClass | None) -> Failure | None:
    name = pool.spec.accelerator.class_name
    if name == CPU_CLASS or accelerator is not None:
        return None
    return build_failure(Reason.AcceleratorClassNotFound, f"There is no AcceleratorClass {name}.")


def _wanted(pool: InferencePool, accelerator: AcceleratorClass | None) -> Accelerators:
    """Return the accelerators of one replica; on the processor it is one pod."""
    count = pool.spec.accelerator.count
    if accelerator is None:
        return Accelerators(count, 0.0)
    return Accelerators(count, parse_quantity_bytes(accelerator.spec.memory) / GIB, accelerator.spec.count_per_node)


def _simulated_layout(pool: InferencePool, wanted: Accelerators) -> Layout:
    context = pool.spec.context_length or SIMULATED_CONTEXT_TOKENS
    among = f", in {wanted.pods} pods" if wanted.pods > 1 else ""
    message = f"Simulated engine, {context} tokens of context{among}."
    return Layout(plan=PoolPlan(pods=wanted.pods, max_model_len=context, message=message))


def _engine_settings(pool: InferencePool, version: str) -> EngineSettings:
    args = pool.spec.engine.args
    settings = EngineSettings(
        max_num_seqs=_integer(args.get("max-num-seqs")),
        max_num_batched_tokens=_integer(args.get("max-num-batched-tokens")),
        kv_cache_dtype=str(args.get("kv-cache-dtype", "auto")),
        gpu_memory_utilization=_number(args.get("gpu-memory-utilization")),
        quantization=str(args.get("quantization", "")),
        enforce_eager=args.get("enforce-eager") is True,
        max_loras=pool.spec.adapters.slot_count if pool.spec.adapters else 0,
        max_cpu_loras=compute_host_adapters(pool.spec.adapters) if pool.spec.adapters else 0,
        max_lora_rank=pool.spec.adapters.max_rank if pool.spec.adapters else 0,
    )
    return replace(settings, version=version) if version else settings


def _integer(value: object) -> int:
    return int(_number(value))


def _number(value: object) -> float:
    """Read a number that the user wrote; what is no number is left to the engine, which says so better."""
    try:
        number = float(str(value)) if value is not None else 0.0
    except ValueError:
        return 0.0
    return max(0.0, number) if number <= _LARGEST_ARGUMENT else 0.0


def _build_pool_plan(plan: MemoryPlan) -> PoolPlan:
    return PoolPlan(
        tensor_parallel_size=plan.tensor_parallel_size,
        pipeline_parallel_size=plan.pipeline_parallel_size,
        pods=plan.pods,
        max_model_len=plan.max_model_len,
        gpu_memory_utilization=plan.gpu_memory_utilization,
        weights_gib=round(plan.weights_gib, 2),
        kv_cache_gib=round(plan.cpu_kv_cache_gib or plan.kv_cache_gib, 2),
        kv_cache_tokens=plan.kv_cache_tokens,
        max_concurrency=round(plan.max_concurrency, 2),
        container_memory_gib=round(plan.container_memory_gib, 2),
        message=plan.message,
    )
