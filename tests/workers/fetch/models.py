"""Tiny models for the fetch tests, written by the same libraries that write real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save

LAYERS, HIDDEN, HEADS, VOCABULARY, WIDTH = 2, 64, 4, 96, 128

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
}


def build_tensors(dtype: str = "float16") -> dict[str, np.ndarray]:
    """Weights of the tiny Llama; values from a seed."""
    random = np.random.default_rng(7)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"model.layers.{layer}.self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
            f"model.layers.{layer}.self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN),
            f"model.layers.{layer}.self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            f"model.layers.{layer}.mlp.gate_proj.weight": (WIDTH, HIDDEN),
        }
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


PARAMETERS = sum(tensor.size for tensor in build_tensors().values())


def build_model(dtype: str = "float16", *, shards: int = 1, **config: Any) -> dict[str, bytes]:
    """Files of a model in the Hugging Face layout."""
    tensors = build_tensors(dtype)
    files = {
        "config.json": json.dumps(CONFIG | {"torch_dtype": dtype} | config).encode(),
        "tokenizer.json": b'{"model": {"type": "BPE"}}',
        "tokenizer_config.json": b"{}",
        "README.md": b"# tiny",
    }
    if shards == 1:
        return files | {"model.safetensors": save(tensors)}
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in names[number::shards]}
        weight_map |= dict.fromkeys(part, name)
        files[name] = save(part)
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return files


def write_gguf(path: Path, architecture: str = "llama") -> Path:
    """Write a tiny GGUF model, some tensors quantized, with a vocabulary."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{number}" for number in range(VOCABULARY)])
    writer.add_token_scores([0.5] * VOCABULARY)
    random = np.random.default_rng(7)
    for name, tensor in build_tensors("float32").items():
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        else:
            packed = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("rope_freqs.weight", random.standard_normal(8).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder and return it."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def build_adapter(rank: int = 8, *, seed: int = 7, **config: Any) -> dict[str, bytes]:
    """Files of a LoRA adapter of the tiny Llama, as PEFT saves it."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(LAYERS):
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{prefix}.lora_A.weight"] = random.standard_normal((rank, HIDDEN)).astype("float32")
        tensors[f"{prefix}.lora_B.weight"] = random.standard_normal((HIDDEN, rank)).astype("float32")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
    return {
        "adapter_config.json": json.dumps(settings | config).encode(),
        "adapter_model.safetensors": save(tensors),
        "README.md": b"# adapter",
    }
