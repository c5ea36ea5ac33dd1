"""Text of the simulator: countable, repeatable, and cut like a real engine's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos_workers.simulate.tokens import (
    BLOCK_TOKENS,
    build_answer,
    build_chat_tokens,
    compute_answer_tokens,
    compute_block_keys,
    compute_digest,
    split_tokens,
)

DIGEST = compute_digest(["Why", " is"], 0)


@given(st.text(max_size=200))
def test_splitting_loses_nothing_and_counts_four_characters_a_token(text: str) -> None:
    tokens = split_tokens(text)
    assert "".join(tokens) == text
    assert len(tokens) == -(-len(text) // 4)


@given(st.integers(1, 300), st.integers(1, 300))
def test_an_answer_has_the_shorter_of_its_length_and_its_limit(length: int, limit: int) -> None:
    answer = build_answer(DIGEST, length, limit=limit)
    assert len(answer.pieces) == min(length, limit)
    assert answer.finish_reason == ("stop" if length <= limit else "length")


@given(st.binary(min_size=16, max_size=16), st.integers(1, 500))
def test_an_answer_ends_by_itself_around_its_mean(digest: bytes, mean: int) -> None:
    assert max(1, mean // 2) <= compute_answer_tokens(digest, mean) <= mean * 3 / 2 + 1


def test_an_answer_sent_back_is_cut_into_the_tokens_that_were_generated() -> None:
    answer = build_answer(DIGEST, 50, limit=100)
    asked = [("user", "Why is the sky blue?")]
    first = [*build_chat_tokens(asked), *answer.pieces]
    again = build_chat_tokens([*asked, ("assistant", "".join(answer.pieces)), ("user", "And at night?")])
    shared = len(first) // BLOCK_TOKENS
    assert shared > 2
    assert compute_block_keys(again)[:shared] == compute_block_keys(first)


def test_a_stop_string_ends_the_answer_and_is_left_out() -> None:
    whole = "".join(build_answer(DIGEST, 50, limit=100).pieces)
    stop = whole[21:24]
    answer = build_answer(DIGEST, 50, limit=100, stop=[stop])
    assert "".join(answer.pieces) == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert len(answer.pieces) == -(-(whole.index(stop) + len(stop)) // 4)


def test_the_key_of_a_block_depends_on_all_that_came_before_and_on_the_salt() -> None:
    tokens = [str(number) for number in range(48)]
    keys = compute_block_keys(tokens)
    assert len(keys) == 3
    assert compute_block_keys(["x", *tokens[1:]])[2] != keys[2]
    assert compute_block_keys(tokens, "tenant-a") != keys
