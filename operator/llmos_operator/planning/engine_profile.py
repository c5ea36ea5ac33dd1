"""What vLLM takes beside weights and KV cache, by engine version.

When vLLM starts, it runs its largest batch once and keeps what is left for the KV cache (vllm/v1/worker/gpu_worker.py):

    available_kv = memory x utilization - weights - activation peak - non-torch memory [- CUDA graphs, since 0.21]

This module holds the engine's share of that equation. The activation peak is the larger of two moments of the profiling
run, T = max_num_batched_tokens, S = max_num_seqs, h = hidden size, all activations in 16 bits:

    forward = 2 T (3 x intermediate / tp + 4.25 h)      widest moment inside one dense layer
    sampler = copies x 4 S vocabulary + 2 T h + 0.035   32-bit logits of S sequences, beside the hidden states
            + expert workspace                          2 T top_k (max(2 w, h) + max(w, h)), w = expert width / tp
            + encoder outputs                           2 T h + 0.06 GiB, for models that also read images

Only the numbers in `EngineProfile`, the 4.25 and the two small constants are fitted; everything else is counted. They
were fitted on the start-up logs of bench/memory/data (vLLM 0.19 on H100, 52 runs of 33 models): the largest error of
the peak there is 0.10 GiB without pipeline stages; with them the first stage has no sampler and the log shows that one.
`copies` is what the sampler's dummy run holds of the logits: 9.5 up to 0.16, 3.65 since 0.17. Non-torch memory is what
the CUDA context grows by plus, between GPUs, the communicators' buffers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from llmos.api.architecture import ModelArchitecture

GIB: Final = 2**30
CURRENT_VERSION: Final = "0.32.0"
ACTIVATION_BYTES: Final = 2
LOGIT_BYTES: Final = 4
FORWARD_HIDDEN_COPIES: Final = 4.25
SAMPLER_REST_GIB: Final = 0.035
ENCODER_REST_GIB: Final = 0.06
_LARGE_GPU_GIB: Final = 70.0
_LARGEST_GPU_GIB: Final = 160.0
_FIRST_V1: Final = (0, 8)
_V0_CHUNKED_PREFILL_ABOVE_TOKENS: Final = 32_768


@dataclass(frozen=True)
class EngineProfile:
    """Fitted constants of a range of engine versions, from `since` up to the next profile."""

    since: tuple[int, int]
    logit_copies: float
    non_torch_gib: float  # one GPU
    non_torch_group_gib: float  # each GPU of a tensor-parallel pair
    non_torch_doubling_gib: float  # added for every doubling beyond two
    counts_cuda_graphs: bool
    default_utilization: float


# Rows of bench/memory/data that each line rests on: 93, 94 and 98; 83, 86 and 88; 79; 1-59. Since 0.21 CUDA graphs
# come off the KV cache (the engine's own start-up message says so), measured sizes are those of 0.19.
PROFILES: Final = (
    EngineProfile((0, 0), 9.5, 1.79, 3.58, 1.79, counts_cuda_graphs=False, default_utilization=0.9),
    EngineProfile((0, 8), 9.5, 0.13, 0.55, 0.07, counts_cuda_graphs=False, default_utilization=0.9),
    EngineProfile((0, 17), 3.65, 0.13, 0.55, 0.07, counts_cuda_graphs=False, default_utilization=0.9),
    EngineProfile((0, 19), 3.65, 0.25, 2.08, 0.12, counts_cuda_graphs=False, default_utilization=0.9),
    EngineProfile((0, 21), 3.65, 0.25, 2.08, 0.12, counts_cuda_graphs=True, default_utilization=0.92),
)


@dataclass(frozen=True)
class EngineSettings:
    """Arguments of the engine that change its memory. Zero or empty means the engine's own default."""

    version: str = CURRENT_VERSION
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    kv_cache_dtype: str = "auto"
    gpu_memory_utilization: float = 0.0
    block_size_tokens: int = 16
    quantization: str = ""  # quantized while loading, for checkpoints that are not
    enforce_eager: bool = False
    max_loras: int = 0
    max_cpu_loras: int = 0  # twice as many as max_loras if not said
    max_lora_rank: int = 0


@dataclass(frozen=True)
class Batch:
    """The largest batch that the engine prepares for."""

    sequences: int
    tokens: int
    tokens_in_flight: int


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor of a version as people write it ("0.19.0", "~0.9.2", "<=0.16"); the current one if unreadable."""
    match = re.search(r"(\d+)\.(\d+)", text) or re.search(r"(\d+)\.(\d+)", CURRENT_VERSION)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_profile(version: str, profiles: tuple[EngineProfile, ...] = PROFILES) -> EngineProfile:
    """The newest profile that is not newer than the engine."""
    parsed = parse_version(version)
    return [profile for profile in profiles if profile.since <= parsed][-1]


def compute_batch(settings: EngineSettings, accelerator_memory_gib: float, max_model_len: int) -> Batch:
    """Settings of the user, else what vLLM chooses for an API server on a GPU of this memory."""
    version = parse_version(settings.version)
    if version < _FIRST_V1:
        long = max_model_len > _V0_CHUNKED_PREFILL_ABOVE_TOKENS
        sequences, tokens = 256, 2048 if long else max(max_model_len, 2048)
    elif accelerator_memory_gib >= _LARGEST_GPU_GIB:
        sequences, tokens = 1024, 16_384
    elif accelerator_memory_gib >= _LARGE_GPU_GIB:
        sequences, tokens = 1024, 8192
    else:
        sequences, tokens = 256, 2048
    tokens = settings.max_num_batched_tokens or tokens
    sequences = settings.max_num_seqs or min(sequences, tokens)
    # Newer engines schedule one batch while the previous one still runs.
    return Batch(sequences, tokens, tokens * (2 if version >= (0, 20) else 1))


def compute_activation_gib(
    architecture: ModelArchitecture, tensor_parallel_size: int, batch: Batch, profile: EngineProfile
) -> float:
    """Peak of torch's allocations beyond the weights during the profiling run."""
    hidden = ACTIVATION_BYTES * batch.tokens * architecture.hidden_size
    width = 0 if architecture.experts else architecture.intermediate_size / tensor_parallel_size
    forward = ACTIVATION_BYTES * batch.tokens * 3 * width + FORWARD_HIDDEN_COPIES * hidden
    sampler = profile.logit_copies * LOGIT_BYTES * batch.sequences * architecture.vocabulary_size + hidden
    sampler += _expert_workspace_bytes(architecture, tensor_parallel_size, batch) + SAMPLER_REST_GIB * GIB
    if architecture.multimodal:
        sampler += hidden + ENCODER_REST_GIB * GIB
    return max(forward, sampler) / GIB


def _expert_workspace_bytes(architecture: ModelArchitecture, tensor_parallel_size: int, batch: Batch) -> float:
    """Two buffers that the expert kernels keep between layers; MXFP4 kernels work in place."""
    if not architecture.experts or architecture.quantization == "mxfp4":
        return 0.0
    rows = batch.tokens * max(1, architecture.experts_per_token)
    width = architecture.expert_intermediate_size / tensor_parallel_size
    hidden = architecture.hidden_size
    return ACTIVATION_BYTES * rows * (max(2 * width, hidden) + max(width, hidden))


def compute_non_torch_gib(profile: EngineProfile, tensor_parallel_size: int) -> float:
    """CUDA context growth and communication buffers of one GPU."""
    if tensor_parallel_size == 1:
        return profile.non_torch_gib
    return profile.non_torch_group_gib + profile.non_torch_doubling_gib * (math.log2(tensor_parallel_size) - 1)


def compute_cuda_graph_gib(
    architecture: ModelArchitecture, pipeline_parallel_size: int, settings: EngineSettings
) -> float:
    """Memory of the captured graphs: 0.36 GiB and 17 MiB a layer, 0.45 GiB more where experts are routed.

    Fitted on the sizes that vLLM 0.19 logged after capture (mean error 0.1 GiB, largest 0.35).
    """
    if settings.enforce_eager:
        return 0.0
    layers = architecture.layers / pipeline_parallel_size
    return 0.36 + 0.0165 * layers + (0.45 if architecture.experts else 0.0)
