"""Streams: how they begin, what ends them, and what is counted of those that end early."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace

from aiohttp import ClientPayloadError, ClientSession, TCPConnector, web

from llmos_gateway.http.connections import ConnectionLimits
from llmos_gateway.proxy.event_stream import EventStream
from llmos_gateway.proxy.limits import Limits
from tests.gateway.engines import (
    Engine,
    begin_stream,
    build_event,
    build_stream,
    die_in_stream,
    end_early,
    hang,
    open_engine,
    pause_in_stream,
)
from tests.gateway.stage import CHAT, DEADLINE_S, KEY, open_gateway, split_events

STREAM = {**CHAT, "stream": True}
QUICK = replace(Limits(), comment_after_s=0.02, comment_every_s=0.02)


async def test_events_come_one_by_one_while_the_engine_goes_on() -> None:
    async with open_engine(pause_in_stream) as engine, open_gateway(engine.address) as stage:
        async with stage.post(STREAM) as response:
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-cache"
            first = await response.content.readuntil(b"\n\n")
            assert json.loads(first.removeprefix(b"data: "))["choices"][0]["delta"]["role"] == "assistant"
            assert (await stage.wait_for_load(running=1))["endpoints"] == {engine.address: 1}
            engine.went_on.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        await stage.wait_for_load(running=0, finishedTotal=1)


async def test_a_caller_that_leaves_cancels_the_engines_work_at_once() -> None:
    async with open_engine(pause_in_stream) as engine, open_gateway(engine.address) as stage:
        async with ClientSession() as leaving:
            headers = {"Authorization": f"Bearer {KEY}"}
            response = await leaving.post(f"{stage.url}/v1/chat/completions", json=STREAM, headers=headers)
            await response.content.readuntil(b"\n\n")
            response.close()
        await asyncio.wait_for(engine.cancelled.wait(), DEADLINE_S)
        await stage.wait_for_load(running=0, failedTotal=1)
        (line,) = await stage.read_log(1)
    assert (line["status"], line["code"]) == (499, "caller_gone")
    assert line["completion_tokens"] == 2
    assert line["prompt_tokens"] > 0
    assert line["usage_exact"] is False


async def test_a_stream_that_is_left_is_settled_by_the_engines_own_count() -> None:
    async def count_by_sevens(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        for tokens in (0, 7, 14):
            usage = {"prompt_tokens": 11, "total_tokens": 11 + tokens, "completion_tokens": tokens}
            await response.write(build_event({"choices": [{"index": 0, "delta": {"content": "x"}}], "usage": usage}))
        await engine.went_on.wait()
        return response

    async with open_engine(count_by_sevens) as engine, open_gateway(engine.address) as stage:
        async with ClientSession() as leaving:
            headers = {"Authorization": f"Bearer {KEY}"}
            response = await leaving.post(f"{stage.url}/v1/chat/completions", json=STREAM, headers=headers)
            seen = [await response.content.readuntil(b"\n\n") for _ in range(3)]
            response.close()
        await asyncio.wait_for(engine.cancelled.wait(), DEADLINE_S)
        (line,) = await stage.read_log(1)
    assert not any(b"usage" in event for event in seen)
    assert (line["prompt_tokens"], line["completion_tokens"], line["usage_exact"]) == (11, 14, True)


async def test_a_caller_that_leaves_before_the_first_token_cancels_it_too() -> None:
    async with open_engine(hang) as engine, open_gateway(engine.address) as stage:
        asking = asyncio.create_task(_ask(stage.url))
        await stage.wait_for_load(running=1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.wait_for(engine.cancelled.wait(), DEADLINE_S)
        await stage.wait_for_load(running=0, failedTotal=1)


async def test_a_replica_that_dies_in_a_stream_ends_it_with_an_error_and_no_done() -> None:
    async with open_engine(die_in_stream) as engine, open_gateway(engine.address) as stage:
        async with stage.post(STREAM) as response:
            await response.content.readuntil(b"\n\n")
            engine.went_on.set()
            events = split_events(await response.read())
            assert response.connection is None
        (line,) = await stage.read_log(1)
    assert events[-1]["error"]["code"] == "replica_lost"
    assert events[-1]["error"].keys() == {"message", "type", "param", "code"}
    assert "data: [DONE]" not in events
    assert (line["status"], line["code"], line["completion_tokens"]) == (502, "replica_lost", 2)


async def test_a_stream_that_an_engine_ends_without_done_is_no_whole_answer() -> None:
    async with open_engine(end_early) as engine, open_gateway(engine.address) as stage:
        async with stage.post(STREAM) as response:
            events = split_events(await response.read())
        (line,) = await stage.read_log(1)
    assert events[-1]["error"]["code"] == "replica_lost"
    assert (line["status"], line["code"]) == (502, "replica_lost")


async def test_an_error_event_never_lands_inside_another_event() -> None:
    async def die_in_event(_: Engine, request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        await response.write(build_stream(wants_usage=False)[0] + b'data: {"choices":[{"del')
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError

    async with open_engine(die_in_event) as engine, open_gateway(engine.address) as stage, stage.post(STREAM) as answer:
        events = split_events(await answer.read())
    assert len(events) == 2
    assert events[1]["error"]["code"] == "replica_lost"


async def test_an_error_that_the_engine_reports_in_its_stream_passes_and_is_counted_as_one() -> None:
    async def fail(_: Engine, request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        await response.write(build_event({"choices": [{"delta": {"content": '"error"'}}]}))
        await response.write(b'data: {"error": {"message": "out of memory", "type": "InternalServerError"}}\n\n')
        await response.write(b"data: [DONE]\n\n")
        return response

    async with open_engine(fail) as engine, open_gateway(engine.address) as stage:
        async with stage.post(STREAM) as response:
            events = split_events(await response.read())
        (line,) = await stage.read_log(1)
    assert events[1]["error"]["message"] == "out of memory"
    assert (line["status"], line["code"]) == (500, "engine_error")


async def test_a_stream_without_a_first_token_is_kept_alive_by_comments() -> None:
    async def think(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        await engine.went_on.wait()
        for line in build_stream(wants_usage=False):
            await response.write(line)
        return response

    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(think))
        stage = await stack.enter_async_context(open_gateway(engine.address, limits=QUICK))
        response = await stack.enter_async_context(stage.post(STREAM))
        assert await response.content.readuntil(b"\n\n") == b": waiting for the first token\n\n"
        engine.went_on.set()
        rest = await response.read()
    assert [event for event in split_events(rest) if not isinstance(event, str)]
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_a_whole_answer_to_a_stream_request_passes_as_it_is() -> None:
    async def answer_whole(_: Engine, __: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": []})

    async with open_engine(answer_whole) as engine, open_gateway(engine.address) as stage, stage.post(STREAM) as answer:
        assert await answer.json() == {"choices": []}


async def test_a_caller_that_does_not_read_is_cut_off_and_the_engine_with_it() -> None:
    async def flood(_: Engine, request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        line = build_event({"choices": [{"delta": {"content": "x" * 10_000}}]})
        while True:
            await response.write(line)

    connections = replace(ConnectionLimits(), write_timeout_s=0.3)
    async with open_engine(flood) as engine, open_gateway(engine.address, connections=connections) as stage:
        async with ClientSession(connector=TCPConnector(), read_bufsize=1024) as stuck:
            headers = {"Authorization": f"Bearer {KEY}"}
            response = await stuck.post(f"{stage.url}/v1/chat/completions", json=STREAM, headers=headers)
            await asyncio.wait_for(engine.cancelled.wait(), DEADLINE_S)
            response.close()
        await stage.wait_for_load(running=0, failedTotal=1)


async def _ask(url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with ClientSession() as client, client.post(f"{url}/v1/chat/completions", json=CHAT, headers=headers) as got:
        await got.read()


async def test_an_answer_that_stops_halfway_is_seen_to_be_broken() -> None:
    """A large answer that is no stream cannot carry an error; the connection breaks instead of ending it well."""

    async def stop_halfway(_: Engine, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000000"})
        await response.prepare(request)
        await response.write(b"x" * 50_000)
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.abort()
        raise ConnectionResetError

    limits = replace(Limits(), max_buffered_bytes=1000)
    async with open_engine(stop_halfway) as engine, open_gateway(engine.address, limits=limits) as stage:
        broken = False
        try:
            async with stage.post() as response:
                await response.read()
        except ClientPayloadError:
            broken = True
        assert broken
        (line,) = await stage.read_log(1)
    assert (line["status"], line["code"]) == (502, "replica_lost")


async def test_no_comment_begins_an_answer_for_a_caller_that_is_gone() -> None:
    begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        stream = EventStream(request, "id", replace(Limits(), comment_after_s=0.0), closes=False)
        assert request.transport is not None
        request.transport.abort()
        with stream.kept_alive("waiting"):
            await asyncio.sleep(0.05)
        begun.set_result(stream.has_begun)
        return web.Response()

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", runner.addresses[0][1])
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not await asyncio.wait_for(begun, DEADLINE_S)
        writer.close()
    finally:
        await runner.cleanup()
