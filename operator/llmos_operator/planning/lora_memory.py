"""What the engine sets aside for LoRA adapters.

vLLM 0.32 allocates the matrices of all slots when it starts, for the largest rank R, in the model's precision
(vllm/lora/layers: base_linear.py, column_parallel_linear.py, vocab_parallel_embedding.py, logits_processor.py). For
each of the `max-loras` slots, with tensor parallel size t, hidden size h, H heads of size d, K key-value heads and an
MLP of width m, these are so many numbers:

    query, key, value   R (3 h + (H + 2 K) d / t)      gate, up     R (2 h + 2 m / t)
    output              R (H d / t + h)                down         R (m / t + h)
    embedding           R (vocabulary + h)             head         R (h + vocabulary)

Experts have the three MLP matrices each, and a layer of experts keeps those of its dense width, too. Pipeline stages
share the layers; the fullest one may have the embedding or the head, so both are counted.

`max-cpu-loras` more are kept in the host's memory, of which only a replica on a processor has to be told.
"""

from __future__ import annotations

from typing import Final

from llmos.api.architecture import ModelArchitecture
from llmos.api.inferencepool import Adapters

LORA_BYTES: Final = 2
_FILE_BYTES: Final = 4
"""PEFT saves 32-bit numbers."""
_FILE_MARGIN: Final = 1.25
_SMALLEST_FILE_BYTES: Final = 64 << 20
_UNKNOWN_FILE_BYTES: Final = 256 << 20
_GIB: Final = 2**30


def compute_slot_parameters(
    architecture: ModelArchitecture, rank: int, *, tensor_parallel_size: int = 1, pipeline_parallel_size: int = 1
) -> int:
    """Return the numbers of one slot on the fullest accelerator."""
    layers = -(-architecture.layers // pipeline_parallel_size)
    vocabulary = 2 * (architecture.vocabulary_size + architecture.hidden_size)
    return rank * (layers * _compute_layer(architecture, tensor_parallel_size) + vocabulary)


def compute_lora_gib(
    architecture: ModelArchitecture, *, slots: int, rank: int, tensor_parallel_size: int, pipeline_parallel_size: int
) -> float:
    """Return the memory of all slots on the fullest accelerator, in GiB; 0 without slots."""
    numbers = compute_slot_parameters(
        architecture,
        rank,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
    )
    return slots * numbers * LORA_BYTES / _GIB


def compute_host_adapters(adapters: Adapters) -> int:
    """Return how many adapters the engine keeps in the host's memory: also versions whose last requests still run."""
    return 2 * adapters.max_loaded


def compute_files_bytes(adapters: Adapters, architecture: ModelArchitecture | None) -> int:
    """Return the room for the files of all adapters, and of one version more, in bytes."""
    if architecture is None:
        each = _UNKNOWN_FILE_BYTES
    else:
        numbers = adapters.max_rank * architecture.layers * _compute_layer(architecture, 1)
        each = max(_SMALLEST_FILE_BYTES, int(numbers * _FILE_BYTES * _FILE_MARGIN))
    return each * (adapters.max_loaded + 1)


def _compute_layer(architecture: ModelArchitecture, tensor: int) -> int:
    """Return the sum of the widths of both sides of all matrices of a layer: each is as high as the rank."""
    hidden, head = architecture.hidden_size, architecture.head_dim
    queries, keys = architecture.attention_heads * head, architecture.key_value_heads * head
    attention = 4 * hidden + -(-(2 * queries + 2 * keys) // tensor)
    mlp = 3 * hidden + -(-3 * architecture.intermediate_size // tensor)
    experts = architecture.experts * (3 * hidden + -(-3 * architecture.expert_intermediate_size // tensor))
    return attention + mlp + experts
