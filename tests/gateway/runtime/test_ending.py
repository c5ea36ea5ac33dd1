"""SIGTERM: no request is lost that could be finished, and every other one is told."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.gateway.engines import ANSWER, hang, open_engine, pause_in_stream
from tests.gateway.raw import connect
from tests.gateway.stage import CHAT, DEADLINE_S, KEY, Stage, open_gateway, split_events, wait_until

STREAM = {**CHAT, "stream": True}


async def read_readiness(stage: Stage) -> int:
    async with stage.client.get(f"{stage.admin_url}/readyz") as response:
        return response.status


async def is_unready(stage: Stage) -> bool:
    return await read_readiness(stage) == 503


async def test_a_gateway_is_ready_once_everything_was_read() -> None:
    async with open_gateway() as stage:
        assert await read_readiness(stage) == 200
        stage.catalog.is_synced = False
        assert await read_readiness(stage) == 503
        async with stage.client.get(f"{stage.admin_url}/healthz") as response:
            assert response.status == 200


async def test_while_it_settles_requests_are_served_and_connections_closed() -> None:
    async with open_engine() as engine, open_gateway(engine.address, settle_s=30.0) as stage:
        stage.gateway.stop()
        await wait_until(lambda: is_unready(stage))
        async with stage.post() as response:
            assert response.headers["Connection"] == "close"
            assert await response.json() == ANSWER
        async with stage.post(STREAM) as response:
            assert response.headers["Connection"] == "close"
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        stage.running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage.running


async def test_what_runs_is_finished_before_the_end() -> None:
    async with open_engine(pause_in_stream) as engine, open_gateway(engine.address, drain_s=60.0) as stage:
        # An idle connection is closed when no more are taken.
        idle, writer = await connect(stage)
        async with stage.post(STREAM) as response:
            await response.content.readuntil(b"\n\n")
            stage.gateway.stop()
            assert await asyncio.wait_for(idle.read(), DEADLINE_S) == b""
            writer.close()
            with pytest.raises(ConnectionError):
                await connect(stage)
            assert not stage.running.done()
            engine.went_on.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        await asyncio.wait_for(stage.running, DEADLINE_S)


@pytest.mark.parametrize(("settle_s", "listens"), [(30.0, True), (2.0, False)], ids=["settles", "drains"])
async def test_a_connection_that_a_stream_promised_to_keep_takes_one_more_request(
    settle_s: float, listens: bool
) -> None:
    async with (
        open_engine(pause_in_stream) as engine,
        open_gateway(engine.address, settle_s=settle_s, drain_s=60.0) as stage,
    ):
        async with stage.post(STREAM) as response:
            assert "Connection" not in response.headers
            port = await _read_some(response)
            stage.gateway.stop()
            await wait_until(lambda: _is_listening(stage, listens))
            engine.went_on.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        engine.went_on.clear()
        async with stage.post(STREAM) as response:
            assert response.headers["Connection"] == "close"
            assert await _read_some(response) == port
            engine.went_on.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        stage.running.cancel()
        await asyncio.gather(stage.running, return_exceptions=True)


async def test_what_cannot_be_finished_in_time_is_told() -> None:
    async with open_engine(pause_in_stream) as engine, open_gateway(engine.address, drain_s=0.2) as stage:
        async with stage.post(STREAM) as response:
            await response.content.readuntil(b"\n\n")
            stage.gateway.stop()
            events = split_events(await response.read())
        assert events[-1]["error"]["code"] == "shutting_down"
        await asyncio.wait_for(engine.cancelled.wait(), DEADLINE_S)


async def test_a_request_without_an_answer_yet_is_sent_to_another_gateway() -> None:
    async with open_engine(hang) as engine, open_gateway(engine.address, drain_s=0.2) as stage:
        asking = asyncio.create_task(_read(stage))
        await stage.wait_for_load(running=1)
        stage.gateway.stop()
        status, retry_after = await asking
    assert (status, retry_after) == (503, "1")


async def test_a_held_request_is_sent_to_another_gateway() -> None:
    async with open_gateway(drain_s=0.2) as stage:
        asking = asyncio.create_task(_read(stage))
        await stage.wait_for_load(queued=1)
        stage.gateway.stop()
        assert await asking == (503, "1")


async def _is_listening(stage: Stage, wanted: bool) -> bool:
    if not await is_unready(stage):
        return False
    try:
        _, writer = await connect(stage)
    except ConnectionError:
        return not wanted
    writer.close()
    return wanted


async def _read_some(response: aiohttp.ClientResponse) -> int:
    """Read the first event, and return the caller's own port, by which a connection is told from another."""
    await response.content.readuntil(b"\n\n")
    assert response.connection is not None
    assert response.connection.transport is not None
    return int(response.connection.transport.get_extra_info("sockname")[1])


async def _read(stage: Stage) -> tuple[int, str | None]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as client:
        response = await client.post(f"{stage.url}/v1/chat/completions", json=CHAT)
        await response.read()
        return response.status, response.headers.get("Retry-After")
