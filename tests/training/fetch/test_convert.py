"""A GGUF file becomes the model that it was made of, once; and one that cannot is told before anybody serves nonsense.

The file is written as llama.cpp writes one: its own names of tensors, queries and keys permuted for its rotary layout,
a byte-level vocabulary with merges.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from llmos_workers.fetch.convert import convert_gguf
from llmos_workers.fetch.errors import ConversionFailedError
from llmos_workers.fetch.main import main
from llmos_workers.fetch.manifest import MANIFEST_NAME

HIDDEN, HEADS, KV_HEADS, LAYERS, WIDTH = 64, 4, 2, 2, 96
WORDS = ("he", "Ġt", "Ġthe", "Ġc")
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def build_vocabulary() -> list[str]:
    """All bytes as GPT-2 writes them, words, and the two ends."""
    return [*sorted(ByteLevel.alphabet()), *WORDS, "<|begin|>", "<|end|>"]


VOCABULARY = build_vocabulary()


@pytest.fixture(scope="module")
def original() -> Any:
    """A tiny Llama with weights from a seed."""
    torch.manual_seed(7)
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp lays out queries and keys: the halves of each head interleaved."""
    rows, columns = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_llama_cpp(path: Path, model: Any, tokenizer: str = "gpt2") -> Path:
    """Write the model as llama.cpp's converter does."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(VOCABULARY) - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["h e", "Ġ t", "Ġt he", "Ġ c"])
    writer.add_bos_token_id(len(VOCABULARY) - 2)
    writer.add_eos_token_id(len(VOCABULARY) - 1)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        data = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            data = permute(data, HEADS if "q_proj" in name else KV_HEADS)
        theirs = translate_name(name)
        if data.ndim == 1:
            writer.add_tensor(theirs, data)
        else:
            packed = gguf.quants.quantize(np.ascontiguousarray(data), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(theirs, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def translate_name(name: str) -> str:
    """Return what llama.cpp calls a tensor."""
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]


@pytest.fixture
def file(original: Any, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return write_llama_cpp(tmp_path / "source" / "tiny.gguf", original)


def count_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_converted_model_says_what_the_original_said(original: Any, file: Path, tmp_path: Path) -> None:
    convert_gguf(file, tmp_path / "model", count_parameters(original))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    tokens = torch.arange(40).remainder(len(VOCABULARY)).unsqueeze(0)
    with torch.no_grad():
        expected, found = original(tokens).logits, model(tokens).logits
    # 8 bits of the file and 8 of bfloat16's mantissa; queries or keys in another order would share nothing.
    assert torch.nn.functional.cosine_similarity(expected, found, dim=-1).min() > 0.999
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    text = " the capital of cheese"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_file_that_does_not_yield_all_its_weights_is_refused(original: Any, file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionFailedError, match="parameters, but the file has"):
        convert_gguf(file, tmp_path / "model", 2 * count_parameters(original))


def fetch(file: Path, volume: Path) -> int:
    """Run the fetch step as its pod does, on a file of a claim."""
    place = ["--pvc-mount", str(file.parent), "--dest", str(volume)]
    return main(["fetch", "--source", f"pvc://models/{file.name}", *place])


def test_a_file_is_converted_once_whatever_starts_again(file: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    assert fetch(file, volume) == 0
    weights = volume / "model" / "model.safetensors"
    before = weights.stat()
    manifest = json.loads((volume / "model" / MANIFEST_NAME).read_text())
    assert manifest["convertedFrom"] == "tiny.gguf"
    assert fetch(file, volume) == 0
    after = weights.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_cannot_be_converted_is_told_and_nothing_is_put_in_place(
    original: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    broken = write_llama_cpp(tmp_path / "source" / "broken.gguf", original, tokenizer="a-tokenizer-of-tomorrow")
    monkeypatch.setenv("LLMOS_TERMINATION_LOG", str(tmp_path / "termination"))
    assert fetch(broken, tmp_path / "volume") == 1
    said = json.loads((tmp_path / "termination").read_text())
    assert said["reason"] == "ConversionFailed"
    assert "transformers could not convert broken.gguf" in said["message"]
    assert "Use a safetensors version" in said["message"]
    assert not (tmp_path / "volume" / "model").exists()
