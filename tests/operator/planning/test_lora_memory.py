"""Memory for adapters: the formula against hand-made numbers, and what it does to a plan."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import InferencePool, LLMModel, Reason
from llmos.api.architecture import ModelArchitecture
from llmos.api.architecture_config import parse_architecture
from llmos.api.inferencepool import Adapters
from llmos_operator.planning.engine_profile import EngineSettings
from llmos_operator.planning.layout import plan_layout
from llmos_operator.planning.lora_memory import compute_files_bytes, compute_lora_gib, compute_slot_parameters
from llmos_operator.planning.memory import plan_memory
from llmos_operator.planning.memory_cpu import plan_cpu_memory
from llmos_operator.planning.memory_estimate import Accelerators, DoesNotFit
from tests.operator.planning.test_adapters import adapter
from tests.operator.reconcilers.world import RESOLVED, build_model, build_pool

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


def llama(**change: Any) -> ModelArchitecture:
    return parse_architecture({**LLAMA, **change})


def test_a_slot_of_llama_8b_is_the_sum_of_its_matrices() -> None:
    attention = 3 * 4096 + (32 + 16) * 128 + 32 * 128 + 4096
    mlp = 2 * 4096 + 2 * 14336 + 14336 + 4096
    embeddings = 2 * (128256 + 4096)
    assert compute_slot_parameters(llama(), 16) == 16 * (32 * (attention + mlp) + embeddings)


def test_slots_and_ranks_multiply_and_parallelism_divides_only_what_vllm_divides() -> None:
    def gib(slots: int = 4, rank: int = 16, tensor: int = 1, pipeline: int = 1) -> float:
        return compute_lora_gib(
            llama(), slots=slots, rank=rank, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline
        )

    assert gib(slots=0) == 0
    assert gib(slots=8) == pytest.approx(2 * gib())
    assert gib(rank=64) == pytest.approx(4 * gib())
    assert gib() / 2 < gib(tensor=2) < gib()
    assert gib(pipeline=2) < gib()


def test_adapters_take_their_memory_from_the_kv_cache_and_the_plan_says_so() -> None:
    def plan(**lora: Any) -> Any:
        return plan_memory(llama(), Accelerators(1, 80.0), settings=EngineSettings(**lora), context_length=8192)

    without, with_lora = plan(), plan(max_loras=8, max_lora_rank=64)
    taken = compute_lora_gib(llama(), slots=8, rank=64, tensor_parallel_size=1, pipeline_parallel_size=1)
    assert without.kv_cache_gib - with_lora.kv_cache_gib == pytest.approx(taken)
    assert "GiB for adapters" in with_lora.message
    assert "adapters" not in without.message
    assert isinstance(plan(max_loras=64, max_lora_rank=512), DoesNotFit)


def test_on_a_processor_the_container_is_larger_by_the_slots_and_by_those_that_wait_for_one() -> None:
    def plan(**lora: Any) -> Any:
        return plan_cpu_memory(llama(), settings=EngineSettings(**lora), context_length=2048)

    taken = 3 * compute_lora_gib(llama(), slots=4, rank=16, tensor_parallel_size=1, pipeline_parallel_size=1)
    assert plan(max_loras=4, max_lora_rank=16).needs_gib - plan().needs_gib == pytest.approx(1.1 * taken)


def test_fewer_slots_than_adapters_need_less_and_all_of_them_still_have_room_on_the_host() -> None:
    def needs(*, slots: int, host: int = 0) -> float:
        settings = EngineSettings(max_loras=slots, max_cpu_loras=host, max_lora_rank=16)
        return plan_cpu_memory(llama(), settings=settings, context_length=2048).needs_gib

    each = 1.1 * compute_lora_gib(llama(), slots=1, rank=16, tensor_parallel_size=1, pipeline_parallel_size=1)
    assert needs(slots=8) - needs(slots=2, host=16) == pytest.approx(6 * each)


def test_the_plan_of_a_pool_counts_its_slots() -> None:
    ready = {"type": "Ready", "status": "True", "reason": "Available", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    model = LLMModel.model_validate({**build_model(), "status": {"resolved": RESOLVED, "conditions": [ready]}})

    def needs(**adapters: int) -> float:
        plan = layout(model, accelerator={"class": "cpu"}, engine={"name": "vllm"}, adapters=adapters).plan
        return float(plan.container_memory_gib)

    assert needs(maxLoaded=8, maxRank=512, slots=2) < needs(maxLoaded=8, maxRank=512)


def test_files_of_all_adapters_and_one_version_more_find_room() -> None:
    adapters = Adapters(max_loaded=4, max_rank=16)
    matrices = compute_slot_parameters(llama(), 16) - 16 * 2 * (128256 + 4096)
    assert compute_files_bytes(adapters, llama()) >= 5 * 4 * matrices
    assert compute_files_bytes(adapters, None) == 5 * (256 << 20)


def layout(model: LLMModel | None, **spec: Any) -> Any:
    return plan_layout(InferencePool.model_validate(build_pool(**spec)), model, None)


def test_a_pool_of_an_adapter_is_refused_and_so_are_adapters_of_gangs() -> None:
    refusal = layout(adapter(name="smollm2"), engine={"name": "vllm"}).refusal
    assert refusal.reason is Reason.InvalidSpec
    assert "is a LoRA adapter: set modelRef to its base model" in refusal.message
    assert layout(LLMModel.model_validate(build_model()), adapters={}).plan is not None
