"""Prompts as chains of block hashes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.routing import PromptBlocks, hash_blocks, hash_chat
from llmos_gateway.routing.blocks import BLOCK_BYTES, MAX_BLOCKS

texts = st.text(max_size=40).map(lambda text: text * 40)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}), max_size=5
)


def count_shared(one: PromptBlocks, other: PromptBlocks) -> int:
    shared = 0
    for left, right in zip(one.hashes, other.hashes, strict=False):
        if left != right:
            break
        shared += 1
    return shared


@given(common=texts, one=texts, other=texts)
def test_two_prompts_share_exactly_the_blocks_of_their_common_beginning(common: str, one: str, other: str) -> None:
    left, right = (common + one).encode(), (common + other).encode()
    same = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    assert count_shared(hash_blocks(left, b"t"), hash_blocks(right, b"t")) == same // BLOCK_BYTES


@given(one=texts, other=texts)
def test_after_the_first_difference_no_block_is_shared_even_if_the_text_is_the_same(one: str, other: str) -> None:
    left, right = hash_blocks(one, b"t"), hash_blocks("x" * BLOCK_BYTES + other, b"t")
    if not one.encode().startswith(b"x" * BLOCK_BYTES):
        assert not set(left.hashes) & set(right.hashes)


@given(text=texts, messages=messages)
def test_equal_prompts_of_two_tenants_share_no_block_and_no_home(text: str, messages: list[dict[str, str]]) -> None:
    for one, other in (
        (hash_blocks(text, b"tenant-a"), hash_blocks(text, b"tenant-b")),
        (hash_chat(messages, b"tenant-a"), hash_chat(messages, b"tenant-b")),
    ):
        assert not set(one.hashes) & set(other.hashes)
        assert one.anchor != other.anchor


@given(text=texts)
def test_a_text_and_its_bytes_are_the_same_prompt(text: str) -> None:
    assert hash_blocks(text, b"t") == hash_blocks(text.encode(), b"t")


@given(messages=messages, turn=messages)
def test_a_further_turn_only_adds_to_the_end(messages: list[dict[str, str]], turn: list[dict[str, str]]) -> None:
    before, after = hash_chat(messages, b"t"), hash_chat(messages + turn, b"t")
    assert after.hashes[: len(before.hashes)] == before.hashes
    if any(message["role"] == "user" for message in messages):
        assert after.anchor == before.anchor


def test_conversations_with_one_system_prompt_have_anchors_of_their_own() -> None:
    system = {"role": "system", "content": "You are helpful. " * 500}
    anchors = {hash_chat([system, {"role": "user", "content": f"Question {n}"}], b"t").anchor for n in range(100)}
    assert len(anchors) == 100


@pytest.mark.parametrize("text", ["", "x" * (BLOCK_BYTES - 1)])
def test_a_prompt_shorter_than_a_block_has_no_blocks_but_tokens(text: str) -> None:
    blocks = hash_blocks(text, b"t")
    assert blocks.hashes == ()
    assert blocks.tokens >= 1


def test_a_chain_is_bounded_but_the_length_is_told() -> None:
    text = "x" * (BLOCK_BYTES * MAX_BLOCKS * 3)
    for blocks in (hash_blocks(text, b"t"), hash_chat([{"role": "user", "content": text}], b"t")):
        assert len(blocks.hashes) == MAX_BLOCKS
        assert blocks.tokens == pytest.approx(len(text) / 4, rel=0.01)


@given(text=st.text(min_size=1, max_size=300))
def test_tokens_are_estimated_from_bytes(text: str) -> None:
    assert hash_blocks(text, b"t").tokens == max(1, len(text.encode()) // 4)


def test_half_a_surrogate_pair_is_no_error() -> None:
    assert hash_blocks("\ud800" * 1000, b"t").hashes
    assert hash_chat([{"role": "user", "content": "\udfff" * 1000}], b"t").hashes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(messages=st.lists(json_values, max_size=4), tools=json_values)
def test_a_chat_of_any_shape_can_be_hashed(messages: list[Any], tools: Any) -> None:
    assert hash_chat(messages, b"t", tools) == hash_chat(messages, b"t", tools)


def test_text_parts_count_as_text_and_another_image_is_another_prompt() -> None:
    def ask(image: str) -> PromptBlocks:
        content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "What is this? " * 200}]
        return hash_chat([{"role": "user", "content": content}], b"t")

    one, other = ask("data:image/png;base64," + "A" * 100_000), ask("data:image/png;base64," + "B" * 100_000)
    assert one.hashes[0] != other.hashes[0]
    assert len(one.hashes) == len(other.hashes) == 5, "an inline image takes no blocks"


def test_tools_are_part_of_the_beginning() -> None:
    messages = [{"role": "user", "content": "What is the weather? " * 100}]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    with_tools, without = hash_chat(messages, b"t", tools), hash_chat(messages, b"t")
    assert not set(with_tools.hashes) & set(without.hashes)
