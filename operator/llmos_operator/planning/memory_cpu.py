"""Plans a replica that runs on a CPU: how many GiB of KV cache, and how much memory the container asks for.

vLLM on a CPU takes its KV cache from VLLM_CPU_KVCACHE_SPACE, a whole number of GiB, whatever the machine has; there is
no share of a device to plan. The container's memory is then

    1.1 x (weights + LoRA + activation) + KV cache + 2.25 GiB

where LoRA are the slots of adapters and twice as many that wait for one (lora_memory.py), and 2.25 GiB holds the
interpreter, torch, the tokenizer and the pages of files that the kernel counts to the container: before vLLM 0.32 takes
its KV cache it looks at what is left below the container's limit, and with a model of
135 million parameters (0.25 GiB) 2.05 GiB were gone by then, though the process itself held less. A container that
asks for too little ends while it starts, so the estimate is rounded up to the next quarter of a GiB.

Without a wanted context the length is the model's maximum, halved until four sequences fit into 4 GiB of cache: on a
CPU a long context costs memory long before anyone waits for its answer.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from llmos.api.architecture import ModelArchitecture
from llmos_operator.planning.engine_profile import (
    EngineSettings,
    compute_activation_gib,
    compute_batch,
    find_profile,
)
from llmos_operator.planning.kv_cache import KvCache, compute_kv_cache
from llmos_operator.planning.lora_memory import compute_lora_gib
from llmos_operator.planning.memory import refuse_request
from llmos_operator.planning.memory_estimate import DoesNotFit, MemoryPlan, Misfit
from llmos_operator.planning.weights import compute_weights_gib

_BLOCK_SIZE_TOKENS: Final = 128
_MAX_NUM_SEQS: Final = 128
_MAX_NUM_BATCHED_TOKENS: Final = 2048
_WANTED_SEQUENCES: Final = 4
_WANTED_CACHE_GIB: Final = 4
_SHORTEST_PLANNED_TOKENS: Final = 2048
_RUNTIME_GIB: Final = 2.25
_TENSOR_OVERHEAD: Final = 1.1
_STEP_GIB: Final = 0.25


def plan_cpu_memory(
    architecture: ModelArchitecture,
    *,
    weights_bytes: int | None = None,
    settings: EngineSettings | None = None,
    context_length: int | None = None,
    memory_limit_gib: float | None = None,
    allow_unknown_architecture: bool = False,
) -> MemoryPlan | DoesNotFit:
    """KV space and container memory for one replica, or a refusal if `memory_limit_gib` is too small for it."""
    settings = _cpu_settings(settings or EngineSettings())
    refusal = refuse_request(architecture, context_length, allow_unknown_architecture=allow_unknown_architecture)
    if refusal:
        return refusal
    max_model_len = context_length or _plan_length(architecture, settings)
    cache_gib = _plan_cache_gib(architecture, max_model_len, settings)
    batch = compute_batch(settings, 0.0, max_model_len)
    weights = compute_weights_gib(architecture, weights_bytes=weights_bytes, tensor_parallel_size=1, settings=settings)
    activation = compute_activation_gib(architecture, 1, batch, find_profile(settings.version))
    lora = compute_lora_gib(
        architecture,
        slots=settings.max_loras + (settings.max_cpu_loras or 2 * settings.max_loras),
        rank=settings.max_lora_rank,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
    )
    needs = _TENSOR_OVERHEAD * (weights + lora + activation) + cache_gib + _RUNTIME_GIB
    container = math.ceil(needs / _STEP_GIB) * _STEP_GIB
    if memory_limit_gib is not None and container > memory_limit_gib:
        return DoesNotFit(
            Misfit.DOES_NOT_FIT,
            f"needs {container:.2f} GiB of memory ({weights:.1f} GiB weights, {cache_gib} GiB KV cache) but the limit "
            f"is {memory_limit_gib:g} GiB: use a node with more memory, a shorter contextLength or a smaller model",
            needs_gib=container,
            has_gib=memory_limit_gib,
        )
    cache = _cache_of(architecture, max_model_len, cache_gib, settings)
    return MemoryPlan(
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        gpu_memory_utilization=None,
        max_model_len=max_model_len,
        weights_gib=weights,
        kv_cache_gib=float(cache_gib),
        kv_cache_tokens=cache.tokens,
        max_concurrency=cache.max_concurrency,
        needs_gib=needs,
        message=(
            f"{weights:.1f} GiB weights and {cache_gib} GiB KV cache in a container of {container:.2f} GiB: "
            f"{cache.tokens} tokens, {cache.max_concurrency:.1f} sequences of {max_model_len}"
        ),
        cpu_kv_cache_gib=cache_gib,
        container_memory_gib=container,
    )


def _cpu_settings(settings: EngineSettings) -> EngineSettings:
    return replace(
        settings,
        block_size_tokens=_BLOCK_SIZE_TOKENS,
        max_num_seqs=settings.max_num_seqs or _MAX_NUM_SEQS,
        max_num_batched_tokens=settings.max_num_batched_tokens or _MAX_NUM_BATCHED_TOKENS,
    )


def _plan_length(architecture: ModelArchitecture, settings: EngineSettings) -> int:
    length = architecture.max_context_tokens
    while length // 2 >= _SHORTEST_PLANNED_TOKENS:
        if _cache_of(architecture, length, _WANTED_CACHE_GIB, settings).max_concurrency >= _WANTED_SEQUENCES:
            break
        length //= 2
    return length


def _plan_cache_gib(architecture: ModelArchitecture, max_model_len: int, settings: EngineSettings) -> int:
    """Room for four sequences but at most 4 GiB, and never less than one sequence."""
    one = _cache_of(architecture, max_model_len, 1, settings).sequence_gib
    return max(math.ceil(one), min(_WANTED_CACHE_GIB, math.ceil(_WANTED_SEQUENCES * one)))


def _cache_of(architecture: ModelArchitecture, max_model_len: int, gib: int, settings: EngineSettings) -> KvCache:
    return compute_kv_cache(
        architecture,
        available_gib=gib,
        max_model_len=max_model_len,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        batch=compute_batch(settings, 0.0, max_model_len),
        settings=settings,
    )
