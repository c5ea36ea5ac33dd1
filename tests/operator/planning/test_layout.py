"""From a pool, its model and its class to the layout of a replica, or the reason why there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import AcceleratorClass, InferencePool, LLMModel, Reason
from llmos_operator.planning.layout import plan_layout
from llmos_operator.planning.pools import Layout
from tests.operator.reconcilers.world import RESOLVED, build_model, build_pool

READY = {"type": "Ready", "status": "True", "reason": "Available", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def model(*, resolved: dict[str, Any] | None = RESOLVED, deleted: bool = False, **ready: Any) -> LLMModel:
    body = build_model()
    body["metadata"] |= {"generation": 1} | ({"deletionTimestamp": READY["lastTransitionTime"]} if deleted else {})
    status = {"resolved": resolved, "conditions": [{**READY, "observedGeneration": 1, **ready}]}
    return LLMModel.model_validate({**body, "status": status})


def pool(**spec: Any) -> InferencePool:
    return InferencePool.model_validate(build_pool(**({"engine": {"name": "vllm"}} | spec)))


def accelerator(memory: str = "80Gi", *, autoprovisioned: bool = False, **status: Any) -> AcceleratorClass:
    return AcceleratorClass.model_validate(
        {
            "metadata": {"name": "h100"},
            "spec": {"memory": memory, "autoprovisioned": autoprovisioned},
            "status": {"observedGeneration": 1, "nodes": 1, "capacity": 8, "largestNode": 8, **status},
        }
    )


ON_GPU: dict[str, Any] = {"accelerator": {"class": "h100", "count": 1}}
SIMULATED: dict[str, Any] = {"engine": {"name": "simulator"}}

REFUSED: dict[str, tuple[Layout, Reason]] = {
    "the model does not exist": (plan_layout(pool(), None, None), Reason.ModelNotFound),
    "the model does not exist, and the engine would only pretend": (
        plan_layout(pool(**SIMULATED), None, None),
        Reason.ModelNotFound,
    ),
    "the model is not ready": (
        plan_layout(pool(), model(status="False", reason="RateLimited"), None),
        Reason.ModelNotReady,
    ),
    "the model changed and was not looked at again": (
        plan_layout(pool(), model(observedGeneration=0), None),
        Reason.ModelNotReady,
    ),
    "the class does not exist": (plan_layout(pool(**ON_GPU), model(), None), Reason.AcceleratorClassNotFound),
    "no node has so many": (
        plan_layout(pool(accelerator={"class": "h100", "count": 8}), model(), accelerator(largestNode=4)),
        Reason.NoNodeHasAccelerator,
    ),
    "it does not fit": (plan_layout(pool(**ON_GPU), model(), accelerator("100Mi")), Reason.DoesNotFit),
    "the context is longer than the model's": (
        plan_layout(pool(contextLength=100_000), model(), None),
        Reason.ContextTooLong,
    ),
    "the share of the memory is none": (
        plan_layout(
            pool(engine={"name": "vllm", "args": {"gpu-memory-utilization": 90}}, **ON_GPU), model(), accelerator()
        ),
        Reason.InvalidSpec,
    ),
    "the engine asks for a key of its own": (
        plan_layout(pool(engine={"name": "vllm", "args": {"api-key": "secret"}}), model(), None),
        Reason.BadEngineArgument,
    ),
    "the engine asks for a key of its own by its environment": (
        plan_layout(pool(engine={"name": "vllm", "env": [{"name": "VLLM_API_KEY", "value": "secret"}]}), model(), None),
        Reason.BadEngineArgument,
    ),
    "the facts of the architecture are missing": (
        plan_layout(pool(), model(resolved={**RESOLVED, "config": None}), None),
        Reason.UnknownArchitecture,
    ),
}


@pytest.mark.parametrize(("layout", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_there_is_no_plan_when(layout: Layout, reason: Reason) -> None:
    assert layout.plan is None
    assert layout.refusal is not None
    assert layout.refusal.reason is reason
    assert layout.refusal.message


PLANNED: dict[str, Layout] = {
    "on the processor": plan_layout(pool(), model(), None),
    "on an accelerator": plan_layout(pool(**ON_GPU), model(), accelerator()),
    "simulated, with a model that nobody has looked at": plan_layout(
        pool(**SIMULATED), LLMModel.model_validate(build_model()), None
    ),
    "nodes of the class come when pods ask for them": plan_layout(
        pool(**ON_GPU), model(), accelerator(largestNode=0, autoprovisioned=True)
    ),
    "the class was not counted yet": plan_layout(pool(**ON_GPU), model(), accelerator(observedGeneration=0)),
    "the model is being deleted, but this pool holds it back": plan_layout(
        pool(), model(status="False", reason="InUse", deleted=True), None
    ),
}


@pytest.mark.parametrize("layout", PLANNED.values(), ids=PLANNED.keys())
def test_there_is_a_plan_when(layout: Layout) -> None:
    assert layout.refusal is None
    assert layout.plan is not None
    assert layout.plan.max_model_len >= 16
    assert len(layout.plan.message) <= 1024


def test_the_context_that_the_user_asks_for_is_planned() -> None:
    layout = plan_layout(pool(contextLength=1234), model(), None)
    assert layout.plan is not None
    assert layout.plan.max_model_len == 1234


NUMBERS = st.one_of(
    st.sampled_from(["inf", "-inf", "nan", "1e400", "many", "", True, False]), st.integers(), st.floats(allow_nan=False)
)


@given(seqs=NUMBERS, tokens=NUMBERS)
def test_an_argument_that_is_no_usable_number_is_left_to_the_engine(seqs: object, tokens: object) -> None:
    engine = {"name": "vllm", "args": {"max-num-seqs": seqs, "max-num-batched-tokens": tokens}}
    layout = plan_layout(pool(engine=engine), model(), None)
    assert (layout.plan is None) != (layout.refusal is None)


@given(share=NUMBERS)
def test_any_share_of_the_memory_gives_a_plan_or_a_reason(share: object) -> None:
    engine = {"name": "vllm", "args": {"gpu-memory-utilization": share}}
    layout = plan_layout(pool(engine=engine, **ON_GPU), model(), accelerator())
    assert (layout.plan is None) != (layout.refusal is None)
