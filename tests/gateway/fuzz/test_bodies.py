"""Bodies that nobody should send: answered with 4xx, or passed on if they may mean something."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmos_gateway.http.public import PARTS
from llmos_gateway.protocol.requests import MAX_DEPTH
from tests.gateway.fuzz.conftest import Target
from tests.gateway.stage import CHAT

pytestmark = pytest.mark.timeout(600)
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)
Names = st.sampled_from(
    ["chat", "team/chat", "qwen", "../chat", "team/chat/x", "%2e%2e/chat", "chat\x00", "", "\u202echat"]
)
Fields = st.fixed_dictionaries(
    {},
    optional={
        "model": Names | Json,
        "messages": st.just(CHAT["messages"]) | Json,
        "prompt": Json,
        "input": Json,
        "stream": st.sampled_from([True, False, None, "true", 1]),
        "stream_options": Json | st.fixed_dictionaries({}, optional={"include_usage": Json}),
        "tools": Json,
        "max_tokens": Json,
    },
)
Paths = st.sampled_from(sorted(PARTS))


def check(target: Target, status: int, answer: bytes) -> None:
    assert status in {200, 400, 404, 413}
    if status != 200:
        error = json.loads(answer)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["message"]
        assert error["code"]
    target.check(answer)


@many
@given(raw=st.binary(max_size=400), path=Paths)
def test_any_bytes(target: Target, raw: bytes, path: str) -> None:
    check(target, *target.ask(raw, path))


@many
@given(body=Json, path=Paths)
def test_any_json(target: Target, body: Any, path: str) -> None:
    check(target, *target.ask(json.dumps(body).encode(), path))


@many
@given(fields=Fields, path=Paths)
def test_any_types_in_known_fields(target: Target, fields: dict[str, Any], path: str) -> None:
    check(target, *target.ask(json.dumps(fields).encode("utf-8", "surrogatepass"), path))


@many
@given(data=st.data())
def test_a_good_body_with_bytes_changed(target: Target, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(CHAT).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check(target, *target.ask(bytes(raw)))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("depth", [60, 65, 200, 1025, 30_000])
def test_deep_nesting(target: Target, opening: bytes, depth: int) -> None:
    closing = (
        opening[::-1].replace(b"[", b"]").replace(b"{", b"}").replace(b'"', b"").replace(b"a", b"").replace(b":", b"")
    )
    value = opening * depth + b"1" + closing * depth
    status, answer = target.ask(b'{"model":"chat","messages":[{"role":"user","content":"x"}],"tools":' + value + b"}")
    check(target, status, answer)
    assert (status == 200) == (depth * len(closing) < MAX_DEPTH), "the object around it is a level too"
    target.check_alive()


@pytest.mark.parametrize("size", [1024 * 1024 + 1, 8 * 1024 * 1024])
def test_huge_bodies(target: Target, size: int) -> None:
    statuses = target.check(
        target.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b" " * size)
    )
    assert statuses in ([], [401])
    status, answer = target.ask(b" " * size) if size < 2 * 1024 * 1024 else (413, b"")
    assert status == 413
    target.check(answer)
    target.check_alive()


def test_one_key_many_times(target: Target) -> None:
    body = b"{" + b'"model":"smuggled",' * 1000 + json.dumps(CHAT).encode()[1:]
    check(target, *target.ask(body))
    assert target.seen[-1][1]["model"] == "qwen"
