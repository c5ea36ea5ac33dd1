"""A plan fits, or says with numbers why not; what it claims holds for every model and accelerator."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.architecture import ModelArchitecture
from llmos.api.architecture_config import parse_architecture
from llmos_operator.planning.engine_profile import EngineSettings
from llmos_operator.planning.memory import is_tensor_parallel_possible, plan_memory
from llmos_operator.planning.memory_cpu import plan_cpu_memory
from llmos_operator.planning.memory_estimate import Accelerators, DoesNotFit, MemoryPlan, Misfit, estimate_memory

GIB = 2**30
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LLAMA_8B = LLAMA_70B | {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
SMOLLM_135M = LLAMA_70B | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
GEMMA_LIKE = LLAMA_8B | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "num_hidden_layers": 48,
}
DEEPSEEK_LIKE = LLAMA_8B | {
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
}
HYBRID_LIKE = LLAMA_8B | {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "full_attention_interval": 4,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
}

architectures = st.sampled_from(
    [
        parse_architecture(config)
        for config in (LLAMA_70B, LLAMA_8B, SMOLLM_135M, GEMMA_LIKE, DEEPSEEK_LIKE, HYBRID_LIKE)
    ]
)
memories_gib = st.floats(4, 300)
counts = st.integers(1, 16)


def plan(
    config: dict[str, object],
    count: int,
    memory_gib: float,
    *,
    context_length: int | None = None,
    tensor_parallel_size: int | None = None,
    pipeline_parallel_size: int | None = None,
) -> MemoryPlan | DoesNotFit:
    return plan_memory(
        parse_architecture(config),
        Accelerators(count, memory_gib),
        context_length=context_length,
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
    )


def fitting(result: MemoryPlan | DoesNotFit) -> MemoryPlan:
    assert isinstance(result, MemoryPlan), result
    return result


def refused(result: MemoryPlan | DoesNotFit) -> DoesNotFit:
    assert isinstance(result, DoesNotFit), result
    return result


def test_a_70b_model_on_one_gpu_is_refused_with_its_size_and_the_count_that_would_do() -> None:
    refusal = refused(plan(LLAMA_70B, 1, 80))
    assert refusal.message == "needs 131.4 GiB for weights on 1 x 80 GiB: use count 2 or a quantized model"
    assert refusal.reason is Misfit.DOES_NOT_FIT
    assert refusal.needs_gib > refusal.has_gib


def test_weights_that_only_nearly_fit_are_refused_with_what_else_is_needed() -> None:
    message = refused(plan(LLAMA_8B, 1, 16)).message
    assert re.fullmatch(
        r"needs 15\.0 GiB for weights and \d\.\d GiB for the engine on 1 x 16 GiB, "
        r"of which \d+\.\d GiB are usable: use count 2 or a quantized model",
        message,
    ), message


def test_the_count_that_the_refusal_names_fits() -> None:
    result = fitting(plan(LLAMA_70B, 2, 80))
    assert result.tensor_parallel_size == 2
    assert result.max_concurrency >= 4


def test_weights_of_the_checkpoint_win_over_the_estimate() -> None:
    architecture = parse_architecture(LLAMA_8B)
    exact = fitting(plan_memory(architecture, Accelerators(1, 80), weights_bytes=20 * GIB))
    assert exact.weights_gib == pytest.approx(20 + architecture.rotary_bytes / GIB)


def test_a_context_longer_than_the_models_is_refused_and_the_maximum_named() -> None:
    refusal = refused(plan(LLAMA_8B, 1, 80, context_length=200_000))
    assert refusal.reason is Misfit.CONTEXT_TOO_LONG
    assert "200000" in refusal.message
    assert "131072" in refusal.message


def test_a_context_whose_cache_is_too_large_is_refused_with_a_length_that_fits() -> None:
    refusal = refused(plan(LLAMA_8B, 1, 24, context_length=131_072))
    match = re.search(r"set contextLength to (\d+)", refusal.message)
    assert match
    longest = int(match[1])
    assert fitting(plan(LLAMA_8B, 1, 24, context_length=longest)).max_concurrency >= 1
    refused(plan(LLAMA_8B, 1, 24, context_length=longest + 512))


def test_an_architecture_the_engine_does_not_know_is_refused_unless_the_image_knows_more() -> None:
    config = LLAMA_8B | {"architectures": ["PalmTreeForCausalLM"]}
    assert refused(plan(config, 1, 80)).reason is Misfit.UNKNOWN_ARCHITECTURE
    fitting(plan_memory(parse_architecture(config), Accelerators(1, 80), allow_unknown_architecture=True))


@pytest.mark.parametrize(
    "name",
    ["LlamaForSequenceClassification", "Qwen2ForTokenClassification", "LlamaModel", "Gemma2ForTokenClassification"],
)
def test_a_known_decoder_is_served_without_its_vocabulary_too(name: str) -> None:
    fitting(plan(LLAMA_8B | {"architectures": [name]}, 1, 80))


@pytest.mark.parametrize(
    "name", ["PalmTreeForTokenClassification", "BertModel", "Model", "LlamaForImageClassification"]
)
def test_other_heads_and_encoders_are_refused(name: str) -> None:
    assert refused(plan(LLAMA_8B | {"architectures": [name]}, 1, 80)).reason is Misfit.UNKNOWN_ARCHITECTURE


def test_heads_that_do_not_divide_become_pipeline_stages() -> None:
    config = LLAMA_8B | {"num_attention_heads": 40, "hidden_size": 5120, "num_key_value_heads": 10}
    result = fitting(plan(config, 16, 24))
    assert (result.tensor_parallel_size, result.pipeline_parallel_size) == (2, 8)


def test_a_parallelism_the_user_wants_is_kept_or_refused_never_changed() -> None:
    kept = fitting(plan(LLAMA_8B, 4, 80, tensor_parallel_size=1, pipeline_parallel_size=4))
    assert (kept.tensor_parallel_size, kept.pipeline_parallel_size) == (1, 4)
    assert "count is 2" in refused(plan(LLAMA_8B, 2, 80, tensor_parallel_size=4)).message
    assert "does not divide" in refused(plan(LLAMA_8B, 8, 80, tensor_parallel_size=3)).message


def test_accelerators_that_no_power_of_two_uses_are_named() -> None:
    result = fitting(plan(LLAMA_8B, 3, 80))
    assert result.tensor_parallel_size == 2
    assert "1 of 3 accelerators stay unused" in result.message


def test_experts_in_fp8_blocks_are_cut_only_between_blocks() -> None:
    config = DEEPSEEK_LIKE | {
        "moe_intermediate_size": 1536,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    architecture = parse_architecture(config)
    assert is_tensor_parallel_possible(architecture, 4)
    assert not is_tensor_parallel_possible(architecture, 8)


def test_utilization_leaves_room_for_other_contexts_on_small_gpus() -> None:
    small = fitting(plan(SMOLLM_135M, 1, 16))
    large = fitting(plan(SMOLLM_135M, 1, 141))
    assert (small.gpu_memory_utilization, large.gpu_memory_utilization) == (0.9, 0.95)


def test_a_quantized_cache_holds_twice_the_tokens() -> None:
    architecture = parse_architecture(LLAMA_8B)
    plain = estimate_memory(architecture, memory_gib=80, max_model_len=8192)
    quantized = estimate_memory(
        architecture, memory_gib=80, max_model_len=8192, settings=EngineSettings(kv_cache_dtype="fp8")
    )
    assert quantized.kv_cache.tokens == pytest.approx(2 * plain.kv_cache.tokens, rel=0.001)


def test_newer_engines_take_cuda_graphs_off_the_cache() -> None:
    architecture = parse_architecture(LLAMA_8B)
    old, new = (
        estimate_memory(
            architecture,
            memory_gib=80,
            max_model_len=8192,
            settings=EngineSettings(version=version, gpu_memory_utilization=0.9),
        )
        for version in ("0.19.0", "0.32.0")
    )
    assert old.available_kv_gib - new.available_kv_gib == pytest.approx(new.cuda_graph_gib)


def test_a_small_model_on_a_cpu_gets_a_cache_in_whole_gib_and_a_container_around_it() -> None:
    result = fitting(plan_cpu_memory(parse_architecture(SMOLLM_135M), context_length=1024))
    assert result.cpu_kv_cache_gib == 1
    assert result.gpu_memory_utilization is None
    assert 2.51 < result.container_memory_gib <= 4  # 2.51 GiB were measured resident


def test_a_cpu_replica_larger_than_its_limit_is_refused() -> None:
    refusal = refused(plan_cpu_memory(parse_architecture(LLAMA_70B), memory_limit_gib=64))
    assert re.search(r"needs \d+\.\d+ GiB .* limit is 64 GiB", refusal.message)


def test_a_cpu_replica_refuses_what_no_machine_could_serve() -> None:
    too_long = plan_cpu_memory(parse_architecture(SMOLLM_135M), context_length=10_000)
    assert refused(too_long).reason is Misfit.CONTEXT_TOO_LONG


@given(architectures, st.integers(512, 8192))
def test_a_cpu_cache_always_holds_one_sequence(architecture: ModelArchitecture, length: int) -> None:
    assert fitting(plan_cpu_memory(architecture, context_length=length)).max_concurrency >= 1


@given(architectures, memories_gib, st.floats(0, 50))
def test_more_memory_never_means_less_cache(
    architecture: ModelArchitecture, memory_gib: float, more_gib: float
) -> None:
    settings = EngineSettings(max_num_seqs=256, max_num_batched_tokens=2048)
    less, more = (
        estimate_memory(architecture, memory_gib=memory, max_model_len=4096, settings=settings)
        for memory in (memory_gib, memory_gib + more_gib)
    )
    assert more.available_kv_gib >= less.available_kv_gib
    assert more.kv_cache.blocks >= less.kv_cache.blocks
    assert more.kv_cache.max_concurrency >= less.kv_cache.max_concurrency


@given(architectures, memories_gib, st.integers(GIB, 200 * GIB), st.integers(GIB, 50 * GIB))
def test_larger_weights_always_mean_less_cache(
    architecture: ModelArchitecture, memory_gib: float, weights_bytes: int, extra_bytes: int
) -> None:
    small, large = (
        estimate_memory(architecture, memory_gib=memory_gib, max_model_len=4096, weights_bytes=size)
        for size in (weights_bytes, weights_bytes + extra_bytes)
    )
    assert large.available_kv_gib < small.available_kv_gib


@given(architectures, counts, memories_gib)
def test_what_is_planned_divides_the_heads_and_stays_within_the_count(
    architecture: ModelArchitecture, count: int, memory_gib: float
) -> None:
    result = plan_memory(architecture, Accelerators(count, memory_gib))
    if isinstance(result, MemoryPlan):
        assert architecture.attention_heads % result.tensor_parallel_size == 0
        assert result.tensor_parallel_size & (result.tensor_parallel_size - 1) == 0
        assert result.tensor_parallel_size * result.pipeline_parallel_size <= count
        assert 1 <= result.max_model_len <= architecture.max_context_tokens
        assert result.max_concurrency >= 1
        assert result.needs_gib <= memory_gib


@given(architectures, counts, memories_gib)
def test_nothing_fits_whose_weights_exceed_the_memory(
    architecture: ModelArchitecture, count: int, memory_gib: float
) -> None:
    weights_bytes = int(count * memory_gib * GIB)
    result = plan_memory(architecture, Accelerators(count, memory_gib), weights_bytes=weights_bytes)
    assert re.search(r"needs \d+\.\d+ GiB .* on \d+ x [\d.]+ GiB.*: use ", refused(result).message)


@given(architectures, counts, memories_gib, st.integers(1024, 8192))
def test_a_plan_for_a_wanted_length_is_made_for_exactly_that_length(
    architecture: ModelArchitecture, count: int, memory_gib: float, length: int
) -> None:
    result = plan_memory(architecture, Accelerators(count, memory_gib), context_length=length)
    if isinstance(result, MemoryPlan):
        assert result.max_model_len == length


@given(architectures, memories_gib)
def test_what_fits_also_fits_with_a_shorter_context(architecture: ModelArchitecture, memory_gib: float) -> None:
    result = plan_memory(architecture, Accelerators(1, memory_gib))
    if isinstance(result, MemoryPlan) and result.max_model_len > 1:
        fitting(plan_memory(architecture, Accelerators(1, memory_gib), context_length=result.max_model_len // 2))


def test_plans_and_refusals_are_frozen() -> None:
    result = fitting(plan(LLAMA_8B, 1, 80))
    with pytest.raises(AttributeError):
        result.max_model_len = 1  # type: ignore[misc]
    assert replace(result, max_model_len=1) != result
