"""What a body must say, and how it is sent on."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.protocol.errors import BadRequestError
from llmos_gateway.protocol.fields import PASSED, REFUSED
from llmos_gateway.protocol.requests import MAX_DEPTH, ApiPart, build_upstream_body, parse_request

SALT = "c2FsdA"
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


def parse(body: Any, part: ApiPart = ApiPart.CHAT) -> Any:
    return parse_request(part, body if isinstance(body, bytes) else json.dumps(body).encode())


def send(request: Any, served_model: str = "chat") -> Any:
    """Return what the engine gets."""
    return json.loads(build_upstream_body(request, served_model, SALT))


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
        (ApiPart.COMPLETIONS, {"model": "m"}),
        (ApiPart.RESPONSES, {"model": "m"}),
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


@pytest.mark.parametrize("part", [ApiPart.EMBEDDINGS, ApiPart.CLASSIFY, ApiPart.POOLING])
def test_what_does_not_speak_has_no_streams_and_no_tokens_to_answer(part: ApiPart) -> None:
    request = parse({"model": "m", "input": "a", "stream": True, "max_tokens": 9}, part)
    assert not request.is_stream
    assert request.answer_tokens == 0


FORCED = {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"include_usage": None}, {"continuous_usage_stats": True}]
)
def test_usage_and_counts_are_forced_and_remembered_to_be_hidden(options: dict[str, Any] | None) -> None:
    request = parse({**CHAT, "stream": True, "stream_options": options})
    assert (request.hides_usage, request.hides_counts) == (True, True)
    assert send(request)["stream_options"] == FORCED


def test_counts_are_hidden_from_whoever_asks_for_usage_alone() -> None:
    request = parse({**CHAT, "stream": True, "stream_options": {"include_usage": True}})
    assert (request.hides_usage, request.hides_counts) == (False, True)
    assert send(request)["stream_options"] == FORCED


def test_whoever_asks_for_all_counts_gets_what_was_asked_for() -> None:
    request = parse({**CHAT, "stream": True, "stream_options": FORCED})
    assert (request.hides_usage, request.hides_counts) == (False, False)
    assert send(request) == {**CHAT, "stream": True, "stream_options": FORCED, "cache_salt": SALT}


@pytest.mark.parametrize(("number", "choices"), [(None, 1), (3, 3), (0, 1)])
def test_how_many_answers_a_prompt_gets_is_known(number: Any, choices: int) -> None:
    assert parse({**CHAT, "n": number}).choices == choices


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (ApiPart.CHAT, "n"),
        (ApiPart.CHAT, "max_tokens"),
        (ApiPart.CHAT, "max_completion_tokens"),
        (ApiPart.COMPLETIONS, "max_tokens"),
        (ApiPart.RESPONSES, "max_output_tokens"),
    ],
)
@pytest.mark.parametrize("value", ["100000", 100000.0, True, [1]])
def test_a_count_that_an_engine_would_read_and_the_gateway_would_not_is_refused(
    part: ApiPart, name: str, value: Any
) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse({"model": "team/m", **PROMPTS[part], name: value}, part)
    assert (caught.value.code, caught.value.param) == ("invalid_type", name)


@pytest.mark.parametrize(
    ("part", "fields", "tokens"),
    [
        (ApiPart.COMPLETIONS, {}, 16),
        (ApiPart.COMPLETIONS, {"max_tokens": 0}, 16),
        # vLLM answers until the context is full.
        (ApiPart.COMPLETIONS, {"max_tokens": None}, None),
        (ApiPart.CHAT, {"max_tokens": 7, "max_completion_tokens": None}, 7),
        (ApiPart.CHAT, {"max_tokens": 7, "max_completion_tokens": 5}, 5),
        (ApiPart.CHAT, {"max_tokens": None}, None),
        (ApiPart.EMBEDDINGS, {}, 0),
    ],
)
def test_how_long_an_answer_may_be_is_known(part: ApiPart, fields: dict[str, Any], tokens: int | None) -> None:
    assert parse({"model": "team/m", **PROMPTS[part], **fields}, part).answer_tokens == tokens


def test_a_response_stream_needs_no_options() -> None:
    request = parse({"model": "m", "input": "a", "stream": True}, ApiPart.RESPONSES)
    assert request.is_stream
    assert "stream_options" not in send(request, "m")


Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


FORBIDDEN = (
    "cache_salt",
    "priority",
    "request_id",
    "session_id",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "metadata",
    "service_tier",
    "store",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    "logits_processors",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "mm_payload",
    "return_mm_kwargs",
    "chat_template",
    "use_beam_search",
    "best_of",
    "guided_decoding_backend",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "return_prompt_text",
    "return_token_offsets",
    "routed_experts_prompt_start",
    "enable_response_messages",
)
PROMPTS: dict[ApiPart, dict[str, Any]] = {
    ApiPart.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    ApiPart.COMPLETIONS: {"prompt": "hi"},
    ApiPart.EMBEDDINGS: {"input": "hi"},
    ApiPart.RESPONSES: {"input": "hi"},
    ApiPart.CLASSIFY: {"input": "hi"},
    ApiPart.POOLING: {"input": "hi"},
}
COUNTS = {"n", "max_tokens", "max_completion_tokens", "max_output_tokens"}
HANDLED = {"model", "messages", "prompt", "input", "stream", "stream_options", "structured_outputs", *COUNTS}
Names = st.sampled_from([*FORBIDDEN, *sorted(set().union(*PASSED.values()) - HANDLED)]) | st.text(max_size=12)


@given(part=st.sampled_from(ApiPart), data=st.data())
def test_named_fields_pass_as_they_are_and_others_do_not(part: ApiPart, data: st.DataObject) -> None:
    refused = REFUSED[part].keys() | HANDLED
    extra = data.draw(st.dictionaries(Names.filter(lambda name: name not in refused), Json, max_size=6))
    body = {**extra, **PROMPTS[part], "model": "chat", "stream": False}
    served = data.draw(st.sampled_from(["chat", "qwen"]))
    passed = {name: value for name, value in body.items() if name in PASSED[part]}
    assert send(parse(body, part), served) == {**passed, "model": served, "cache_salt": SALT}


@pytest.mark.parametrize("part", ApiPart)
@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_reaches_past_a_request_never_passes(part: ApiPart, name: str) -> None:
    assert name not in PASSED[part]


@given(st.sampled_from(["chat", "qwen"]), st.text(max_size=5), st.booleans(), st.sampled_from(["", " ", "\n\t"]))
def test_a_salt_of_the_caller_is_never_the_engines(served: str, theirs: str, twice: bool, space: str) -> None:
    pieces = [
        json.dumps(CHAT)[1:-1],
        f'"cache_salt": {json.dumps(theirs)}',
        '"cache\\u005fsalt": "x"' if twice else '"n": 1',
    ]
    for order in (pieces, pieces[::-1]):
        raw = (space + "{" + ", ".join(order) + "}" + space).encode()
        upstream = build_upstream_body(parse_request(ApiPart.CHAT, raw), served, SALT)
        pairs = json.loads(upstream, object_pairs_hook=list)
        assert [value for name, value in pairs if name == "cache_salt"] == [SALT]


@given(st.sampled_from(["", " ", "\r\n"]), st.dictionaries(st.sampled_from(["n", "seed", "top_k"]), st.integers(0, 9)))
def test_a_body_that_needs_no_change_passes_byte_for_byte_after_the_salt(space: str, extra: dict[str, int]) -> None:
    raw = f"{space}{json.dumps({**CHAT, **extra}, indent=1)}{space}".encode()
    upstream = build_upstream_body(parse_request(ApiPart.CHAT, raw), "chat", SALT)
    assert upstream == f'{{"cache_salt":"{SALT}",'.encode() + raw.lstrip()[1:]
    assert json.loads(upstream) == {**CHAT, **extra, "cache_salt": SALT}


def test_of_structured_outputs_only_the_constraint_passes() -> None:
    given_outputs = {"regex": "a+", "_backend": "outlines", "_backend_was_auto": True, "disable_fallback": True}
    assert send(parse({**CHAT, "structured_outputs": given_outputs}))["structured_outputs"] == {"regex": "a+"}
    assert send(parse({**CHAT, "structured_outputs": {"choice": ["a"]}}))["structured_outputs"] == {"choice": ["a"]}
    assert send(parse({**CHAT, "structured_outputs": "odd"}))["structured_outputs"] == "odd"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (ApiPart.CHAT, "chat_template"),
        (ApiPart.CHAT, "functions"),
        (ApiPart.CHAT, "function_call"),
        (ApiPart.CHAT, "best_of"),
        (ApiPart.COMPLETIONS, "use_beam_search"),
        (ApiPart.COMPLETIONS, "prompt_embeds"),
        (ApiPart.RESPONSES, "conversation"),
        (ApiPart.RESPONSES, "previous_response_id"),
        (ApiPart.RESPONSES, "previous_response"),
        (ApiPart.RESPONSES, "previous_input_messages"),
        (ApiPart.RESPONSES, "prompt"),
        (ApiPart.RESPONSES, "background"),
    ],
)
def test_a_request_about_what_no_engine_is_sent_is_refused_by_name(part: ApiPart, name: str) -> None:
    body = {**PROMPTS[part], "model": "m"}
    with pytest.raises(BadRequestError) as refusal:
        parse({**body, name: {"id": "x"}}, part)
    assert (refusal.value.code, refusal.value.param) == ("unsupported_field", name)
    assert name not in send(parse({**body, name: None}, part), "m")


@pytest.mark.parametrize(("part", "name"), [(ApiPart.CHAT, "messages"), (ApiPart.RESPONSES, "input")])
def test_a_part_that_names_what_an_engine_may_have_from_others_is_refused(part: ApiPart, name: str) -> None:
    parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": None, "uuid": "theirs"}]
    with pytest.raises(BadRequestError) as refusal:
        parse({"model": "m", name: [{"role": "user", "content": parts}]}, part)
    assert (refusal.value.code, refusal.value.param) == ("unsupported_field", name)
    assert parse({"model": "m", name: [{"role": "user", "content": parts[:1]}]}, part).model == "m"


@given(st.binary(max_size=300) | Json.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(raw: bytes) -> None:
    for part in ApiPart:
        with suppress(BadRequestError):
            parse_request(part, raw)
