"""vLLM: paged attention, configured from the plan, and closed where its defaults are open (vLLM, "Security").

Prefixes are hashed by sha256, so that nobody can make two prompts share blocks. URLs in requests, which the engine
would fetch with its own network, lead nowhere unless the pool names domains (`engine.args.allowed-media-domains`), and
redirects are not followed. What changes a running engine is refused in `engine.env` (`RESERVED_ENGINE_ENV`).
"""

from __future__ import annotations

from typing import Final

from llmos.api import Engine, LLMModel, PoolPlan
from llmos.api.inferencepool import Adapters
from llmos_operator.manifests.engines.base import (
    ADAPTER_ENV,
    EngineCommand,
    build_adapter_args,
    build_user_args,
)

NO_MEDIA_DOMAIN: Final = "none.invalid"
"""An empty list means all; this domain is promised never to exist (RFC 2606)."""
MOST_CHOICES: Final = 128
"""Answers that one request may ask for (`n`): the most that OpenAI's API allows. vLLM's default is 16384."""
_SAFE_ARGS: Final = ("--prefix-caching-hash-algo", "sha256", "--allowed-media-domains", NO_MEDIA_DOMAIN)
_SAFE_ENV: Final = (("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0"), ("VLLM_MAX_N_SEQUENCES", str(MOST_CHOICES)))


def build_command(
    engine: Engine, model: LLMModel | None, plan: PoolPlan, *, on_cpu: bool, adapters: Adapters | None = None
) -> EngineCommand:
    """Return vLLM's arguments for a plan; what the user says in `engine.args` comes last and wins."""
    args = ["--max-model-len", str(plan.max_model_len), *_SAFE_ARGS]
    env = [("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1"), ("VLLM_DO_NOT_TRACK", "1"), *_SAFE_ENV]
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
    if adapters is not None:
        args += build_adapter_args(adapters)
        env += ADAPTER_ENV
    if model is not None and model.spec.trust_remote_code is not None:
        args.append("--trust-remote-code")
    return EngineCommand((*args, *build_user_args(engine)), tuple(env))
