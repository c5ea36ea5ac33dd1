"""Parses a Hugging Face config.json into the facts of `ModelArchitecture`.

Decides which layers cache what. Families say it in many ways (a list of layer types, a pattern string, an interval, a
window with a switch); each way is one function here, and the first that applies wins. What a configuration does not say
is either a documented default of its family or an `UnsupportedArchitectureError` with the field that is missing: never
a guess that would make a model look smaller than it is.

Pure: no files, no network. Runs in the inspector's pod and in `llmos plan` alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from llmos.api.architecture import CacheGroup, CacheKind, ModelArchitecture, UnsupportedArchitectureError
from llmos.api.architecture_precision import parse_precision
from llmos.api.architecture_reader import ConfigReader
from llmos.api.architecture_weights import Shape, count_weights, mamba_sizes, parse_experts

_CONTEXT_FIELDS: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "model_max_length",
    "max_seq_len",
)
_FAMILIES_WITHOUT_ROTARY: Final = frozenset({"bloom", "gpt2", "gpt_bigcode", "mpt", "nemotron_h", "opt"})
_TEXT_CONFIGS: Final = ("text_config", "language_config", "llm_config", "thinker_config")
_SLIDING_TYPES: Final = frozenset({"sliding_attention", "local_attention"})
_RECURRENT_TYPES: Final = frozenset({"linear_attention", "mamba", "mamba2", "recurrent", "kda", "M"})
_IDLE_TYPES: Final = frozenset({"E", "-", "moe", "mlp"})  # layers without any mixer in pattern strings
# Windows of these families apply only behind a switch that is off by default.
_SWITCHED_WINDOW_FAMILIES: Final = ("qwen2", "qwen3")
_ROPE_TYPES_WITHIN_MAXIMUM: Final = frozenset({"", "default", "llama3", "longrope", "mrope", "proportional", "su"})
_SIXTEEN_BIT_BYTES: Final = 2
_INDEXER_ENTRY_BYTES: Final = 132  # 128 8-bit numbers and one 32-bit scale


def parse_architecture(config: Mapping[str, object]) -> ModelArchitecture:
    """Facts of the model that a config.json describes.

    Raises:
        UnsupportedArchitectureError: a needed field is missing or out of bounds; the message names it and a remedy.
    """
    whole = ConfigReader(config)
    text = _text_model(whole)
    name = next(iter(whole.texts("architectures") or text.texts("architectures")), "")
    if not name:
        raise UnsupportedArchitectureError(
            "config.json names no architectures. Use a checkpoint in the Hugging Face layout; its config.json has them."
        )
    shape = _parse_shape(text, whole)
    longest = text.integer(*_CONTEXT_FIELDS) or whole.required(*_CONTEXT_FIELDS)
    precision = parse_precision(whole if whole.child("quantization_config", "compression_config") else text)
    try:
        cache = _merge(_cache_groups(text, shape))
        experts = parse_experts(text, shape)
        return ModelArchitecture(
            name=name,
            family=shape.family,
            layers=shape.layers,
            hidden_size=shape.hidden_size,
            attention_heads=shape.heads,
            key_value_heads=shape.key_value_heads,
            head_dim=shape.head_dim,
            vocabulary_size=shape.vocabulary_size,
            max_context_tokens=_max_context_tokens(text, longest),
            dtype=text.text("torch_dtype", "dtype") or whole.text("torch_dtype", "dtype", default="bfloat16"),
            quantization=precision.method,
            kv_cache_bits=precision.kv_cache_bits,
            rotary_bytes=_rotary_table_bytes(text, shape, longest),
            experts=experts.experts,
            experts_per_token=text.integer("num_experts_per_tok", "num_experts_per_token", "top_k_experts", default=0),
            intermediate_size=text.integer("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
            expert_intermediate_size=experts.width,
            multimodal=bool(whole.child("vision_config", "visual", "audio_config")),
            cache=cache,
            weights=count_weights(text, whole, shape, cache, precision),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UnsupportedArchitectureError(
            f"config.json of {name[:128]} has a value that cannot be planned: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}. Check that the file belongs to a language model."
        ) from error


def _text_model(whole: ConfigReader) -> ConfigReader:
    text = whole.child(*_TEXT_CONFIGS)
    while text and (inner := text.child(*_TEXT_CONFIGS)):
        text = inner
    return text or whole


def _parse_shape(text: ConfigReader, whole: ConfigReader) -> Shape:
    hidden = text.required("hidden_size", "n_embd", "d_model")
    heads = text.required("num_attention_heads", "n_head", "n_heads")
    default_key_value_heads = 1 if text.flag("multi_query", default=False) else heads
    return Shape(
        family=(text.text("model_type") or whole.text("model_type", default="unknown"))[:64],
        layers=text.required("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden_size=hidden,
        heads=heads,
        key_value_heads=text.integer(
            "num_key_value_heads", "num_kv_heads", "n_head_kv", default=default_key_value_heads
        ),
        head_dim=text.integer("head_dim", "kv_channels", default=max(1, hidden // heads)),
        vocabulary_size=text.integer("vocab_size", "padded_vocab_size") or whole.required("vocab_size"),
    )


def _max_context_tokens(text: ConfigReader, longest: int) -> int:
    if text.text("model_type").startswith("gemma3"):
        return longest  # this family states the maximum with its scaling already applied
    return _scaled_positions(text, longest)


def _scaled_positions(text: ConfigReader, longest: int) -> int:
    """Positions after rotary scaling: the length an engine derives, and the length of its rotary table."""
    rope = text.child("rope_scaling", "rope_parameters")
    rope = rope.child("full_attention") or rope
    kind = rope.text("rope_type", "type").lower()
    factor = rope.number("factor", default=1.0)
    if kind in _ROPE_TYPES_WITHIN_MAXIMUM or factor <= 1.0:
        return longest
    base = rope.integer("original_max_position_embeddings", default=longest) if kind == "yarn" else longest
    return max(longest, int(base * factor))


def _rotary_table_bytes(text: ConfigReader, shape: Shape, longest: int) -> int:
    """Cosines and sines for every position, which each GPU keeps whole: 2.5 GiB for ten million positions of 128."""
    if shape.family in _FAMILIES_WITHOUT_ROTARY:
        return 0
    dim = text.integer("qk_rope_head_dim") or int(shape.head_dim * text.number("partial_rotary_factor", default=1.0))
    local_table = longest if shape.family.startswith("gemma3") else 0
    return (_scaled_positions(text, longest) + local_table) * dim * _SIXTEEN_BIT_BYTES


def _merge(groups: list[CacheGroup]) -> tuple[CacheGroup, ...]:
    """Groups of equal shape become one, in a stable order."""
    layers: Counter[CacheGroup] = Counter()
    for group in groups:
        layers[group.model_copy(update={"layers": 1})] += group.layers
    return tuple(group.model_copy(update={"layers": count}) for group, count in layers.items())


def _cache_groups(text: ConfigReader, shape: Shape) -> list[CacheGroup]:
    if text.has("block_configs"):
        return _searched_blocks(text, shape)
    if text.has("compress_ratios"):
        return _compressed(text, shape)
    if text.integer("kv_lora_rank"):
        return _latent(text, shape)
    return [_group(text, shape, kind, count) for kind, count in _count_kinds(text, shape).items() if count > 0]


def _count_kinds(text: ConfigReader, shape: Shape) -> dict[CacheKind, int]:
    """How many layers of each kind an attention model has."""
    layer_types = (
        text.texts("layer_types") or text.texts("layers_block_type") or list(text.text("hybrid_override_pattern"))
    )
    if layer_types:
        return _kinds_of(layer_types[: shape.layers])
    window = text.integer("sliding_window", "sliding_window_size", "attention_window_size")
    if text.has("hybrid_layer_pattern"):
        sliding = sum(1 for item in text.items("hybrid_layer_pattern") if item == 1)
    elif text.integer("full_attention_interval") and text.has("linear_num_value_heads"):
        full = shape.layers // text.integer("full_attention_interval")
        return {"recurrent": shape.layers - full, "full": full}
    elif text.integer("attention_chunk_size"):
        full = shape.layers // text.integer("no_rope_layer_interval", default=4)
        return {"chunked": shape.layers - full, "full": full}
    elif window and _window_applies(text, shape):
        sliding = shape.layers - _full_layers_between_windows(text, shape)
    else:
        sliding = 0
    return {"sliding": sliding, "full": shape.layers - sliding}


def _kinds_of(layer_types: list[str]) -> dict[CacheKind, int]:
    counts: Counter[CacheKind] = Counter()
    for layer_type in layer_types:
        if layer_type in _SLIDING_TYPES:
            counts["sliding"] += 1
        elif layer_type == "chunked_attention":
            counts["chunked"] += 1
        elif layer_type in _RECURRENT_TYPES:
            counts["recurrent"] += 1
        elif layer_type not in _IDLE_TYPES:
            counts["full"] += 1
    return dict(counts)


def _window_applies(text: ConfigReader, shape: Shape) -> bool:
    switched = shape.family.startswith(_SWITCHED_WINDOW_FAMILIES)
    return text.flag("use_sliding_window", default=not switched)


def _full_layers_between_windows(text: ConfigReader, shape: Shape) -> int:
    if shape.family in {"gemma2", "gpt_oss"}:
        return shape.layers // 2
    default = {"gemma3_text": 6, "gemma3": 6, "cohere2": 4}.get(shape.family, 0)
    interval = text.integer("sliding_window_pattern", default=default)
    if interval:
        return shape.layers // interval
    return text.integer("max_window_layers") if shape.family.startswith(_SWITCHED_WINDOW_FAMILIES) else 0


def _group(text: ConfigReader, shape: Shape, kind: CacheKind, layers: int) -> CacheGroup:
    if kind == "recurrent":
        return CacheGroup(kind=kind, layers=layers, state_bytes=_state_bytes(text, shape))
    heads, dim = shape.key_value_heads, shape.head_dim
    if kind == "full":
        heads = text.integer("num_global_key_value_heads", default=heads)
        dim = text.integer("global_head_dim", default=dim)
    if kind == "sliding":
        heads = text.integer("swa_num_key_value_heads", default=heads)
        dim = text.integer("swa_head_dim", default=dim)
    window = {
        "sliding": text.integer("sliding_window", "sliding_window_size", "attention_window_size"),
        "chunked": text.integer("attention_chunk_size"),
    }.get(kind, 0)
    value = text.integer("swa_v_head_dim" if kind == "sliding" else "v_head_dim", default=dim)
    return CacheGroup(kind=kind, layers=layers, heads=heads, key_dim=dim, value_dim=value, window_tokens=window)


def _state_bytes(text: ConfigReader, shape: Shape) -> int:
    """Convolution window in 16 bits and the state itself, for one sequence and one layer."""
    kda = text.child("linear_attn_config")
    if kda:
        width = kda.integer("num_heads") * kda.integer("head_dim")
        convolution = 3 * width * (kda.integer("short_conv_kernel_size", default=4) - 1)
        return _SIXTEEN_BIT_BYTES * convolution + 4 * width * kda.integer("head_dim")
    if text.has("linear_num_value_heads"):
        key_dim, value_dim = text.integer("linear_key_head_dim"), text.integer("linear_value_head_dim")
        value_heads = text.integer("linear_num_value_heads")
        channels = 2 * text.integer("linear_num_key_heads") * key_dim + value_heads * value_dim
        numbers = value_heads * key_dim * value_dim
        dtype = text.text("mamba_ssm_dtype")
        kernel = text.integer("linear_conv_kernel_dim", default=4)
    else:
        inner, groups_state = mamba_sizes(text, shape)
        channels = inner + 2 * groups_state
        numbers = inner * text.integer("ssm_state_size", "mamba_d_state", default=128)
        dtype = text.text("mamba_ssm_cache_dtype")
        kernel = text.integer("conv_kernel", "mamba_d_conv", default=4)
    state_size = 4 if dtype == "float32" else _SIXTEEN_BIT_BYTES
    return _SIXTEEN_BIT_BYTES * channels * (kernel - 1) + state_size * numbers


def _latent(text: ConfigReader, shape: Shape) -> list[CacheGroup]:
    dim = text.integer("kv_lora_rank") + text.integer("qk_rope_head_dim")
    kda_layers = len(text.child("linear_attn_config").items("kda_layers"))
    layers = shape.layers - kda_layers
    groups = [CacheGroup(kind="latent", layers=layers, heads=1, key_dim=dim)]
    if kda_layers:
        groups.append(CacheGroup(kind="recurrent", layers=kda_layers, state_bytes=_state_bytes(text, shape)))
    if text.integer("index_head_dim"):
        # The sparse-attention indexer keeps its own 8-bit keys; in 16-bit numbers that is half as many.
        numbers = _INDEXER_ENTRY_BYTES // _SIXTEEN_BIT_BYTES
        indexers = text.texts("indexer_types").count("full") or layers
        groups.append(CacheGroup(kind="latent", layers=indexers, heads=1, key_dim=numbers))
    return groups


def _compressed(text: ConfigReader, shape: Shape) -> list[CacheGroup]:
    """Layers that keep a window of tokens and one entry for each `ratio` older tokens."""
    ratios = [ratio for ratio in text.items("compress_ratios")[: shape.layers] if isinstance(ratio, int)]
    window = text.integer("sliding_window", default=128)
    groups = [
        CacheGroup(kind="sliding", layers=1, heads=1, key_dim=shape.head_dim, window_tokens=window) for _ in ratios
    ]
    return groups + [
        CacheGroup(kind="latent", layers=1, heads=1, key_dim=shape.head_dim, tokens_per_entry=ratio)
        for ratio in ratios
        if ratio > 0
    ]


def _searched_blocks(text: ConfigReader, shape: Shape) -> list[CacheGroup]:
    """Architectures found by search: every block says how many query heads share a key-value head, or has none."""
    groups = []
    for block in text.items("block_configs")[: shape.layers]:
        attention = ConfigReader(block).child("attention") if isinstance(block, Mapping) else ConfigReader({})
        sharing = attention.integer("n_heads_in_group")
        if sharing:
            heads = max(1, shape.heads // sharing)
            groups.append(
                CacheGroup(kind="full", layers=1, heads=heads, key_dim=shape.head_dim, value_dim=shape.head_dim)
            )
    return groups
