"""Finding what an engine counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.protocol.usage import Usage, find_usage

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='usage":{}, \\ab'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(before=Json, after=Json, prompt=st.integers(0, 10**9), completion=st.integers(0, 10**9), spaced=st.booleans())
def test_usage_is_found_among_anything(before: Any, after: Any, prompt: int, completion: int, spaced: bool) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": 1}}
    text = json.dumps({"a": before, "usage": usage, "z": after}, indent=2 if spaced else None)
    assert find_usage(text.encode()) == Usage(prompt, completion, 1)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"usage":null}',
        b'{"content":"usage"}',
        b'{"usage":"{"}',
        b'{"usage":{"prompt_tokens":1',
        b'{"usage":{}}',
        b'{"usage":[1]}',
        b'{"usage":{"prompt_tokens":"many"}}',
    ],
)
def test_what_is_no_usage_is_none(text: bytes) -> None:
    assert find_usage(text) is None


def test_embeddings_have_no_completion() -> None:
    assert find_usage(b'{"usage":{"prompt_tokens":5,"total_tokens":5}}') == Usage(5)


def test_an_engine_gives_no_tokens_back() -> None:
    counts = b'{"prompt_tokens":-1000000,"completion_tokens":-5,"prompt_tokens_details":{"cached_tokens":-7}}'
    assert find_usage(b'{"usage":' + counts + b"}") == Usage(0, 0, 0)


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    find_usage(b'"usage":{' + data)
