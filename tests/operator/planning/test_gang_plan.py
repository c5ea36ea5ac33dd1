"""A model that is larger than a node: how it is cut, and what is refused before a pod exists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import AcceleratorClass, InferencePool, LLMModel, Reason
from llmos.api.architecture_config import parse_architecture
from llmos_operator.planning.layout import plan_layout
from llmos_operator.planning.memory import plan_memory
from llmos_operator.planning.memory_estimate import Accelerators, DoesNotFit, MemoryPlan
from llmos_operator.planning.pools import Layout
from tests.operator.planning.test_layout import model as ready_model
from tests.operator.planning.test_memory import LLAMA_8B, LLAMA_70B
from tests.operator.reconcilers.world import build_pool

LLAMA_405B = {
    **LLAMA_70B,
    "hidden_size": 16384,
    "num_hidden_layers": 126,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "intermediate_size": 53248,
}


def plan(
    config: dict[str, Any],
    count: int,
    per_node: int = 8,
    *,
    tensor_parallel_size: int | None = None,
    pipeline_parallel_size: int | None = None,
) -> MemoryPlan | DoesNotFit:
    return plan_memory(
        parse_architecture(config),
        Accelerators(count, 80, per_node),
        tensor_parallel_size=tensor_parallel_size,
        pipeline_parallel_size=pipeline_parallel_size,
    )


def cut(config: dict[str, Any], count: int, per_node: int = 8, **sizes: int | None) -> tuple[int, int, int]:
    result = plan(config, count, per_node, **sizes)
    assert isinstance(result, MemoryPlan), result
    return result.tensor_parallel_size, result.pipeline_parallel_size, result.pods


def test_a_model_of_405b_needs_two_nodes_and_is_told_so() -> None:
    refusal = plan(LLAMA_405B, 8)
    assert isinstance(refusal, DoesNotFit)
    assert "use count 16" in refusal.message
    result = plan(LLAMA_405B, 16)
    assert isinstance(result, MemoryPlan)
    assert (result.tensor_parallel_size, result.pipeline_parallel_size, result.pods) == (8, 2, 2)
    assert "on each of 16 x 80 GiB in 2 pods" in result.message


def test_tensor_parts_stay_within_a_node_and_stages_go_across() -> None:
    assert cut(LLAMA_70B, 8) == (8, 1, 1)
    assert cut(LLAMA_70B, 16) == (8, 2, 2)
    assert cut(LLAMA_70B, 32) == (8, 4, 4)
    assert cut(LLAMA_70B, 8, per_node=4) == (4, 2, 2)
    assert cut(LLAMA_8B, 2, per_node=1) == (1, 2, 2)
    assert cut(LLAMA_70B, 12) == (4, 2, 2), "four of the six on each node, for heads cannot be cut in six"


def test_who_says_how_gets_it() -> None:
    assert cut(LLAMA_70B, 16, tensor_parallel_size=16) == (16, 1, 2)
    assert cut(LLAMA_70B, 16, pipeline_parallel_size=1) == (16, 1, 2)
    assert cut(LLAMA_70B, 16, pipeline_parallel_size=4) == (4, 4, 2)
    assert cut(LLAMA_70B, 16, tensor_parallel_size=4) == (4, 2, 2)
    assert cut(LLAMA_70B, 16, tensor_parallel_size=8, pipeline_parallel_size=2) == (8, 2, 2)


def test_what_pods_cannot_share_evenly_is_refused_with_what_they_can() -> None:
    refusal = plan(LLAMA_70B, 16, tensor_parallel_size=4, pipeline_parallel_size=3)
    assert isinstance(refusal, DoesNotFit)
    assert "cannot be divided evenly among 2 pods with 8 accelerators each" in refusal.message
    assert "a multiple of 2" in refusal.message


@given(count=st.integers(1, 64), per_node=st.integers(1, 16))
def test_every_pod_of_a_plan_has_the_same_work_and_no_more_than_it_has_accelerators(count: int, per_node: int) -> None:
    wanted = Accelerators(count, 80, per_node)
    assert wanted.pods == -(-count // per_node)
    result = plan_memory(parse_architecture(LLAMA_8B), wanted)
    if wanted.is_even and isinstance(result, MemoryPlan):
        ranks, rest = divmod(result.tensor_parallel_size * result.pipeline_parallel_size, result.pods)
        assert (result.pods, rest) == (wanted.pods, 0)
        assert ranks <= wanted.per_pod <= per_node
        assert ranks % result.tensor_parallel_size == 0, "no layer is cut across nodes unless somebody says so"


def lay_out(count: int, *, per_node: int = 8, of: LLMModel | None = None, **more: Any) -> Layout:
    status = {"observedGeneration": 1, "nodes": 4, "capacity": 32, "largestNode": 8, **more.pop("status", {})}
    body = {"metadata": {"name": "h100"}, "spec": {"memory": "80Gi", "countPerNode": per_node}, "status": status}
    spec = {"engine": {"name": "vllm"}, "accelerator": {"class": "h100", "count": count}, **more}
    return plan_layout(
        InferencePool.model_validate(build_pool(**spec)), of or ready_model(), AcceleratorClass.model_validate(body)
    )


def with_storage(**storage: str) -> LLMModel:
    made = ready_model()
    body = made.to_manifest()
    return LLMModel.model_validate({**body, "spec": {**body["spec"], "storage": storage}})


REFUSED: dict[str, tuple[Layout, Reason, str]] = {
    "pods would get different numbers": (lay_out(9), Reason.InvalidSpec, "Set spec.accelerator.count to 10."),
    "pods would get different numbers, and less would do": (lay_out(15), Reason.InvalidSpec, "14 or 16."),
    "there are not so many nodes": (
        lay_out(16, status={"nodes": 1, "capacity": 8}),
        Reason.NoNodeHasAccelerator,
        "needs 2 nodes with 8 each",
    ),
    "the nodes have fewer than the class says": (
        lay_out(8, status={"largestNode": 4}),
        Reason.NoNodeHasAccelerator,
        "set spec.countPerNode of the class to 4: it says 8.",
    ),
    "the model lies where one node only can read it": (
        lay_out(16, of=with_storage(mode="claim", accessMode="ReadWriteOnce")),
        Reason.InvalidSpec,
        "ReadWriteMany",
    ),
}


@pytest.mark.parametrize(("layout", "reason", "remedy"), REFUSED.values(), ids=REFUSED.keys())
def test_there_is_no_pod_when(layout: Layout, reason: Reason, remedy: str) -> None:
    assert layout.plan is None
    assert layout.refusal is not None
    assert layout.refusal.reason is reason
    assert remedy in layout.refusal.message


PLANNED: dict[str, Layout] = {
    "the model can be read everywhere": lay_out(16, of=with_storage(mode="claim", accessMode="ReadWriteMany")),
    "each pod fetches for itself": lay_out(16, of=with_storage(mode="ephemeral")),
    "nodes come when they are asked for": lay_out(16, status={"observedGeneration": 0, "largestNode": 0}),
    "the engine needs no files": lay_out(
        16, of=with_storage(mode="claim", accessMode="ReadWriteOnce"), engine={"name": "simulator"}
    ),
}


@pytest.mark.parametrize("layout", PLANNED.values(), ids=PLANNED.keys())
def test_there_are_two_pods_when(layout: Layout) -> None:
    assert layout.refusal is None, layout.refusal
    assert layout.plan is not None
    assert layout.plan.pods == 2
