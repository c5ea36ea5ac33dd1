"""Conversations with a pool and with an address."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from llmos.client import (
    AsyncEndpoint,
    ChatMessage,
    ConfigurationError,
    Endpoint,
    EngineError,
    ForbiddenError,
    NotReadyError,
    OverloadedError,
)
from tests.sdk.client.support import (
    POOLS,
    PROXY,
    READY,
    STARTING,
    Handler,
    Script,
    Twin,
    answer,
    piece,
    pool,
    refusal,
    server_sent,
)

Make = Callable[[Handler], Twin]
HELLO = [ChatMessage(role="user", content="Hello")]
SERVING = answer(pool("smol", READY, readyReplicas=1))
MODELS = answer({"data": [{"id": "smollm2"}]})
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


async def test_an_answer_streams_through_the_api_servers_proxy(client_for: Make) -> None:
    script = Script(SERVING, MODELS, server_sent(piece("Hel"), piece("lo", "stop"), USAGE, "[DONE]"))
    chunks = await client_for(script).take(9, "pools", "chat", "smol", HELLO, max_tokens=8, temperature=0.0)
    assert "".join(chunk.text for chunk in chunks) == "Hello"
    assert [chunk.finish_reason for chunk in chunks] == [None, "stop", None]
    assert chunks[-1].usage.completion_tokens == 2
    assert script.asked == [f"GET {POOLS}/smol", f"GET {PROXY}/models", f"POST {PROXY}/chat/completions"]
    assert script.body() == {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 8,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_an_answer_can_come_in_one_piece_from_a_named_model(client_for: Make) -> None:
    whole = {
        "model": "m",
        "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
        "usage": USAGE["usage"],
    }
    script = Script(SERVING, answer(whole))
    completion = await client_for(script).call("pools", "chat", "smol", HELLO, stream=False, model="adapter")
    assert (completion.text, completion.finish_reason, completion.usage.prompt_tokens) == ("Hi", "stop", 5)
    assert script.body()["model"] == "adapter"


async def test_a_pool_without_a_replica_says_its_own_reason(client_for: Make) -> None:
    with pytest.raises(NotReadyError, match="Replica smol-1 is starting") as caught:
        await client_for(Script(answer(pool("smol", STARTING)))).take(1, "pools", "chat", "smol", HELLO)
    assert caught.value.reason == "Starting"


async def test_a_pool_that_lost_its_last_replica_just_now_is_overloaded(client_for: Make) -> None:
    script = Script(SERVING, refusal(503, 'no endpoints available for service "smol"'))
    with pytest.raises(OverloadedError, match="no endpoints available"):
        await client_for(script).take(1, "pools", "chat", "smol", HELLO)


async def test_a_user_who_may_not_use_the_proxy_is_shown_another_way(client_for: Make) -> None:
    script = Script(SERVING, refusal(403, "services is forbidden"))
    with pytest.raises(ForbiddenError, match="port-forward -n team service/smol 8000:http"):
        await client_for(script).take(1, "pools", "chat", "smol", HELLO)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (answer({"error": {"message": "max_tokens is too large"}}, 400), r"\(HTTP 400\): max_tokens is too large\."),
        (httpx.Response(500, text="Internal Server Error"), r"\(HTTP 500\): Internal Server Error\."),
        (server_sent({"error": {"message": "out of memory"}}), "out of memory"),
        (server_sent(piece("Hel")), "ended the answer before it was complete"),
    ],
)
async def test_an_engine_that_fails_is_quoted(client_for: Make, reply: httpx.Response, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        await client_for(Script(SERVING, MODELS, reply)).take(9, "pools", "chat", "smol", HELLO)


class Endless(httpx.SyncByteStream):
    """An answer without end that knows whether it was closed."""

    closed = False

    def __iter__(self):  # type: ignore[no-untyped-def]  # httpx leaves it open
        while True:
            yield b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'

    def close(self) -> None:
        self.closed = True


def test_to_leave_an_answer_early_closes_its_connection() -> None:
    body = Endless()
    with Endpoint("http://engine.test", transport=httpx.MockTransport(lambda _: httpx.Response(200, stream=body))) as e:
        chunks = e.chat(HELLO, model="m")
        assert next(chunks).text == "x"
        chunks.close()
        assert body.closed


def test_an_address_needs_no_cluster_and_never_sees_its_credentials() -> None:
    script = Script(MODELS, answer({"choices": [{"message": {"content": "Hi"}}]}))
    with Endpoint("http://engine.test/v1/", transport=httpx.MockTransport(script)) as endpoint:
        assert endpoint.chat(HELLO, stream=False).text == "Hi"
    assert [str(request.url) for request in script.requests] == [
        "http://engine.test/v1/models",
        "http://engine.test/v1/chat/completions",
    ]
    assert all("authorization" not in request.headers for request in script.requests)


async def test_the_asynchronous_endpoint_does_the_same() -> None:
    script = Script(MODELS, server_sent(piece("Hi", "stop"), "[DONE]"), answer({"choices": []}))
    async with AsyncEndpoint("http://engine.test", transport=httpx.MockTransport(script)) as endpoint:
        assert [chunk.text async for chunk in await endpoint.chat(HELLO)] == ["Hi"]
        assert (await endpoint.chat(HELLO, stream=False, model="m")).text == ""


def test_an_address_without_a_scheme_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigurationError, match="http://localhost:8000"):
        Endpoint("localhost:8000")


def test_a_server_that_lists_no_model_is_not_an_openai_compatible_one() -> None:
    with (
        Endpoint("http://engine.test", transport=httpx.MockTransport(Script(answer({})))) as endpoint,
        pytest.raises(EngineError, match="lists no model"),
    ):
        endpoint.chat(HELLO, stream=False)
