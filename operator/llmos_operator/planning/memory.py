"""Decides whether a model fits the accelerators of a replica, and how the engine is set up so that it does.

This is the memory manager of the system: it runs before a Pod exists, so that nobody holds a GPU for a model that
cannot start on it. Choices, in this order, where the user left them open:

* tensor parallel size: the largest power of two that divides the attention heads, within the count. A user who asks for
  four accelerators gets four, not the fewest that would do. What the heads do not allow becomes pipeline stages.
  A replica of several pods is cut into tensor parts within a pod and into pipeline stages across pods, for each layer's
  parts exchange far more than two stages do, and the network between nodes is slower than the one within (vLLM,
  "Parallelism and Scaling"). A user who says a larger tensor size gets it.
* gpu-memory-utilization: all but 1.5 GiB of what the driver leaves (for other contexts, fragmentation, and with engines
  before 0.21 also for their CUDA graphs), never above 0.95.
* max-model-len: the model's maximum, halved until four such sequences fit at once (not below 2048 tokens), else the
  longest of which one fits.

On a CPU there is no utilization: the KV space is a number of GiB, and the container's memory is planned around it.

What "fits" means, and its safety margin, stands in memory_estimate.py. This module must not read files, clocks or
clusters, and it knows no model by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from llmos.api.architecture import ModelArchitecture
from llmos_operator.planning.engine_profile import (
    EngineSettings,
    compute_batch,
    compute_cuda_graph_gib,
    find_profile,
)
from llmos_operator.planning.known_architectures import is_known_architecture
from llmos_operator.planning.kv_cache import compute_longest_model_len
from llmos_operator.planning.memory_estimate import (
    Accelerators,
    DoesNotFit,
    MemoryEstimate,
    MemoryPlan,
    Misfit,
    estimate_memory,
)

_OUTSIDE_UTILIZATION_GIB: Final = 1.5
_HIGHEST_UTILIZATION: Final = 0.95
_WANTED_CONCURRENCY: Final = 4.0
_SHORTEST_PLANNED_TOKENS: Final = 2048
_LARGEST_SUGGESTED_COUNT: Final = 64
_FP8_BLOCK: Final = 128


@dataclass(frozen=True)
class _Request:
    """One model on one set of accelerators, with everything but the length decided."""

    architecture: ModelArchitecture
    accelerators: Accelerators
    weights_bytes: int | None
    settings: EngineSettings
    tensor_parallel_size: int
    pipeline_parallel_size: int

    def estimate(self, max_model_len: int) -> MemoryEstimate:
        return estimate_memory(
            self.architecture,
            memory_gib=self.accelerators.visible_gib,
            max_model_len=max_model_len,
            weights_bytes=self.weights_bytes,
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=self.pipeline_parallel_size,
            settings=self.settings,
        )

    def longest_length(self, estimate: MemoryEstimate, limit: int) -> int:
        """Longest sequence of which one fits with the margin set aside; 0 if none does."""
        return compute_longest_model_len(
            self.architecture,
            available_gib=estimate.available_kv_gib - estimate.margin_gib,
            longest=limit,
            tensor_parallel_size=self.tensor_parallel_size,
            pipeline_parallel_size=self.pipeline_parallel_size,
            batch=compute_batch(self.settings, self.accelerators.visible_gib, limit),
            settings=self.settings,
        )


def plan_memory(
    architecture: ModelArchitecture,
    accelerators: Accelerators,
    *,
    weights_bytes: int | None = None,
    settings: EngineSettings | None = None,
    context_length: int | None = None,
    tensor_parallel_size: int | None = None,
    pipeline_parallel_size: int | None = None,
    allow_unknown_architecture: bool = False,
) -> MemoryPlan | DoesNotFit:
    """Lay a replica out on its accelerators, or refuse with the numbers and a remedy.

    Args:
        architecture: facts of config.json.
        accelerators: how many of which size one replica gets.
        weights_bytes: size of the checkpoint as served; None estimates it from the shape.
        settings: engine arguments of the user; what is zero or empty is planned or the engine's default.
        context_length: wanted max-model-len in tokens; None plans it.
        tensor_parallel_size: wanted tensor parallel size; None plans it.
        pipeline_parallel_size: wanted pipeline parallel size; None plans it.
        allow_unknown_architecture: the engine image may know more architectures than this release.
    """
    settings = settings or EngineSettings()
    refusal = refuse_request(architecture, context_length, allow_unknown_architecture=allow_unknown_architecture)
    if refusal:
        return refusal
    layout = _plan_parallelism(architecture, accelerators, tensor_parallel_size, pipeline_parallel_size)
    if isinstance(layout, DoesNotFit):
        return layout
    tensor, pipeline = layout
    utilization = settings.gpu_memory_utilization or plan_utilization(
        architecture, accelerators.visible_gib, pipeline, settings
    )
    settings = replace(settings, gpu_memory_utilization=utilization)
    request = _Request(architecture, accelerators, weights_bytes, settings, tensor, pipeline)
    estimate, max_model_len = _plan_length(request, context_length)
    if not estimate.fits:
        return _refuse_size(request, estimate, max_model_len, context_length)
    return _build_plan(request, estimate, max_model_len)


def plan_utilization(
    architecture: ModelArchitecture, memory_gib: float, pipeline_parallel_size: int, settings: EngineSettings
) -> float:
    """Share of the memory for the engine that leaves room for what it does not count, in whole percents."""
    outside = _OUTSIDE_UTILIZATION_GIB
    if not find_profile(settings.version).counts_cuda_graphs:
        outside += compute_cuda_graph_gib(architecture, pipeline_parallel_size, settings)
    share = math.floor(100 * (1 - outside / memory_gib)) / 100
    return max(0.1, min(_HIGHEST_UTILIZATION, share))


def is_tensor_parallel_possible(architecture: ModelArchitecture, size: int) -> bool:
    """Whether the engine can cut the model's heads, and the 128-wide blocks of fp8 experts, into so many parts."""
    if size < 1 or architecture.attention_heads % size:
        return False
    heads = architecture.key_value_heads
    if heads % size and size % heads:
        return False
    if architecture.quantization == "fp8" and architecture.experts:
        return architecture.expert_intermediate_size % (_FP8_BLOCK * size) == 0
    return True


def refuse_request(
    architecture: ModelArchitecture, context_length: int | None, *, allow_unknown_architecture: bool
) -> DoesNotFit | None:
    """Refuse what no accelerator could serve."""
    if not (allow_unknown_architecture or is_known_architecture(architecture.name)):
        return DoesNotFit(
            Misfit.UNKNOWN_ARCHITECTURE,
            f"the engine does not know the architecture {architecture.name}: "
            "use a model of a supported architecture or an engine image that supports it",
        )
    if context_length is not None and context_length > architecture.max_context_tokens:
        return DoesNotFit(
            Misfit.CONTEXT_TOO_LONG,
            f"contextLength {context_length} is longer than the model's {architecture.max_context_tokens} tokens: "
            f"set contextLength to {architecture.max_context_tokens} or less",
        )
    return None


def _plan_parallelism(
    architecture: ModelArchitecture, accelerators: Accelerators, tensor: int | None, pipeline: int | None
) -> tuple[int, int] | DoesNotFit:
    count, pods = accelerators.count, accelerators.pods
    if tensor is None:
        room = max(1, count // pipeline) if pipeline else accelerators.per_pod
        powers = [1 << power for power in range(room.bit_length())]
        tensor = max((size for size in powers if is_tensor_parallel_possible(architecture, size)), default=1)
        pipeline = pipeline or pods * max(1, min(architecture.layers // pods, powers[-1] // tensor))
    pipeline = pipeline or (pods if tensor <= accelerators.per_pod else 1)
    if not is_tensor_parallel_possible(architecture, tensor):
        return DoesNotFit(
            Misfit.DOES_NOT_FIT,
            f"tensor parallel size {tensor} does not divide the model's {architecture.attention_heads} attention "
            f"heads, {architecture.key_value_heads} key-value heads and quantization blocks: "
            "use a smaller power of two",
        )
    if pipeline > architecture.layers or tensor * pipeline > count:
        return DoesNotFit(
            Misfit.DOES_NOT_FIT,
            f"tensor {tensor} x pipeline {pipeline} needs {tensor * pipeline} accelerators and a layer for each stage, "
            f"but count is {count} and layers are {architecture.layers}: "
            f"use count {tensor * pipeline} or smaller sizes",
        )
    if not _is_cut_evenly(tensor, pipeline, pods):
        return DoesNotFit(
            Misfit.DOES_NOT_FIT,
            f"tensor {tensor} x pipeline {pipeline} cannot be divided evenly among {pods} pods with "
            f"{accelerators.per_pod} accelerators each: use a pipeline parallel size that is a multiple of {pods}, or "
            "leave both sizes out",
        )
    return tensor, pipeline


def _is_cut_evenly(tensor: int, pipeline: int, pods: int) -> bool:
    """Whether each pod has as many ranks as the others, and each tensor group lies in one pod or fills several."""
    ranks, rest = divmod(tensor * pipeline, pods)
    return rest == 0 and (ranks % tensor == 0 or tensor % ranks == 0)


def _plan_length(request: _Request, context_length: int | None) -> tuple[MemoryEstimate, int]:
    length = context_length or request.architecture.max_context_tokens
    estimate = request.estimate(length)
    if context_length is not None:
        return estimate, length
    while estimate.cache_after_margin.max_concurrency < _WANTED_CONCURRENCY and length // 2 >= _SHORTEST_PLANNED_TOKENS:
        length //= 2
        estimate = request.estimate(length)
    if not estimate.fits:
        length = max(1, request.longest_length(estimate, length))
        estimate = request.estimate(length)
    return estimate, length


def _refuse_size(
    request: _Request, estimate: MemoryEstimate, max_model_len: int, context_length: int | None
) -> DoesNotFit:
    gpus = request.tensor_parallel_size * request.pipeline_parallel_size
    memory_gib = request.accelerators.memory_gib
    on = f"on {gpus} x {memory_gib:.4g} GiB"
    count = _smallest_fitting_count(request, context_length)
    more = f"use count {count}" if count else "use accelerators with more memory"
    overhead = estimate.activation_gib + estimate.non_torch_gib + estimate.cuda_graph_gib + estimate.lora_gib
    has_gib = gpus * estimate.requested_gib
    longest = request.longest_length(estimate, max_model_len)
    if longest < min(max_model_len, _SHORTEST_PLANNED_TOKENS):
        weights = gpus * estimate.weights_gib
        remedy = f"{more} or a quantized model" if not request.architecture.quantization else more
        usable = f", of which {has_gib:.1f} GiB are usable"
        beside = f" and {gpus * overhead:.1f} GiB for the engine" if weights < gpus * memory_gib else ""
        return DoesNotFit(
            Misfit.DOES_NOT_FIT,
            f"needs {weights:.1f} GiB for weights{beside} {on}{usable if beside else ''}: {remedy}",
            needs_gib=weights + gpus * (overhead + estimate.cache_after_margin.sequence_gib),
            has_gib=has_gib,
        )
    sequence = gpus * estimate.cache_after_margin.sequence_gib
    free = gpus * max(0.0, estimate.available_kv_gib - estimate.margin_gib)
    return DoesNotFit(
        Misfit.DOES_NOT_FIT,
        f"needs {sequence:.1f} GiB of KV cache for one sequence of {max_model_len} tokens but has {free:.1f} GiB "
        f"beside {gpus * estimate.weights_gib:.1f} GiB of weights {on}: "
        f"set contextLength to {longest} or less, or {more}",
        needs_gib=gpus * (estimate.weights_gib + overhead) + sequence,
        has_gib=has_gib,
    )


def _smallest_fitting_count(request: _Request, context_length: int | None) -> int:
    """Smallest power of two above the present count with which the plan succeeds; 0 if none up to 64 does."""
    count = 1 << request.accelerators.count.bit_length()
    while count <= _LARGEST_SUGGESTED_COUNT:
        accelerators = replace(request.accelerators, count=count)
        layout = _plan_parallelism(request.architecture, accelerators, None, None)
        if accelerators.is_even and not isinstance(layout, DoesNotFit):
            wider = replace(
                request,
                accelerators=accelerators,
                tensor_parallel_size=layout[0],
                pipeline_parallel_size=layout[1],
            )
            if _plan_length(wider, context_length)[0].fits:
                return count
        count *= 2
    return 0


def _build_plan(request: _Request, estimate: MemoryEstimate, max_model_len: int) -> MemoryPlan:
    gpus = request.tensor_parallel_size * request.pipeline_parallel_size
    cache = estimate.kv_cache
    idle = request.accelerators.count - gpus
    pods = request.accelerators.pods
    among = f" in {pods} pods" if pods > 1 else ""
    lora = f", {estimate.lora_gib:.1f} GiB for adapters" if estimate.lora_gib else ""
    rest = f"; {idle} of {request.accelerators.count} accelerators stay unused" if idle else ""
    return MemoryPlan(
        tensor_parallel_size=request.tensor_parallel_size,
        pipeline_parallel_size=request.pipeline_parallel_size,
        gpu_memory_utilization=request.settings.gpu_memory_utilization,
        max_model_len=max_model_len,
        weights_gib=estimate.weights_gib,
        kv_cache_gib=estimate.available_kv_gib,
        kv_cache_tokens=cache.tokens,
        max_concurrency=cache.max_concurrency,
        needs_gib=estimate.requested_gib - estimate.available_kv_gib + cache.sequence_gib,
        pods=pods,
        message=(
            f"{estimate.weights_gib:.1f} GiB weights{lora} and {estimate.available_kv_gib:.1f} GiB KV cache on each of "
            f"{gpus} x {request.accelerators.memory_gib:.4g} GiB{among}: {cache.tokens} tokens, "
            f"{cache.max_concurrency:.1f} sequences of {max_model_len}{rest}"
        ),
    )
