"""What a body must say, and how it is sent on."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.protocol.errors import BadRequestError
from llmos_gateway.protocol.requests import MAX_DEPTH, ApiPart, build_upstream_body, parse_request

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


def parse(body: Any, part: ApiPart = ApiPart.CHAT) -> Any:
    return parse_request(part, body if isinstance(body, bytes) else json.dumps(body).encode())


def build_nested(depth: int) -> bytes:
    return b'{"model":"m","messages":[{}],"x":' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"null", "invalid_json", None),
        (b'"model"', "invalid_json", None),
        (b'{"model": "a\xff"}', "invalid_json", None),
        (b'{"model": "\\ud800"}', "invalid_json", None),
        (b'{"model": NaN}', "invalid_json", None),
        (b'\xef\xbb\xbf{"model": "a"}', "invalid_json", None),
        (build_nested(MAX_DEPTH), "nesting_too_deep", None),
        (build_nested(100_000), "invalid_json", None),
        ({}, "invalid_type", "model"),
        ({"model": None}, "invalid_type", "model"),
        ({"model": ""}, "invalid_type", "model"),
        ({"model": ["chat"]}, "invalid_type", "model"),
        ({"model": "m" * 513}, "invalid_value", "model"),
        ({**CHAT, "stream": "yes"}, "invalid_type", "stream"),
        ({**CHAT, "stream": 1}, "invalid_type", "stream"),
        ({**CHAT, "stream": True, "stream_options": []}, "invalid_type", "stream_options"),
        ({**CHAT, "stream": True, "stream_options": {"include_usage": "no"}}, "invalid_type", "include_usage"),
        ({"model": "chat"}, "invalid_type", "messages"),
        ({"model": "chat", "messages": []}, "invalid_type", "messages"),
        ({"model": "chat", "messages": "hi"}, "invalid_type", "messages"),
        ({"model": "chat", "messages": ["hi"]}, "invalid_type", "messages"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(body: Any, code: str, param: str | None) -> None:
    with pytest.raises(BadRequestError) as refusal:
        parse(body)
    assert (refusal.value.code, refusal.value.param) == (code, param)


@pytest.mark.parametrize(
    ("part", "body"),
    [
        (ApiPart.COMPLETIONS, {"model": "m", "prompt": 3}),
        (ApiPart.EMBEDDINGS, {"model": "m"}),
        (ApiPart.EMBEDDINGS, {"model": "m", "input": {"a": 1}}),
        (ApiPart.RESPONSES, {"model": "m", "input": True}),
    ],
)
def test_prompts_of_other_types_are_refused(part: ApiPart, body: Any) -> None:
    with pytest.raises(BadRequestError):
        parse(body, part)


def test_a_body_may_be_as_deep_as_the_limit() -> None:
    assert parse(build_nested(MAX_DEPTH - 1)).model == "m"


def test_many_brackets_beside_each_other_are_not_deep() -> None:
    assert parse({**CHAT, "tools": [{"a": [i]} for i in range(1000)]}).model == "chat"


def test_embeddings_have_no_streams() -> None:
    assert not parse({"model": "m", "input": "a", "stream": True}, ApiPart.EMBEDDINGS).is_stream


FORCED = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"include_usage": None}, {"continuous_usage_stats": True}]
)
def test_usage_and_counts_are_forced_and_remembered_to_be_hidden(options: dict[str, Any] | None) -> None:
    request = parse({**CHAT, "stream": True, "stream_options": options})
    assert (request.hides_usage, request.hides_counts) == (True, True)
    assert json.loads(build_upstream_body(request, "chat"))["stream_options"] == FORCED


def test_counts_are_hidden_from_whoever_asks_for_usage_alone() -> None:
    request = parse({**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert (request.hides_usage, request.hides_counts) == (False, True)
    assert json.loads(build_upstream_body(request, "chat"))["stream_options"] == FORCED


def test_whoever_asks_for_all_counts_gets_what_was_asked_for() -> None:
    request = parse({**CHAT, "stream": True, "stream_options": FORCED})
    assert (request.hides_usage, request.hides_counts) == (False, False)
    assert build_upstream_body(request, "chat") is request.raw


@pytest.mark.parametrize(("number", "choices"), [(None, 1), (3, 3), (0, 1), ("many", 1)])
def test_how_many_answers_a_prompt_gets_is_known(number: Any, choices: int) -> None:
    assert parse({**CHAT, "n": number}).choices == choices


def test_a_response_stream_needs_no_options() -> None:
    request = parse({"model": "m", "input": "a", "stream": True}, ApiPart.RESPONSES)
    assert request.is_stream
    assert build_upstream_body(request, "m") is request.raw


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(st.text(), Json, max_size=5))
def test_only_the_model_is_changed(extra: dict[str, Any]) -> None:
    body = {**extra, **CHAT, "stream": False}
    sent = json.loads(build_upstream_body(parse(body), "qwen"))
    assert sent == {**body, "model": "qwen"}


@given(st.binary(max_size=300) | Json.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(raw: bytes) -> None:
    for part in ApiPart:
        with suppress(BadRequestError):
            parse_request(part, raw)
