"""Which adapters a pool loads, and what its status says of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmos.api import InferencePool, LLMModel, Reason
from llmos.api.adapters import AdapterState, HeldAdapter, HeldAdapters
from llmos.api.inferencepool import AdapterStatus
from llmos_operator.planning.adapters import (
    AdapterPlan,
    build_adapter_statuses,
    build_adapters_fact,
    plan_adapters,
)
from llmos_operator.planning.failures import build_failure
from tests.operator.reconcilers.world import build_pool

ONE, TWO = (f"sha256:{digit * 64}" for digit in "12")


def pool(*before: AdapterStatus, **adapters: Any) -> InferencePool:
    body = InferencePool.model_validate(build_pool(adapters=adapters))
    return body.model_copy(update={"status": body.status.model_copy(update={"adapters": before})})


def adapter(name: str = "a", *, age: int = 0, digest: str = ONE, rank: int = 8, **change: Any) -> LLMModel:
    facts = {
        "digest": digest,
        "architecture": "LoRA",
        "parameters": 1,
        "layers": 0,
        "kvHeads": 0,
        "headDim": 0,
        "vocabulary": 0,
        "maxContext": 0,
        "weightsBytes": 2,
        "dtype": "float32",
        "adapter": {"rank": rank, "head": change.pop("head", "")},
    }
    ready = change.pop("ready", "True")
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "Available" if ready == "True" else "SourceNotFound",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    return LLMModel.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "team-a",
                "generation": 1,
                "creationTimestamp": f"2026-01-01T00:{59 - age:02}:00Z",
                **change.pop("metadata", {}),
            },
            "spec": {
                "source": {"uri": "hf://org/name@main"},
                "adapter": {"baseModelRef": {"name": change.pop("base", "smollm2")}, "attachTo": ["chat"]},
                **change,
            },
            "status": {"resolved": facts if ready == "True" else None, "conditions": [condition]},
        }
    )


def says(digest: str, state: AdapterState = "loaded", message: str = "", name: str = "a") -> HeldAdapters:
    return HeldAdapters(adapters=(HeldAdapter(name=name, digest=digest, state=state, message=message),))


def names(plan: AdapterPlan) -> list[str]:
    return [wanted.name for wanted in plan.load]


def reasons(plan: AdapterPlan) -> dict[str, Reason]:
    return {name: failure.reason for name, _, failure in plan.refused}


def test_adapters_are_those_that_the_pool_names_and_those_that_name_the_pool() -> None:
    named = adapter("named").model_copy(update={"spec": adapter(adapter=None).spec})
    of_itself = adapter("of-itself")
    unrelated = adapter("unrelated", adapter={"baseModelRef": {"name": "smollm2"}, "attachTo": ["other"]})
    known = adapter("known", adapter={"baseModelRef": {"name": "smollm2"}})
    models = [{"name": name} for name in ("known", "missing", "named")]
    plan = plan_adapters(pool(models=models), [named, of_itself, unrelated, known])
    assert names(plan) == ["known", "of-itself"]
    assert reasons(plan) == {"missing": Reason.ModelNotFound, "named": Reason.AdapterDoesNotFit}


def test_each_reason_not_to_load_an_adapter_is_named_with_a_remedy() -> None:
    plan = plan_adapters(
        pool(maxRank=16),
        [
            adapter("large", rank=17),
            adapter("foreign", base="other"),
            adapter("broken", ready="False"),
            adapter("classifier", head="score"),
        ],
    )
    assert names(plan) == []
    assert reasons(plan) == {
        "large": Reason.AdapterTooLarge,
        "foreign": Reason.AdapterDoesNotFit,
        "broken": Reason.ModelNotReady,
        "classifier": Reason.AdapterDoesNotFit,
    }
    words = {name: failure.message for name, _, failure in plan.refused}
    assert "an output layer of its own (score)" in words["classifier"]
    assert "kubectl describe llmmodel broken" in words["broken"]
    assert all(len(failure.message.split(". ")) > 1 for _, _, failure in plan.refused)


def base(digest: str) -> LLMModel:
    return adapter("smollm2", digest=digest, adapter=None)


def test_an_adapter_of_another_state_of_its_base_model_is_not_loaded() -> None:
    learned = adapter(origin={"job": "tune", "baseDigest": ONE})
    assert names(plan_adapters(pool(), [learned, base(ONE)])) == ["a"]
    plan = plan_adapters(pool(), [learned, base(TWO)])
    assert reasons(plan) == {"a": Reason.AdapterDoesNotFit}
    ((_, _, failure),) = plan.refused
    assert "sha256:111111111111, which now has sha256:222222222222" in failure.message
    assert "train it anew" in failure.message


def test_where_nobody_knows_the_state_of_the_base_model_an_adapter_is_loaded() -> None:
    unknown = adapter("smollm2", ready="False", adapter=None)
    learned = adapter(origin={"job": "tune", "baseDigest": ONE})
    assert names(plan_adapters(pool(), [learned, unknown])) == ["a"]
    assert names(plan_adapters(pool(), [adapter(), base(TWO)])) == ["a"]


def test_of_too_many_the_oldest_stay_and_one_that_does_not_fit_takes_no_place() -> None:
    models = [adapter("young", age=1), adapter("large", age=9, rank=64), adapter("old", age=3), adapter("mid", age=2)]
    plan = plan_adapters(pool(maxLoaded=2), models)
    assert names(plan) == ["old", "mid"]
    assert reasons(plan) == {"large": Reason.AdapterTooLarge, "young": Reason.TooManyAdapters}


def test_an_adapter_that_is_being_deleted_is_detached_unless_the_pool_names_it() -> None:
    going = adapter(metadata={"deletionTimestamp": "2026-01-02T00:00:00Z"})
    assert names(plan_adapters(pool(), [going])) == []
    assert names(plan_adapters(pool(models=[{"name": "a"}]), [going])) == ["a"]


def test_status_names_the_replicas_that_said_that_they_serve_the_digest() -> None:
    plan = plan_adapters(pool(), [adapter()])
    held = {"p-0": says(ONE), "p-1": says(ONE, "loading"), "p-2": None}
    (status,) = build_adapter_statuses(pool(), plan, held, {})
    assert (status.digest, status.replicas, status.reason) == (ONE, ("p-0",), "Loading")
    assert status.message.startswith("1 of 3 replicas")
    fact = build_adapters_fact(pool(), (status,))
    assert fact is not None
    assert (fact.status, fact.reason) == ("False", Reason.AdaptersLoading)


def test_a_replica_that_is_silent_for_a_moment_keeps_its_place_and_one_that_is_gone_loses_it() -> None:
    before = AdapterStatus(name="a", digest=ONE, replicas=("p-0", "p-1"), reason="Loaded")
    plan = plan_adapters(pool(before), [adapter()])
    (status,) = build_adapter_statuses(pool(before), plan, {"p-0": None}, {})
    assert (status.replicas, status.reason) == (("p-0",), "Loaded")


def test_of_a_new_version_the_one_before_is_named_until_the_first_replica_has_the_new_one() -> None:
    before = AdapterStatus(name="a", digest=ONE, replicas=("p-0", "p-1"), reason="Loaded")
    plan = plan_adapters(pool(before), [adapter(digest=TWO)])
    (status,) = build_adapter_statuses(pool(before), plan, dict.fromkeys(("p-0", "p-1"), says(TWO, "loading")), {})
    assert (status.digest, status.replicas, status.reason) == (ONE, ("p-0", "p-1"), "Loading")
    (status,) = build_adapter_statuses(pool(status), plan, {"p-0": says(TWO), "p-1": says(TWO, "loading")}, {})
    assert (status.digest, status.replicas) == (TWO, ("p-0",))


def test_a_version_that_is_being_looked_at_or_cannot_be_had_leaves_the_one_before_in_place() -> None:
    before = AdapterStatus(name="a", digest=ONE, replicas=("p-0",), reason="Loaded")
    plan = plan_adapters(pool(before), [adapter(ready="False")])
    assert [(wanted.name, wanted.digest) for wanted in plan.load] == [("a", ONE)]
    (status,) = build_adapter_statuses(pool(before), plan, {"p-0": says(ONE)}, {})
    assert (status.digest, status.replicas, status.reason) == (ONE, ("p-0",), "ModelNotReady")


def test_why_a_replica_does_not_load_is_told_and_first_why_the_files_are_not_shared() -> None:
    plan = plan_adapters(pool(), [adapter()])
    held = {"p-0": says(ONE, "failed", "The engine does not load it."), "p-1": says(ONE)}
    (status,) = build_adapter_statuses(pool(), plan, held, {})
    assert (status.reason, status.message) == ("AdapterLoadFailed", "p-0: The engine does not load it.")
    trouble = build_failure(Reason.AccessDenied, "The hub answered 401.")
    (status,) = build_adapter_statuses(pool(), plan, held, {"a": trouble})
    assert "The hub answered 401" in status.message


def test_a_pool_that_can_load_none_says_nothing_and_one_with_none_attached_is_content() -> None:
    without = InferencePool.model_validate(build_pool())
    assert plan_adapters(without, [adapter()]) == AdapterPlan()
    assert build_adapters_fact(without, ()) is None
    fact = build_adapters_fact(pool(), ())
    assert fact is not None
    assert fact.status == "True"


models = st.lists(
    st.builds(
        lambda number, age, rank, base, ready: adapter(f"a{number}", age=age, rank=rank, base=base, ready=ready),
        st.integers(0, 20),
        st.integers(0, 59),
        st.integers(1, 32),
        st.sampled_from(["smollm2", "smollm2", "other"]),
        st.sampled_from(["True", "True", "False"]),
    ),
    max_size=12,
    unique_by=lambda model: model.metadata.name,
)


@given(models, st.integers(1, 5))
def test_never_more_than_the_pool_holds_and_every_adapter_is_loaded_or_explained(
    found: list[LLMModel], most: int
) -> None:
    plan = plan_adapters(pool(maxLoaded=most), found)
    assert len(plan.load) <= most
    assert sorted([*names(plan), *reasons(plan)]) == sorted(model.metadata.name for model in found)
    assert plan == plan_adapters(pool(maxLoaded=most), found[::-1])


@given(models, st.integers(1, 5))
def test_a_new_adapter_never_pushes_out_one_that_is_loaded(found: list[LLMModel], most: int) -> None:
    ordered = sorted(found, key=lambda model: (model.metadata.creation_timestamp, model.metadata.name))
    for count in range(len(ordered)):
        before = names(plan_adapters(pool(maxLoaded=most), ordered[:count]))
        assert names(plan_adapters(pool(maxLoaded=most), ordered[: count + 1]))[: len(before)] == before


@given(
    st.dictionaries(
        st.sampled_from([f"p-{number}" for number in range(6)]),
        st.one_of(
            st.none(),
            st.builds(says, st.sampled_from([ONE, TWO]), st.sampled_from(["loaded", "loading", "failed"])),
        ),
    )
)
def test_only_replicas_that_are_there_and_did_not_deny_it_are_ever_named(held: dict[str, HeldAdapters | None]) -> None:
    before = AdapterStatus(name="a", digest=ONE, replicas=("p-0", "p-9"), reason="Loaded")
    plan = plan_adapters(pool(before), [adapter()])
    (status,) = build_adapter_statuses(pool(before), plan, held, {})
    for name in status.replicas:
        assert held[name] in (None, says(ONE))
    assert (status.reason == "Loaded") == (set(status.replicas) == set(held))
