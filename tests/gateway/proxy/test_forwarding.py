"""What reaches the engine of a request, and what reaches the caller of its answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from llmos_gateway.proxy.limits import Limits
from tests.gateway import engines
from tests.gateway.engines import ANSWER, Engine, build_event, fail_with, open_engine
from tests.gateway.stage import CHAT, KEY, SALT, open_gateway, split_events
from tests.gateway.values import pool


async def test_an_answer_comes_back_as_the_engine_gave_it() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage, stage.post() as response:
        assert response.status == 200
        assert await response.json() == ANSWER


@pytest.mark.parametrize("name", ["chat", "team/chat", "qwen"])
async def test_the_engine_is_asked_by_the_name_under_which_it_serves(name: str) -> None:
    body = {**CHAT, "model": name, "seed": 3}
    async with open_engine() as engine, open_gateway(engine.address) as stage, stage.post(body) as response:
        assert (await response.json())["model"] == "qwen"
    assert engine.bodies == [{**CHAT, "model": "qwen", "seed": 3, "cache_salt": SALT}]


async def test_a_body_that_needs_no_change_arrives_byte_for_byte_after_the_salt() -> None:
    received = []

    async def keep(engine: Engine, request: web.Request) -> web.StreamResponse:
        received.append(await request.read())
        return await engines.answer(engine, request)

    raw = b'{ "model": "qwen",\n"messages": [{"role": "user", "content": "\\u00e9"}], "top_p": 1.0 }'
    async with open_engine(keep) as engine, open_gateway(engine.address) as stage:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with stage.client.post(f"{stage.url}/v1/chat/completions", data=raw, headers=headers) as response:
            assert response.status == 200
    assert received == [f'{{"cache_salt":"{SALT}",'.encode() + raw[1:]]


async def test_only_known_headers_pass_to_the_engine() -> None:
    headers = {
        "Authorization": f"Bearer {KEY}",
        "Cookie": "session=secret",
        "X-Forwarded-For": "10.1.2.3",
        "X-Tenant": "another",
        "X-Request-Id": "mine-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "Accept-Encoding": "gzip",
    }
    async with open_engine() as engine, open_gateway(engine.address) as stage, stage.post(headers=headers) as response:
        assert response.headers["X-Request-Id"] == "mine-1"
    (got,) = engine.headers
    assert set(got) == {
        "host", "content-type", "content-length", "accept", "x-request-id", "traceparent"
    }  # fmt: skip
    assert got["traceparent"] == headers["traceparent"]


async def test_the_engine_never_sees_one_request_id_twice() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        for _ in range(2):
            async with stage.post(headers={"Authorization": f"Bearer {KEY}", "X-Request-Id": "same"}) as response:
                assert response.headers["X-Request-Id"] == "same"
    first, second = (headers["x-request-id"] for headers in engine.headers)
    assert first.startswith("same-")
    assert second.startswith("same-")
    assert first != second


async def test_only_known_headers_pass_to_the_caller() -> None:
    async def tell_too_much(_: Engine, __: web.Request) -> web.StreamResponse:
        return web.json_response(ANSWER, headers={"Server": "uvicorn", "X-Pod": "10.0.0.7", "Set-Cookie": "a=b"})

    async with open_engine(tell_too_much) as engine, open_gateway(engine.address) as stage, stage.post() as response:
        names = {name.lower() for name in response.headers}
        assert names == {"server", "x-request-id", "content-type", "content-length", "date"}
        assert response.headers["Server"] == "llmos"


@pytest.mark.parametrize("presented", ["two words", "a" * 129, "ä", 'quo"te'])
async def test_an_insane_request_id_is_replaced(presented: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": presented}
    async with open_engine() as engine, open_gateway(engine.address) as stage, stage.post(headers=headers) as response:
        assert response.headers["X-Request-Id"] != presented
        assert len(response.headers["X-Request-Id"]) == 32


PARTS = [
    ("/v1/completions", {"model": "chat", "prompt": "Once"}),
    ("/v1/completions", {"model": "chat", "prompt": [1, 2, 3]}),
    ("/v1/embeddings", {"model": "chat", "input": ["a", "b"]}),
    ("/v1/responses", {"model": "chat", "input": "Hello"}),
    ("/v1/responses", {"model": "chat", "input": [{"role": "user", "content": "Hello"}]}),
]


@pytest.mark.parametrize(("path", "body"), PARTS)
async def test_every_part_of_the_api_is_passed_on(path: str, body: dict[str, Any]) -> None:
    async def tell_path(_: Engine, request: web.Request) -> web.StreamResponse:
        return web.json_response({"path": request.path})

    async with (
        open_engine(tell_path) as engine,
        open_gateway(engine.address) as stage,
        stage.post(body, path) as answer,
    ):
        assert await answer.json() == {"path": path}
    assert engine.bodies == [{**body, "model": "qwen", "cache_salt": SALT}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"model": "chat", "input": ["a", "b"], "use_activation": False}),
        ("/pooling", {"model": "chat", "input": "a", "task": "token_classify"}),
    ],
)
async def test_labels_are_asked_of_the_engine_at_its_own_path(path: str, body: dict[str, Any]) -> None:
    async def tell_path(_: Engine, request: web.Request) -> web.StreamResponse:
        return web.json_response({"path": request.path})

    async with (
        open_engine(tell_path) as engine,
        open_gateway(engine.address) as stage,
        stage.post({**body, "priority": 1}, f"/v1{path}") as answer,
    ):
        assert await answer.json() == {"path": path}
    assert engine.bodies == [{**body, "model": "qwen", "cache_salt": SALT}]


@pytest.mark.parametrize("path", ["/v1/classify", "/v1/pooling"])
async def test_labels_of_a_conversation_are_refused_with_what_to_send(path: str) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "a"}]}
    async with open_engine() as engine, open_gateway(engine.address) as stage, stage.post(body, path) as response:
        assert response.status == 400
        error = await stage.read_error(response)
    assert (error["code"], error["param"]) == ("unsupported_field", "messages")
    assert "'input'" in error["message"]
    assert not engine.bodies


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/metrics",
        "/classify",
        "/pooling",
        "/v1/score",
        "/v1/load_lora_adapter",
        "/v1/chat/completions/",
        "/v1/../metrics",
        "/tokenize",
    ],
)
async def test_nothing_else_of_the_engine_can_be_reached(path: str) -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        for method in ("GET", "POST"):
            headers = {"Authorization": f"Bearer {KEY}"}
            async with stage.client.request(method, stage.url + path, headers=headers) as response:
                assert response.status == 404
                assert (await stage.read_error(response))["code"] == "unknown_url"
    assert not engine.bodies


async def test_usage_is_asked_of_the_engine_and_kept_from_a_caller_who_did_not_ask() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        async with stage.post({**CHAT, "stream": True}) as response:
            events = split_events(await response.read())
        assert engine.bodies[0]["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        assert events[-1] == "data: [DONE]"
        assert [event["choices"][0]["delta"]["content"] for event in events[:-1]] == ["", "Par", "is", "."]
        assert not any("usage" in event for event in events)
        (line,) = await stage.read_log(1)
    assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (7, 4, 3)
    assert line["usage_exact"] is True


async def test_usage_reaches_a_caller_who_asked() -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    async with open_engine() as engine, open_gateway(engine.address) as stage, stage.post(body) as response:
        events = split_events(await response.read())
    assert events[-2]["usage"]["completion_tokens"] == 3


async def test_usage_that_an_engine_adds_to_every_event_is_taken_out() -> None:
    async def add_null(_: Engine, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        content = 'he said ,"usage":null twice'
        await response.write(build_event({"choices": [{"delta": {"content": content}}], "usage": None}))
        await response.write(build_event({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1}}))
        await response.write(b"data: [DONE]\n\n")
        return response

    body = {**CHAT, "stream": True}
    async with open_engine(add_null) as engine, open_gateway(engine.address) as stage, stage.post(body) as response:
        events = split_events(await response.read())
    assert [sorted(event) for event in events[:-1]] == [["choices", "id", "model", "object"]] * 2
    assert events[0]["choices"][0]["delta"]["content"] == 'he said ,"usage":null twice'


async def test_an_engines_error_in_openais_shape_passes() -> None:
    error = {"message": "max_tokens must be at least 1", "type": "BadRequestError", "param": "max_tokens", "code": 400}
    behave = fail_with(400, {"error": error})
    async with open_engine(behave) as engine, open_gateway(engine.address) as stage, stage.post() as response:
        assert response.status == 400
        assert await stage.read_error(response) == error


async def test_an_engines_older_error_is_brought_into_shape() -> None:
    behave = fail_with(400, {"object": "error", "message": "no", "type": "BadRequestError", "param": None, "code": 400})
    async with open_engine(behave) as engine, open_gateway(engine.address) as stage, stage.post() as response:
        assert (await stage.read_error(response))["message"] == "no"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, "Internal Server Error", "engine_error"),
        (500, {"error": {"message": 'Traceback (most recent call last):\n  File "/app/x.py"'}}, "engine_error"),
        (500, {"error": {"message": "cannot connect to 10.244.1.7:8000"}}, "engine_error"),
        (404, {"detail": "Not Found"}, "not_supported"),
        (422, {"detail": [{"loc": ["body"]}]}, "engine_error"),
    ],
)
async def test_what_an_engine_should_not_have_said_is_replaced(status: int, body: Any, code: str) -> None:
    behave = fail_with(status, body)
    async with open_engine(behave) as engine, open_gateway(engine.address) as stage, stage.post() as response:
        assert response.status == status
        error = await stage.read_error(response)
    assert error["code"] == code
    assert not any(word in json.dumps(error) for word in ("Traceback", "10.244", "detail", engine.address))


@pytest.mark.parametrize("status", [301, 401, 403])
async def test_an_engine_that_refuses_the_gateway_is_not_the_callers_fault(status: int) -> None:
    behave = fail_with(status, {"error": {"message": "Unauthorized"}}, Location="http://10.0.0.1/")
    async with open_engine(behave) as engine, open_gateway(engine.address) as stage, stage.post() as response:
        assert response.status == 502
        assert (await stage.read_error(response))["code"] == "engine_error"


async def test_an_answer_too_large_to_be_kept_passes_as_it_comes() -> None:
    vectors = [{"index": index, "embedding": [0.25] * 500} for index in range(40)]
    whole = {"data": vectors, "usage": {"prompt_tokens": 11, "total_tokens": 11}}

    async def embed(_: Engine, __: web.Request) -> web.StreamResponse:
        return web.json_response(whole)

    limits = replace(Limits(), max_buffered_bytes=4096)
    async with open_engine(embed) as engine, open_gateway(engine.address, limits=limits) as stage:
        async with stage.post({"model": "chat", "input": "a"}, "/v1/embeddings") as response:
            assert await response.json() == whole
        (line,) = await stage.read_log(1)
    assert line["prompt_tokens"] == 11


async def test_requests_go_to_the_least_busy_replica() -> None:
    pools = [replace(pool("team/chat"), policy="least-load")]
    async with open_engine() as first, open_engine() as second, open_gateway(pools=pools) as stage:
        stage.put_endpoints(first.address, second.address)
        for _ in range(6):
            async with stage.post() as response:
                await response.read()
    assert [len(first.bodies), len(second.bodies)] == [3, 3]
