"""How much of a model's weights each GPU of a replica holds.

The checkpoint's size, when known, is exact; the shape of the model says which share of it each GPU gets. A GPU holds
1/tp of what tensor parallelism divides, whole key-value heads (at least one), and a copy of the rest: norms, routers,
low-rank projections and the rotary table. With pipeline parallelism the fullest stage counts, the one that also has the
embedding or the head.

Engines change some weights while loading, which makes them larger than the files: MXFP4 experts are padded to the tile
of their kernels (hidden size to a multiple of 256, width on one GPU to a multiple of 128); 32-bit files become 16-bit.
"""

from __future__ import annotations

from typing import Final

from llmos.api.architecture import ModelArchitecture, WeightPart
from llmos_operator.planning.engine_profile import GIB, EngineSettings

_MXFP4_HIDDEN_TILE: Final = 256
_MXFP4_WIDTH_TILE: Final = 128
_ONLINE_QUANTIZED: Final = frozenset(
    {"attention", "keyValue", "latent", "recurrent", "mlp", "experts", "sharedExperts"}
)
_ONLINE_METHODS_BYTES: Final = {"fp8": 1.0, "experts_int8": 1.0, "bitsandbytes": 0.57}
_END_PARTS: Final = frozenset({"embedding", "head", "vision"})


def compute_weights_gib(
    architecture: ModelArchitecture,
    *,
    weights_bytes: int | None,
    tensor_parallel_size: int,
    pipeline_parallel_size: int = 1,
    settings: EngineSettings | None = None,
) -> float:
    """Weights on the fullest GPU, in GiB. `weights_bytes` is the checkpoint's size, None if only its shape is known."""
    method = "" if architecture.quantization else (settings.quantization if settings else "")
    middle, ends = 0.0, [0.0]
    for part in architecture.weights:
        size = _bytes_per_gpu(architecture, part, tensor_parallel_size, method)
        if part.part in _END_PARTS:
            ends.append(size)
        else:
            middle += size
    scale = _exact_scale(architecture, weights_bytes)
    if pipeline_parallel_size == 1:
        held = middle + sum(ends)
    else:
        layers_of_stage = -(-architecture.layers // pipeline_parallel_size)
        held = middle * layers_of_stage / architecture.layers + max(ends)
    return (held * scale + architecture.rotary_bytes) / GIB


def _exact_scale(architecture: ModelArchitecture, weights_bytes: int | None) -> float:
    """What the estimate must be multiplied with to agree with the checkpoint's real size."""
    if not weights_bytes:
        return 1.0
    stored = architecture.stored_bytes * (2 if architecture.dtype in {"float32", "float"} else 1)
    return weights_bytes / stored


def _bytes_per_gpu(architecture: ModelArchitecture, part: WeightPart, tensor_parallel_size: int, method: str) -> float:
    size = float(part.bytes)
    if method in _ONLINE_METHODS_BYTES and part.part in _ONLINE_QUANTIZED:
        size = part.parameters * _ONLINE_METHODS_BYTES[method]
    if part.split == "notLoaded":
        return 0.0
    if part.split == "replicated":
        return size
    if part.split == "keyValueHeads":
        return size * max(1.0, architecture.key_value_heads / tensor_parallel_size) / architecture.key_value_heads
    if part.part == "experts" and architecture.quantization == "mxfp4":
        size *= _padding_factor(architecture, tensor_parallel_size)
    return size / tensor_parallel_size


def _padding_factor(architecture: ModelArchitecture, tensor_parallel_size: int) -> float:
    width = max(1.0, architecture.expert_intermediate_size / tensor_parallel_size)
    return (
        _round_up(architecture.hidden_size, _MXFP4_HIDDEN_TILE)
        / architecture.hidden_size
        * _round_up(width, _MXFP4_WIDTH_TILE)
        / width
    )


def _round_up(value: float, tile: int) -> int:
    return int(-(-value // tile) * tile)
