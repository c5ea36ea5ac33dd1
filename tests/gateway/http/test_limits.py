"""Callers that ask for too much, or too slowly."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from functools import partial

import aiohttp
import pytest
from aiohttp import web

from llmos_gateway.http.connections import ConnectionLimits
from llmos_gateway.proxy.limits import Limits
from tests.gateway.engines import ANSWER, Engine, answer, die, hang, open_engine, pause_in_stream
from tests.gateway.raw import connect, exchange
from tests.gateway.stage import CHAT, DEADLINE_S, KEY, SALT, Stage, open_gateway, split_events, wait_until
from tests.gateway.values import api_key, key_text, tenant

STREAM = {**CHAT, "stream": True}
HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()


async def test_a_body_beyond_the_limit_is_refused_before_it_is_sent() -> None:
    limits = replace(Limits(), max_body_bytes=1000)
    async with open_engine() as engine, open_gateway(engine.address, limits=limits) as stage:
        answer = await exchange(stage, HEAD + b"Content-Length: 1001\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"request_too_large"' in answer
    assert not engine.bodies


async def test_a_body_of_unknown_length_is_refused_when_it_passes_the_limit() -> None:
    limits = replace(Limits(), max_body_bytes=1000)
    async with open_engine() as engine, open_gateway(engine.address, limits=limits) as stage:
        chunk = b"1f4\r\n" + b" " * 500 + b"\r\n"
        answer = await exchange(stage, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_at_the_limit_passes() -> None:
    body = json.dumps(CHAT).encode()
    limits = replace(Limits(), max_body_bytes=len(body))
    async with open_engine() as engine, open_gateway(engine.address, limits=limits) as stage, stage.post() as response:
        assert response.status == 200


async def test_large_bodies_pass_whole() -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        data = io.BytesIO(json.dumps(body).encode())
        async with stage.client.post(f"{stage.url}/v1/chat/completions", data=data, headers=headers) as response:
            assert response.status == 200
    assert engine.bodies == [{**body, "model": "qwen", "cache_salt": SALT}]


async def test_a_large_body_is_sent_whole_a_second_time_too() -> None:
    async def die_once(engine: Engine, request: web.Request) -> web.StreamResponse:
        engine.behave = answer
        return await die(engine, request)

    body = {**CHAT, "messages": [{"role": "user", "content": "x" * 3_000_000}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with open_engine(die_once) as engine, open_gateway(engine.address) as stage:
        data = io.BytesIO(json.dumps(body).encode())
        async with stage.client.post(f"{stage.url}/v1/chat/completions", data=data, headers=headers) as response:
            assert response.status == 200
    assert engine.bodies == [{**body, "model": "qwen", "cache_salt": SALT}] * 2
    assert all("transfer-encoding" not in headers for headers in engine.headers)


async def test_all_bodies_together_are_bounded_and_given_back() -> None:
    size = len(json.dumps(CHAT).encode())
    limits = replace(Limits(), max_bodies_bytes=size)
    async with open_engine(hang) as engine, open_gateway(engine.address, limits=limits) as stage:
        first = asyncio.create_task(_read_status(stage.post()))
        await stage.wait_for_load(running=1)
        async with stage.post() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert (await stage.read_error(response))["code"] == "overloaded"
        engine.went_on.set()
        assert await first == 200
        assert await _read_status(stage.post()) == 200


async def test_who_announces_much_and_sends_nothing_leaves_room_for_others() -> None:
    limits = replace(Limits(), max_body_bytes=1000, max_bodies_bytes=4000)
    async with open_engine() as engine, open_gateway(engine.address, limits=limits) as stage:
        stage.catalog.keys.put(api_key(1))
        stalled = [await connect(stage) for _ in range(2)]
        for _, writer in stalled:
            writer.write(HEAD + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n")
        for reader, _ in stalled:
            assert b"100 Continue" in await reader.readline()
        async with stage.post() as refused:
            assert refused.status == 429
            assert (await stage.read_error(refused))["code"] == "too_many_bodies"
        async with stage.post(headers={"Authorization": f"Bearer {key_text(1)}"}) as response:
            assert response.status == 200
        for _, writer in stalled:
            writer.close()
        await wait_until(partial(_is_taken, stage))


async def test_a_stream_that_has_begun_holds_no_body() -> None:
    limits = replace(Limits(), max_bodies_bytes=len(json.dumps(STREAM).encode()))
    async with open_engine(pause_in_stream) as engine, open_gateway(engine.address, limits=limits) as stage:
        first = await stage.post(STREAM)
        await first.content.readuntil(b"\n\n")
        async with stage.post(STREAM) as second:
            assert second.status == 200
            engine.went_on.set()
            await second.read()
        assert (await first.read()).endswith(b"data: [DONE]\n\n")


async def test_requests_in_flight_are_bounded() -> None:
    limits = replace(Limits(), max_in_flight=1)
    async with open_engine(hang) as engine, open_gateway(engine.address, limits=limits) as stage:
        first = asyncio.create_task(_read_status(stage.post()))
        await stage.wait_for_load(running=1)
        async with stage.post() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
        engine.went_on.set()
        assert await first == 200


async def test_one_caller_leaves_half_of_the_gateway_to_others_and_gets_its_part_back() -> None:
    limits = replace(Limits(), max_in_flight=5)
    async with open_engine(hang) as engine, open_gateway(engine.address, limits=limits) as stage:
        stage.catalog.put_tenant(tenant("acme", "team"))
        for number in (1, 2):
            stage.catalog.keys.put(api_key(number, tenant="acme"))
        acme, other = ({"Authorization": f"Bearer {key_text(number)}"} for number in (1, 0))
        sent = [asyncio.create_task(_read_status(stage.post(headers=acme))) for _ in range(2)]
        await stage.wait_for_load(running=2)
        same_tenant = {"Authorization": f"Bearer {key_text(2)}"}
        for asking in (stage.post(headers=same_tenant), stage.get("/v1/models", headers=same_tenant)):
            async with asking as response:
                assert (response.status, response.headers["Retry-After"]) == (429, "1")
                error = await stage.read_error(response)
            assert error["code"] == "too_many_in_flight"
            assert error["message"].startswith("2 requests")
        sent.append(asyncio.create_task(_read_status(stage.post(headers=other))))
        await stage.wait_for_load(running=3)
        engine.went_on.set()
        assert await asyncio.gather(*sent) == [200] * 3
        for _ in range(3):
            assert await _read_status(stage.post(headers=acme)) == 200


async def test_where_nobody_is_told_apart_nobody_is_bound_to_a_half() -> None:
    limits = replace(Limits(), max_in_flight=2)
    async with open_engine(hang) as engine, open_gateway(engine.address, limits=limits, asks_for_key=False) as stage:
        sent = [asyncio.create_task(_read_status(stage.post(headers={}))) for _ in range(2)]
        await stage.wait_for_load(running=2)
        engine.went_on.set()
        assert await asyncio.gather(*sent) == [200] * 2


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_compressed_bodies_are_refused(encoding: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Encoding": encoding}
    async with open_gateway() as stage, stage.post(headers=headers) as response:
        assert response.status == 415
        assert (await stage.read_error(response))["code"] == "unsupported_encoding"


async def test_a_body_that_does_not_come_is_given_up() -> None:
    limits = replace(Limits(), body_timeout_s=0.1)
    async with open_gateway(limits=limits) as stage:
        answer = await exchange(stage, HEAD + b'Content-Length: 100\r\n\r\n{"model":')
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("data", [b"", b"POST /v1/chat", HEAD])
async def test_a_head_that_does_not_come_is_given_up(data: bytes) -> None:
    connections = replace(ConnectionLimits(), header_timeout_s=0.1)
    async with open_gateway(connections=connections) as stage:
        assert await exchange(stage, data) == b""


async def test_a_second_head_that_does_not_come_is_given_up_too() -> None:
    connections = replace(ConnectionLimits(), header_timeout_s=0.1)
    async with open_gateway(connections=connections) as stage:
        reader, writer = await connect(stage)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"}}"), DEADLINE_S)
        writer.write(b"GET /v1/mod")
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        writer.close()


async def test_half_a_head_behind_a_request_does_not_keep_a_connection() -> None:
    connections = replace(ConnectionLimits(), keepalive_timeout_s=0.1)
    async with open_gateway(connections=connections) as stage:
        answer = await exchange(stage, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/mod")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_an_idle_connection_is_closed() -> None:
    connections = replace(ConnectionLimits(), keepalive_timeout_s=0.1)
    async with open_gateway(connections=connections) as stage:
        answer = await exchange(stage, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_connections_are_bounded() -> None:
    connections = replace(ConnectionLimits(), max_connections=1)
    async with open_gateway(connections=connections) as stage:
        _, writer = await connect(stage)
        answer = await exchange(stage, b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in answer
        assert b'"code":"overloaded"' in answer
        assert "llmos_gateway_connections_refused_total 1.0" in await stage.scrape()
        writer.close()


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    limits = replace(Limits(), request_timeout_s=0.2)
    async with open_engine(hang) as engine, open_gateway(engine.address, limits=limits) as stage:
        async with stage.post() as response:
            assert response.status == 504
            assert (await stage.read_error(response))["code"] == "time_limit"
        await asyncio.wait_for(engine.cancelled.wait(), DEADLINE_S)
        await stage.wait_for_load(running=0, failedTotal=1)


async def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    limits = replace(Limits(), request_timeout_s=0.2)
    async with open_engine(pause_in_stream) as engine, open_gateway(engine.address, limits=limits) as stage:
        response = await stage.post(STREAM)
        events = split_events(await response.read())
    assert events[-1]["error"]["code"] == "time_limit"
    assert "data: [DONE]" not in events


async def test_a_client_that_waits_for_100_gets_it() -> None:
    body = json.dumps(CHAT).encode()
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        reader, writer = await connect(stage)
        writer.write(HEAD + f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await asyncio.wait_for(reader.readline(), DEADLINE_S)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_client_that_waits_for_100_hears_of_a_bad_key_before_it_sends() -> None:
    async with open_gateway() as stage:
        data = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
        assert (await exchange(stage, data)).startswith(b"HTTP/1.1 401 ")


async def test_one_connection_carries_many_requests() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as client:
            for _ in range(5):
                async with client.post(f"{stage.url}/v1/chat/completions", json=CHAT) as response:
                    assert await response.json() == ANSWER
        assert "llmos_gateway_connections" in await stage.scrape()


async def _is_taken(stage: Stage) -> bool:
    return await _read_status(stage.post()) == 200


async def _read_status(asking: object) -> int:
    async with asking as response:  # type: ignore[attr-defined]  # aiohttp's request, typed where it is made
        await response.read()
        return int(response.status)
