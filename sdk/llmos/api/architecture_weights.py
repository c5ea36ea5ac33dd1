"""Counts a model's parameters by role from the shape its config.json tells.

Each role is one closed formula over the shape; there is no table of models. `h` is the hidden size:

    attention   q and output projection: h x heads x dim x 2 (x 1.5 where the query also carries an output gate)
    keyValue    h x kv_heads x (key_dim + value_dim)
    latent      MLA: query, compressed key-value and output projections
    mlp         h x width x 3, or x 2 without a gate
    experts     layers x experts x h x width x 3
    recurrent   in and out projections of gated delta nets, Mamba-2 and KDA layers
    vision      depth x (4 x v^2 + 2 x v x width), and the projector

Tensor parallelism divides what it can: projections and experts by its size, key-value heads until one is left on each
GPU, routers, norms and the low-rank projections of MLA not at all. Draft (multi-token prediction) layers lie in the
checkpoint but are not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llmos.api.architecture import CacheGroup, WeightPart, WeightPartName, WeightSplit
from llmos.api.architecture_precision import Precision
from llmos.api.architecture_reader import ConfigReader

_UNGATED_FAMILIES: Final = frozenset(
    {"bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "opt", "phi", "starcoder2"}
)
_UNGATED_ACTIVATIONS: Final = frozenset({"relu2", "squared_relu"})
_TIED_FAMILIES: Final = frozenset(
    {"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "gpt_bigcode", "cohere", "cohere2"}
)


@dataclass(frozen=True)
class Shape:
    """Sizes that several formulas share."""

    family: str
    layers: int
    hidden_size: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary_size: int

    @property
    def is_gated(self) -> bool:
        return self.family not in _UNGATED_FAMILIES


@dataclass(frozen=True)
class _Tally:
    """Parameters of one role and the number of layers that hold them."""

    part: WeightPartName
    parameters: int
    split: WeightSplit
    layers: int


@dataclass(frozen=True)
class ExpertShape:
    """Mixture-of-experts sizes; all zero for a dense model."""

    experts: int
    width: int
    shared_width: int
    layers: int


def count_weights(
    text: ConfigReader, whole: ConfigReader, shape: Shape, cache: tuple[CacheGroup, ...], precision: Precision
) -> tuple[WeightPart, ...]:
    """All weights of the model by role, priced in bytes."""
    experts = parse_experts(text, shape)
    tallies = [
        *_embeddings(text, whole, shape),
        *_attention(text, shape, cache),
        *_recurrent(text, shape, cache),
        *_feed_forward(text, shape, experts, cache),
        _Tally("norm", 2 * shape.layers * shape.hidden_size + shape.hidden_size, "replicated", shape.layers),
        *_vision(whole, shape),
    ]
    tallies += _draft(text, shape, tallies)
    expert_bits = 4 + 8 / 32 if text.text("expert_dtype") == "fp4" else 0.0
    return tuple(_price(tally, precision, expert_bits) for tally in tallies if tally.parameters > 0)


def parse_experts(text: ConfigReader, shape: Shape) -> ExpertShape:
    """Sizes of the mixture of experts and how many layers have one."""
    count = text.integer("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
    if not count:
        return ExpertShape(0, 0, 0, 0)
    width = text.integer("moe_intermediate_size", "expert_intermediate_size", "intermediate_size", default=1)
    shared = text.integer(
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "share_expert_dim"
    ) or width * text.integer("n_shared_experts", "num_shared_experts")
    if shape.family.startswith("llama4"):
        shared = width
    return ExpertShape(count, width, shared, _expert_layers(text, shape))


def _expert_layers(text: ConfigReader, shape: Shape) -> int:
    for field, sparse in (("mlp_layer_types", {"sparse"}), ("moe_layer_freq", {1}), ("hybrid_override_pattern", {"E"})):
        pattern = text.items(field) or list(text.text(field))
        if pattern:
            return sum(1 for item in pattern if item in sparse)
    dense = text.integer("first_k_dense_replace") + len(text.items("mlp_only_layers"))
    step = text.integer("interleave_moe_layer_step", "decoder_sparse_step", "expert_layer_period", default=1)
    return max(0, shape.layers - dense) // step


def _embeddings(text: ConfigReader, whole: ConfigReader, shape: Shape) -> list[_Tally]:
    table = shape.vocabulary_size * shape.hidden_size
    default = shape.family in _TIED_FAMILIES
    source = whole if whole.has("tie_word_embeddings") else text
    tied = source.flag("tie_word_embeddings", default=default)
    return [_Tally("embedding", table, "tensor", 1), _Tally("head", 0 if tied else table, "tensor", 1)]


def _attention(text: ConfigReader, shape: Shape, cache: tuple[CacheGroup, ...]) -> list[_Tally]:
    groups = [group for group in cache if group.kind != "recurrent"]
    latent = sum(group.layers for group in groups if group.kind == "latent")
    if latent:
        return _latent_attention(text, shape, latent)
    gate = 3 if text.flag("attn_output_gate", default=False) else 2
    layers = sum(group.layers for group in groups)
    query = sum(group.layers * gate * shape.hidden_size * shape.heads * group.key_dim for group in groups)
    key_value = sum(
        group.layers * shape.hidden_size * group.heads * (group.key_dim + group.value_dim) for group in groups
    )
    return [_Tally("attention", query, "tensor", layers), _Tally("keyValue", key_value, "keyValueHeads", layers)]


def _latent_attention(text: ConfigReader, shape: Shape, layers: int) -> list[_Tally]:
    low_rank = text.integer("kv_lora_rank")
    rotary, plain = text.integer("qk_rope_head_dim"), text.integer("qk_nope_head_dim", default=shape.head_dim)
    value = text.integer("v_head_dim", default=shape.head_dim)
    query_rank = text.integer("q_lora_rank")
    query_input = query_rank or shape.hidden_size
    split = (
        query_input * shape.heads * (plain + rotary)
        + low_rank * shape.heads * (plain + value)
        + shape.heads * value * shape.hidden_size
    )
    shared = shape.hidden_size * (query_rank + low_rank + rotary)
    indexer = query_input * text.integer("index_n_heads") * text.integer("index_head_dim")
    return [
        _Tally("attention", layers * split, "tensor", layers),
        _Tally("latent", layers * (shared + indexer), "replicated", layers),
    ]


def _recurrent(text: ConfigReader, shape: Shape, cache: tuple[CacheGroup, ...]) -> list[_Tally]:
    layers = sum(group.layers for group in cache if group.kind == "recurrent")
    if not layers:
        return []
    kda = text.child("linear_attn_config")
    if kda:
        width = kda.integer("num_heads") * kda.integer("head_dim")
        per_layer = 4 * shape.hidden_size * width + 2 * kda.integer("head_dim") * (shape.hidden_size + width)
    elif text.has("linear_num_value_heads"):
        key = text.integer("linear_num_key_heads") * text.integer("linear_key_head_dim")
        value = text.integer("linear_num_value_heads") * text.integer("linear_value_head_dim")
        per_layer = shape.hidden_size * (2 * key + 3 * value + 2 * text.integer("linear_num_value_heads"))
    else:
        inner, groups_state = mamba_sizes(text, shape)
        heads = text.integer("mamba_num_heads", "mamba_n_heads", default=1)
        per_layer = shape.hidden_size * (3 * inner + 2 * groups_state + heads)
    return [_Tally("recurrent", layers * per_layer, "tensor", layers)]


def mamba_sizes(text: ConfigReader, shape: Shape) -> tuple[int, int]:
    """Inner width, and groups x state size, of a Mamba-2 layer."""
    heads = text.integer("mamba_num_heads", "mamba_n_heads")
    head_dim = text.integer("mamba_head_dim", "mamba_d_head")
    inner = heads * head_dim or text.integer("mamba_expand", "expand", default=2) * shape.hidden_size
    groups = text.integer("n_groups", "mamba_n_groups", default=1)
    return inner, groups * text.integer("ssm_state_size", "mamba_d_state", default=128)


def _feed_forward(
    text: ConfigReader, shape: Shape, experts: ExpertShape, cache: tuple[CacheGroup, ...]
) -> list[_Tally]:
    hidden = shape.hidden_size
    matrices = 3 if shape.is_gated and text.text("hidden_act", "mlp_hidden_act") not in _UNGATED_ACTIVATIONS else 2
    if shape.family == "nemotron_h":
        matrices = 2
    dense_layers = shape.layers - experts.layers
    if text.has("hybrid_override_pattern"):
        dense_layers = text.text("hybrid_override_pattern").count("-")
    width = text.integer("intermediate_size_mlp") if shape.family.startswith("llama4") else 0
    width = width or text.integer("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", default=4 * hidden)
    if text.flag("enable_moe_block", default=False):
        dense_layers = shape.layers  # this family adds the experts beside the dense block
    latent = text.integer("moe_latent_size", default=hidden)
    routed = experts.layers * experts.experts * matrices * latent * experts.width
    dense = _searched_width(text, hidden) if text.has("block_configs") else dense_layers * width
    return [
        _Tally("mlp", dense * matrices * hidden, "tensor", dense_layers),
        _Tally("experts", routed, "tensor", experts.layers),
        _Tally("sharedExperts", experts.layers * matrices * hidden * experts.shared_width, "tensor", experts.layers),
        _Tally("router", experts.layers * hidden * experts.experts, "replicated", experts.layers),
    ]


def _searched_width(text: ConfigReader, hidden: int) -> int:
    """Summed MLP width where every block has its own: 2/3 x multiplier x hidden, rounded up to 256."""
    total = 0
    for block in text.items("block_configs"):
        forward = ConfigReader(block).child("ffn") if isinstance(block, Mapping) else ConfigReader({})
        total += -(-int(2 * forward.number("ffn_mult") * hidden / 3) // 256) * 256
    return total


def _vision(whole: ConfigReader, shape: Shape) -> list[_Tally]:
    vision = whole.child("vision_config", "visual")
    if not vision:
        return []
    width = vision.integer("hidden_size", "vt_hidden_size", "embed_dim", default=1)
    depth = vision.integer("num_hidden_layers", "depth", "vt_num_hidden_layers", default=0)
    inner = vision.integer("intermediate_size", "vt_intermediate_size", default=4 * width)
    matrices = 3 if vision.text("model_type") == "pixtral" else 2
    tower = depth * (4 * width * width + matrices * width * inner)
    merged = width * max(1, vision.integer("spatial_merge_size") or whole.integer("spatial_merge_size")) ** 2
    projector = (merged + shape.hidden_size) * shape.hidden_size
    return [_Tally("vision", tower + projector, "tensor", max(1, depth))]


def _draft(text: ConfigReader, shape: Shape, tallies: list[_Tally]) -> list[_Tally]:
    layers = text.integer("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")
    per_layer = sum(
        tally.parameters // max(1, tally.layers)
        for tally in tallies
        if tally.part in {"attention", "keyValue", "latent", "experts", "sharedExperts"}
    )
    return [_Tally("draft", layers * (per_layer + 2 * shape.hidden_size**2), "notLoaded", max(1, layers))]


def _price(tally: _Tally, precision: Precision, expert_bits: float) -> WeightPart:
    bits = precision.bits(tally.part, tally.layers)
    if expert_bits and tally.part == "experts":
        bits = expert_bits
    return WeightPart(
        part=tally.part, parameters=tally.parameters, bytes=round(tally.parameters * bits / 8), split=tally.split
    )
