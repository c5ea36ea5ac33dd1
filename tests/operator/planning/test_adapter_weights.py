"""Shares of a name: whoever asks for what, they never come to more than there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos.api import LLMModel
from llmos_operator.planning.adapter_weights import Weights, compute_weights


def model(name: str, *replaces: tuple[str, str, int]) -> LLMModel:
    wishes = [{"pool": pool, "name": other, "weight": weight} for pool, other, weight in replaces]
    adapter = {"baseModelRef": {"name": "base"}, "replaces": wishes}
    return LLMModel.model_validate(
        {"metadata": {"name": name}, "spec": {"source": {"uri": "hf://a/b"}, "adapter": adapter}}
    )


def weigh(*models: LLMModel) -> Weights:
    return compute_weights(models, "chat")


def test_a_canary_takes_its_share_from_whoever_was_promoted_before() -> None:
    first, second = model("v2", ("chat", "support", 100)), model("v3", ("chat", "support", 10))
    assert weigh(model("support"), first) == {"v2": ("support", 100)}
    assert weigh(model("support"), first, second) == {"v2": ("support", 90), "v3": ("support", 10)}


def test_names_and_pools_do_not_mix_and_nobody_replaces_itself() -> None:
    there, self_made = model("a", ("more", "support", 50)), model("b", ("chat", "b", 50))
    assert weigh(there, self_made, model("c", ("chat", "code", 0))) == {"c": ("code", 0)}


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 100)), max_size=16))
def test_shares_of_a_name_are_never_more_than_all(wishes: list[tuple[str, int]]) -> None:
    weights = weigh(*(model(f"m{number}", ("chat", *wish)) for number, wish in enumerate(wishes)))
    for name in "xyz":
        assert sum(weight for asked, weight in weights.values() if asked == name) <= 100
    if wishes:
        assert weights[f"m{len(wishes) - 1}"] == wishes[-1]
