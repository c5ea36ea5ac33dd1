"""What one GPU of a replica holds when the engine has started with given settings, in GiB.

    available KV = memory x utilization - weights - LoRA - activation peak - non-torch [- CUDA graphs, since vLLM 0.21]

The terms come from engine_profile.py, weights.py and lora_memory.py, the cache that the rest makes from kv_cache.py.
This module adds them up and decides nothing; memory.py decides.

Safety margin: `fits` is said only if one sequence of max-model-len still fits after 0.5 GiB and 0.5 % of the memory are
set aside. On the start-up logs of bench/memory/data the prediction of available KV is too high by at most 0.81 GiB of
79 GiB, less than the 0.9 GiB set aside there, so a model is not called fitting where the engine refused; the price is a
refusal in the last percent of the memory. The reported cache is the prediction itself, without the margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from llmos.api.architecture import ModelArchitecture
from llmos_operator.planning.engine_profile import (
    PROFILES,
    EngineProfile,
    EngineSettings,
    compute_activation_gib,
    compute_batch,
    compute_cuda_graph_gib,
    compute_non_torch_gib,
    find_profile,
)
from llmos_operator.planning.kv_cache import KvCache, compute_kv_cache
from llmos_operator.planning.lora_memory import compute_lora_gib
from llmos_operator.planning.weights import compute_weights_gib

MARGIN_GIB: Final = 0.5
MARGIN_SHARE: Final = 0.005
_DRIVER_GIB: Final = 0.5


class Misfit(StrEnum):
    """Why a plan is refused; the names are those of llmos.api.reasons."""

    DOES_NOT_FIT = "DoesNotFit"
    CONTEXT_TOO_LONG = "ContextTooLong"
    UNKNOWN_ARCHITECTURE = "UnknownArchitecture"


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one GPU, in GiB, and the cache that the rest makes."""

    requested_gib: float
    weights_gib: float
    activation_gib: float
    non_torch_gib: float
    cuda_graph_gib: float
    lora_gib: float
    available_kv_gib: float
    margin_gib: float
    kv_cache: KvCache
    cache_after_margin: KvCache

    @property
    def fits(self) -> bool:
        """Whether the engine starts, with the safety margin set aside."""
        return self.cache_after_margin.holds_one_sequence


@dataclass(frozen=True)
class MemoryPlan:
    """A replica that starts. Sizes in GiB are for one accelerator (for the container on a CPU)."""

    tensor_parallel_size: int
    pipeline_parallel_size: int
    gpu_memory_utilization: float | None
    max_model_len: int
    weights_gib: float
    kv_cache_gib: float
    kv_cache_tokens: int
    max_concurrency: float
    needs_gib: float
    message: str
    cpu_kv_cache_gib: int = 0
    container_memory_gib: float = 0.0
    pods: int = 1


@dataclass(frozen=True)
class DoesNotFit:
    """A replica that would not start, why, and what to change."""

    reason: Misfit
    message: str
    needs_gib: float = 0.0
    has_gib: float = 0.0


@dataclass(frozen=True)
class Accelerators:
    """What one replica gets."""

    count: int
    memory_gib: float  # physical memory of one, as its driver or the label nvidia.com/gpu.memory says
    per_node: int = 0
    """Most on one node; 0 puts all of them on one."""

    @property
    def pods(self) -> int:
        """Pods of the replica: as few as will do."""
        return -(-self.count // self.per_node) if self.per_node else 1

    @property
    def is_even(self) -> bool:
        """Whether each pod gets the same number."""
        return self.count % self.pods == 0

    @property
    def per_pod(self) -> int:
        """Accelerators of one pod."""
        return self.count // self.pods

    @property
    def visible_gib(self) -> float:
        """What a program sees: the driver keeps half a GiB (H100 79.65 -> 79.19, RTX 4090 23.99 -> 23.55)."""
        return max(0.1, self.memory_gib - _DRIVER_GIB)


def estimate_memory(
    architecture: ModelArchitecture,
    *,
    memory_gib: float,
    max_model_len: int,
    weights_bytes: int | None = None,
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    settings: EngineSettings | None = None,
    profiles: tuple[EngineProfile, ...] = PROFILES,
) -> MemoryEstimate:
    """Memory of the fullest GPU of a replica with exactly these settings. Decides nothing."""
    settings = settings or EngineSettings()
    profile = find_profile(settings.version, profiles)
    batch = compute_batch(settings, memory_gib, max_model_len)
    utilization = settings.gpu_memory_utilization or profile.default_utilization
    weights = compute_weights_gib(
        architecture,
        weights_bytes=weights_bytes,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
        settings=settings,
    )
    activation = compute_activation_gib(architecture, tensor_parallel_size, batch, profile)
    non_torch = compute_non_torch_gib(profile, tensor_parallel_size)
    graphs = compute_cuda_graph_gib(architecture, pipeline_parallel_size, settings)
    counted_graphs = graphs if profile.counts_cuda_graphs else 0.0
    lora = compute_lora_gib(
        architecture,
        slots=settings.max_loras,
        rank=settings.max_lora_rank,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
    )
    available = memory_gib * utilization - weights - lora - activation - non_torch - counted_graphs
    margin = MARGIN_GIB + MARGIN_SHARE * memory_gib

    def cache_of(available_gib: float) -> KvCache:
        return compute_kv_cache(
            architecture,
            available_gib=available_gib,
            max_model_len=max_model_len,
            tensor_parallel_size=tensor_parallel_size,
            pipeline_parallel_size=pipeline_parallel_size,
            batch=batch,
            settings=settings,
        )

    return MemoryEstimate(
        requested_gib=memory_gib * utilization,
        weights_gib=weights,
        activation_gib=activation,
        non_torch_gib=non_torch,
        cuda_graph_gib=graphs,
        lora_gib=lora,
        available_kv_gib=available,
        margin_gib=margin,
        kv_cache=cache_of(available),
        cache_after_margin=cache_of(available - margin),
    )
