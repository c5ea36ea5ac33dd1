"""Translates the metadata of a GGUF file into the config.json that the converted model will have. Pure.

Only architectures that transformers can read from GGUF are listed (its table GGUF_CONFIG_MAPPING): naming one that
cannot be converted would pass inspection and fail after the download.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmos_workers.fetch.errors import UnknownArchitectureError
from llmos_workers.fetch.gguf_header import GgufHeader


@dataclass(frozen=True)
class _Family:
    architecture: str
    model_type: str
    is_mixture: bool = False


_FAMILIES: Final = {
    "gemma2": _Family("Gemma2ForCausalLM", "gemma2"),
    "gemma3": _Family("Gemma3ForCausalLM", "gemma3_text"),
    "llama": _Family("LlamaForCausalLM", "llama"),
    "nemotron": _Family("NemotronForCausalLM", "nemotron"),
    "phi3": _Family("Phi3ForCausalLM", "phi3"),
    "qwen2": _Family("Qwen2ForCausalLM", "qwen2"),
    "qwen2moe": _Family("Qwen2MoeForCausalLM", "qwen2_moe", is_mixture=True),
    "qwen3": _Family("Qwen3ForCausalLM", "qwen3"),
    "qwen3moe": _Family("Qwen3MoeForCausalLM", "qwen3_moe", is_mixture=True),
    "stablelm": _Family("StableLmForCausalLM", "stablelm"),
    "starcoder2": _Family("Starcoder2ForCausalLM", "starcoder2"),
}


def build_config(header: GgufHeader) -> dict[str, object]:
    """Return the fields of config.json that planning needs.

    Raises:
        UnknownArchitectureError: transformers cannot convert it.
    """
    family = _FAMILIES.get(header.architecture)
    if family is None or (header.integer("expert_count") and not family.is_mixture):
        kind = f"{header.architecture[:64]!r}" + (" with experts" if family else "")
        raise UnknownArchitectureError(
            f"GGUF files of the architecture {kind} cannot be converted",
            f"Use a safetensors version of the model; convertible are {', '.join(sorted(_FAMILIES))}.",
        )
    hidden_size, heads = header.integer("embedding_length"), header.integer("attention.head_count")
    # transformers takes the rotary width of llama models for the head size, as llama.cpp writes no other there.
    head_dim = header.integer("attention.key_length") or (
        header.integer("rope.dimension_count") if family.model_type == "llama" else 0
    )
    config: dict[str, object] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_size": hidden_size,
        "intermediate_size": header.integer("feed_forward_length"),
        "num_hidden_layers": header.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.integer("attention.head_count_kv", heads),
        "head_dim": head_dim or hidden_size // max(1, heads),
        "vocab_size": header.integer("vocab_size") or header.lengths.get("tokenizer.ggml.tokens", 0),
        "max_position_embeddings": header.integer("context_length"),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in header.tensors),
        "torch_dtype": "bfloat16",
    }
    if window := header.integer("attention.sliding_window"):
        config["sliding_window"] = window
    if family.is_mixture:
        config |= {
            "num_experts": header.integer("expert_count"),
            "num_experts_per_tok": header.integer("expert_used_count"),
            "moe_intermediate_size": header.integer("expert_feed_forward_length"),
            "shared_expert_intermediate_size": header.integer("expert_shared_feed_forward_length"),
        }
    return config
