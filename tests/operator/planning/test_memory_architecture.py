"""A config.json becomes the facts that planning needs, whatever dialect its family writes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.architecture import ModelArchitecture, UnsupportedArchitectureError
from llmos.api.architecture_config import parse_architecture

CONFIGS = Path(__file__).parents[3] / "bench" / "memory" / "data" / "model_configs"
ALL = sorted(CONFIGS.glob("*.json"))
STATUS_LIMIT_BYTES = 2048


def read(name: str) -> ModelArchitecture:
    return parse_architecture(json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8")))


def kinds(architecture: ModelArchitecture) -> dict[str, int]:
    return {group.kind: group.layers for group in architecture.cache}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_known_configuration_gives_facts_that_fit_into_a_status(path: Path) -> None:
    architecture = read(path.stem)
    written = architecture.model_dump_json(by_alias=True)
    assert len(architecture.model_dump_json(by_alias=True, exclude_defaults=True)) < STATUS_LIMIT_BYTES
    assert ModelArchitecture.model_validate_json(written) == architecture


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama--Llama-3.1-8B-Instruct", 8.03),
        ("meta-llama--Llama-3.2-1B-Instruct", 1.24),
        ("meta-llama--Meta-Llama-3.1-405B", 405.9),
        ("Qwen--Qwen3-30B-A3B", 30.5),
        ("Qwen--Qwen3-235B-A22B", 235.1),
        ("mistralai--Mixtral-8x22B-v0.1", 140.6),
        ("deepseek-ai--DeepSeek-V3", 671.0),
        ("deepseek-ai--DeepSeek-V2-Lite-Chat", 15.7),
        ("google--gemma-2-9b-it", 9.24),
        ("microsoft--phi-2", 2.78),
        ("openai--gpt-oss-120b", 116.8),
        ("nvidia--Llama-3_3-Nemotron-Super-49B-v1", 49.9),
        ("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.6),
        ("moonshotai--Kimi-Linear-48B-A3B-Instruct", 49.1),
        ("meta-llama--Llama-4-Scout-17B-16E-Instruct", 108.6),
    ],
)
def test_parameters_are_counted_from_the_shape_alone(name: str, billions: float) -> None:
    assert read(name).parameters / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen--Qwen3-8B", {"full": 36}),
        ("deepseek-ai--DeepSeek-V3", {"latent": 61}),
        ("google--gemma-3-27b-it", {"sliding": 52, "full": 10}),
        ("google--gemma-2-9b-it", {"sliding": 21, "full": 21}),
        ("openai--gpt-oss-20b", {"sliding": 12, "full": 12}),
        ("meta-llama--Llama-4-Scout-17B-16E-Instruct", {"chunked": 36, "full": 12}),
        ("Qwen--Qwen3.5-27B", {"recurrent": 48, "full": 16}),
        ("nvidia--NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", {"recurrent": 23, "full": 6}),
        ("moonshotai--Kimi-Linear-48B-A3B-Instruct", {"latent": 7, "recurrent": 20}),
        ("XiaomiMiMo--MiMo-V2-Flash", {"sliding": 39, "full": 9}),
        ("nvidia--Llama-3_3-Nemotron-Super-49B-v1", {"full": 49}),
        ("Qwen--Qwen2.5-7B-Instruct", {"full": 28}),
    ],
)
def test_each_dialect_of_layer_kinds_is_understood(name: str, expected: dict[str, int]) -> None:
    assert kinds(read(name)) == expected


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("Qwen--Qwen3-32B", 16.0),
        ("Qwen--Qwen3-235B-A22B-FP8", 8.0),
        ("RedHatAI--Llama-3.3-70B-Instruct-quantized.w8a8", 8.0),
        ("RedHatAI--Meta-Llama-3.1-8B-Instruct-quantized.w4a16", 4.16),
        ("nvidia--Qwen3-235B-A22B-NVFP4", 4.5),
        ("nvidia--Qwen3.6-27B-NVFP4", 4.5),
    ],
)
def test_linear_layers_cost_the_bits_of_their_scheme_with_scales(name: str, bits: float) -> None:
    architecture = read(name)
    part = next(part for part in architecture.weights if part.part in {"mlp", "experts"} and part.parameters)
    assert 8 * part.bytes / part.parameters == pytest.approx(bits, rel=0.01)


def test_modules_that_a_checkpoint_leaves_alone_keep_their_precision() -> None:
    parts = {part.part: 8 * part.bytes / part.parameters for part in read("openai--gpt-oss-20b").weights}
    assert parts["experts"] == pytest.approx(4.25)
    assert parts["attention"] == parts["embedding"] == parts["head"] == 16.0


def test_layers_that_a_checkpoint_leaves_alone_count_by_their_share() -> None:
    parts = {
        part.part: 8 * part.bytes / part.parameters
        for part in read("meta-llama--Meta-Llama-3.1-405B-Instruct-FP8").weights
    }
    assert parts["attention"] == 16.0
    assert parts["mlp"] == pytest.approx(8 * 124 / 126 + 16 * 2 / 126, abs=0.01)


def test_draft_layers_are_stored_but_not_loaded() -> None:
    architecture = read("deepseek-ai--DeepSeek-V3")
    assert architecture.stored_bytes > architecture.loaded_bytes


def test_rotary_scaling_lengthens_the_context_except_where_the_maximum_has_it_already() -> None:
    base: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "vocab_size": 1000,
        "max_position_embeddings": 32768,
    }
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    llama3 = {"rope_type": "llama3", "factor": 8.0}
    assert parse_architecture(base | {"rope_scaling": yarn}).max_context_tokens == 131072
    assert parse_architecture(base | {"rope_scaling": llama3}).max_context_tokens == 32768


def test_the_language_model_of_a_multimodal_one_is_found() -> None:
    architecture = read("Qwen--Qwen3-VL-8B-Instruct")
    assert architecture.multimodal
    assert architecture.layers == 36
    assert any(part.part == "vision" for part in architecture.weights)


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ({}, "architectures"),
        ({"architectures": ["LlamaForCausalLM"]}, "hidden_size"),
        ({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 8}, "num_hidden_layers"),
    ],
)
def test_a_configuration_without_a_needed_fact_is_refused_by_the_name_of_the_fact(
    config: dict[str, object], missing: str
) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=missing):
        parse_architecture(config)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.sampled_from(ALL),
    st.dictionaries(
        st.sampled_from(
            [
                "hidden_size",
                "num_hidden_layers",
                "num_key_value_heads",
                "vocab_size",
                "layer_types",
                "quantization_config",
                "rope_scaling",
                "vision_config",
                "text_config",
                "sliding_window",
                "block_configs",
                "compress_ratios",
                "architectures",
                "kv_lora_rank",
                "linear_attn_config",
            ]
        ),
        json_values,
        max_size=4,
    ),
)
def test_a_strangers_configuration_gives_facts_or_a_refusal_never_another_error(
    path: Path, damage: dict[str, object]
) -> None:
    config = json.loads(path.read_text(encoding="utf-8")) | damage
    with contextlib.suppress(UnsupportedArchitectureError):
        parse_architecture(config)
