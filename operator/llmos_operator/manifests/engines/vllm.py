"""vLLM: paged attention, configured from the plan."""

from __future__ import annotations

from llmos.api import Engine, LLMModel, PoolPlan
from llmos_operator.manifests.engines.base import EngineCommand, build_user_args


def build_command(engine: Engine, model: LLMModel | None, plan: PoolPlan, *, on_cpu: bool) -> EngineCommand:
    """Return vLLM's arguments for a plan; what the user says in `engine.args` comes last and wins."""
    args = ["--max-model-len", str(plan.max_model_len)]
    env = [("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1"), ("VLLM_DO_NOT_TRACK", "1")]
    if on_cpu:
        # Compiling graphs takes minutes on a processor and gains little for the small models that run there.
        args += ["--dtype", "bfloat16", "--enforce-eager"]
        env += [
            ("VLLM_CPU_KVCACHE_SPACE", f"{max(1, round(plan.kv_cache_gib))}"),
            ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        ]
    else:
        args += ["--tensor-parallel-size", str(plan.tensor_parallel_size)]
        if plan.pipeline_parallel_size > 1:
            args += ["--pipeline-parallel-size", str(plan.pipeline_parallel_size)]
        if plan.gpu_memory_utilization is not None:
            args += ["--gpu-memory-utilization", f"{plan.gpu_memory_utilization:g}"]
    if model is not None and model.spec.trust_remote_code is not None:
        args.append("--trust-remote-code")
    return EngineCommand((*args, *build_user_args(engine)), tuple(env))
