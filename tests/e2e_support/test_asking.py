"""The judge of the stories: only a whole answer is whole, and what is missing is said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from e2e.support.asking import Answer, Target, ask, open_session

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]
ERROR = {"error": {"message": "A replica was lost.", "code": "replica_lost"}}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Respond], Awaitable[Target]]]:
    servers: list[TestServer] = []

    async def start(respond: Respond) -> Target:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", respond)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        return Target(str(server.make_url("/v1")), "m", "secret")

    yield start
    for server in servers:
        await server.close()


def build_events(count: int, *further: Any, end: str = "data: [DONE]\n\n") -> str:
    opening = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
    chunks = [opening, *({"choices": [{"delta": {"content": "word"}}]} for _ in range(count)), *further]
    return ": comment\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def answer_stream(text: str) -> Respond:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(text.encode())
        return response

    return respond


def answer_json(body: Any, status: int = 200, **headers: str) -> Respond:
    async def respond(request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"] == "Bearer secret"
        return web.json_response(body, status=status, headers=headers)

    return respond


async def judge(target: Target, *, stream: bool) -> Answer:
    async with open_session() as session:
        return await ask(session, target, 3, stream=stream)


async def test_whole_answers_have_no_problem(serve: Callable[[Respond], Awaitable[Target]]) -> None:
    usage = {"usage": {"completion_tokens": 3}}
    assert not (await judge(await serve(answer_json(usage)), stream=False)).problem
    streamed = await judge(await serve(answer_stream(build_events(3, {"choices": [], **usage}))), stream=True)
    assert (streamed.problem, streamed.tokens, streamed.usage) == ("", 3, usage["usage"])


@pytest.mark.parametrize(
    "text",
    [build_events(2), build_events(3, end=""), build_events(3, ERROR), build_events(0, ERROR)],
    ids=["short", "no-end", "error-and-end", "error-at-once"],
)
async def test_a_stream_that_is_not_whole_has_a_problem(
    serve: Callable[[Respond], Awaitable[Target]], text: str
) -> None:
    answer = await judge(await serve(answer_stream(text)), stream=True)
    assert answer.problem
    assert answer.error == (ERROR["error"] if "replica_lost" in text else {})
    assert answer.tokens == text.count("word")


async def test_a_refusal_is_told_with_its_error_and_when_to_come_again(
    serve: Callable[[Respond], Awaitable[Target]],
) -> None:
    target = await serve(answer_json(ERROR, 503, **{"Retry-After": "7"}))
    for stream in (True, False):
        answer = await judge(target, stream=stream)
        assert (answer.status, answer.error, answer.retry_after) == (503, ERROR["error"], "7")
        assert answer.problem


async def test_a_short_answer_a_page_and_no_server_at_all_have_a_problem(
    serve: Callable[[Respond], Awaitable[Target]],
) -> None:
    async def show_page(request: web.Request) -> web.StreamResponse:
        return web.Response(status=502, text="<html>Bad gateway</html>")

    for respond in (answer_json({"usage": {"completion_tokens": 2}}), show_page):
        assert (await judge(await serve(respond), stream=False)).problem
    nobody = await judge(Target("http://127.0.0.1:9/v1", "m"), stream=True)
    assert "ClientConnectorError" in nobody.problem
    assert nobody.status == 0
