"""The facts of a model's architecture that memory planning needs, small enough to stand in a status.

The inspector reads a model's `config.json` once, in a pod that may see the source; the operator plans later from the
status alone and never sees that file. Both sides, and `llmos plan` on a laptop, share these values:

    config.json --parse_architecture (architecture_config.py)--> ModelArchitecture --> status --> planning/memory.py

What is kept is not the file but what follows from it: the groups of layers that cache something (with the shape of what
they cache) and the groups of weights (with how tensor parallelism splits each). A planner therefore needs to know
nothing about model families, and the parser nothing about engines or accelerators.

Every number is a bounded integer and every list is bounded, so the whole stays below 2 KiB of JSON.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
LargeCount = Annotated[int, Field(ge=0, le=10**15)]

CacheKind = Literal["full", "sliding", "chunked", "latent", "recurrent"]
WeightSplit = Literal["tensor", "keyValueHeads", "replicated", "notLoaded"]
WeightPartName = Literal[
    "embedding",
    "head",
    "attention",
    "keyValue",
    "latent",
    "recurrent",
    "mlp",
    "experts",
    "sharedExperts",
    "router",
    "norm",
    "vision",
    "draft",
]


class UnsupportedArchitectureError(ValueError):
    """The configuration does not say what planning needs. The message names the cause and the remedy."""


class _Facts(BaseModel):
    # Tolerant of fields that a newer release wrote into a status.
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class CacheGroup(_Facts):
    """Layers of one shape that keep something for each sequence.

    An attention layer stores `heads x (key_dim + value_dim)` numbers for each token (or for each `tokens_per_entry`
    tokens where the model compresses them). A latent layer (MLA) stores one shared vector: one head that tensor
    parallelism does not divide. A recurrent layer (Mamba, gated delta net) stores `state_bytes` for each sequence,
    whatever its length.
    """

    kind: CacheKind = Field(description="What a layer of this group keeps.")
    layers: Annotated[int, Field(ge=1, le=4096)] = Field(description="Number of layers in the group.")
    heads: Count = Field(default=0, description="Key-value heads of a layer; 1 for latent attention.")
    key_dim: Count = Field(default=0, description="Numbers of one key, or of the latent vector.")
    value_dim: Count = Field(default=0, description="Numbers of one value; 0 for latent attention.")
    window_tokens: Count = Field(default=0, description="Tokens that stay visible; 0 means the whole context.")
    tokens_per_entry: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=1, description="Tokens that share one cache entry."
    )
    state_bytes: LargeCount = Field(default=0, description="Bytes of one recurrent layer's state for one sequence.")


class WeightPart(_Facts):
    """All weights of one role, with how they spread over the GPUs of a tensor-parallel group."""

    part: WeightPartName = Field(description="Role of these weights.")
    parameters: LargeCount = Field(description="Number of parameters.")
    bytes: LargeCount = Field(description="Bytes in the precision in which an engine holds them.")
    split: WeightSplit = Field(description="How tensor parallelism divides them.")


class ModelArchitecture(_Facts):
    """Shape of a model as its config.json tells it."""

    name: Annotated[str, Field(min_length=1, max_length=128)] = Field(description="First entry of architectures.")
    family: Annotated[str, Field(min_length=1, max_length=64)] = Field(description="model_type of the language model.")
    layers: Annotated[int, Field(ge=1, le=4096)] = Field(description="Hidden layers.")
    hidden_size: Annotated[int, Field(ge=1, le=10_000_000)] = Field(description="Width of the residual stream.")
    attention_heads: Annotated[int, Field(ge=1, le=65536)] = Field(description="Query heads of a layer.")
    key_value_heads: Annotated[int, Field(ge=1, le=65536)] = Field(description="Key-value heads of a layer.")
    head_dim: Annotated[int, Field(ge=1, le=65536)] = Field(description="Numbers of one head.")
    vocabulary_size: Annotated[int, Field(ge=1, le=100_000_000)] = Field(description="Tokens of the vocabulary.")
    max_context_tokens: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        description="Longest sequence the model was made for."
    )
    dtype: Annotated[str, Field(max_length=32)] = Field(default="bfloat16", description="Stored precision.")
    quantization: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Quantization method of the checkpoint; empty if none."
    )
    kv_cache_bits: Count = Field(default=0, description="Bits the checkpoint asks for in the KV cache; 0 if unsaid.")
    rotary_bytes: LargeCount = Field(default=0, description="Bytes of the rotary table, which every GPU keeps whole.")
    experts: Count = Field(default=0, description="Routed experts of a layer; 0 for a dense model.")
    experts_per_token: Count = Field(default=0, description="Routed experts that one token visits.")
    intermediate_size: Count = Field(default=0, description="Width of a dense MLP.")
    expert_intermediate_size: Count = Field(default=0, description="Width of one routed expert.")
    multimodal: bool = Field(default=False, description="Whether the model also reads images, audio or video.")
    cache: Annotated[tuple[CacheGroup, ...], Field(min_length=1, max_length=16)] = Field(
        description="Layers that keep something for each sequence."
    )
    weights: Annotated[tuple[WeightPart, ...], Field(min_length=1, max_length=16)] = Field(
        description="Weights by role."
    )

    @property
    def parameters(self) -> int:
        """Parameters that an engine loads."""
        return sum(part.parameters for part in self.weights if part.split != "notLoaded")

    @property
    def loaded_bytes(self) -> int:
        """Bytes of the weights that an engine loads, by this estimate."""
        return sum(part.bytes for part in self.weights if part.split != "notLoaded")

    @property
    def stored_bytes(self) -> int:
        """Bytes of the whole checkpoint, by this estimate: also the draft layers that an engine leaves out."""
        return sum(part.bytes for part in self.weights)
