"""Reservations for prompts follow what engines count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.limits.prompts import LARGEST_FACTOR, MAX_POOLS, PromptFactors


def test_at_first_there_is_room_for_a_template_and_a_quarter_more() -> None:
    assert PromptFactors().scale("a", 100) == 145


def test_what_a_tokenizer_makes_of_prompts_is_learnt_at_once_and_forgotten_slowly() -> None:
    factors = PromptFactors()
    factors.learn("a", 84, 200)
    assert factors.scale("a", 84) == 200
    for _ in range(30):
        factors.learn("a", 84, 90)
    assert 140 < factors.scale("a", 84) < 170
    for _ in range(500):
        factors.learn("a", 84, 10)
    assert factors.scale("a", 84) == 101
    assert factors.scale("b", 84) == 125


def test_an_image_says_nothing_about_the_next_prompt() -> None:
    factors = PromptFactors()
    factors.learn("a", 10, 2000)
    factors.learn("a", 10, 0)
    assert factors.scale("a", 84) == 125


def test_as_many_pools_as_there_is_room_for() -> None:
    factors = PromptFactors()
    for number in range(MAX_POOLS + 1):
        factors.learn(str(number), 84, 200)
    assert factors.scale("0", 84) == 125
    assert factors.scale("1", 84) == 200


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))), st.integers(0, 10**6))
def test_it_is_never_less_than_the_estimate_and_never_out_of_proportion(
    seen: list[tuple[int, int]], estimate: int
) -> None:
    factors = PromptFactors()
    for one in seen:
        factors.learn("a", *one)
    assert estimate <= factors.scale("a", estimate) <= (estimate + 16) * LARGEST_FACTOR + 1
