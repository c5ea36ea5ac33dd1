"""Requests for a pool without a replica, as callers see them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiohttp import ClientSession

from llmos_gateway.catalog import HoldLimits
from llmos_gateway.proxy.limits import Limits
from tests.gateway.engines import ANSWER, fail_with, open_engine
from tests.gateway.stage import CHAT, KEY, POOL, Stage, open_gateway, split_events
from tests.gateway.values import pool

STREAM = {**CHAT, "stream": True}
QUICK = replace(Limits(), comment_after_s=0.02, comment_every_s=0.02)
WAITING = b": waiting for a replica (pool wakes up)\n\n"


async def test_a_held_request_is_answered_when_a_replica_comes() -> None:
    async with open_engine() as engine, open_gateway() as stage:
        asking = [asyncio.create_task(_ask(stage)) for _ in range(10)]
        await stage.wait_for_load(queued=10)
        stage.put_endpoints(engine.address)
        assert await asyncio.gather(*asking) == [ANSWER] * 10
        load = await stage.wait_for_load(finishedTotal=10)
        lines = await stage.read_log(10)
    assert "queued" not in load
    assert all(line["queue_ms"] > 0 for line in lines)


async def test_a_held_stream_is_kept_alive_and_then_answered() -> None:
    async with open_engine() as engine, open_gateway(limits=QUICK) as stage, stage.post(STREAM) as response:
        assert response.status == 200
        assert await response.content.readuntil(b"\n\n") == WAITING
        stage.put_endpoints(engine.address)
        events = split_events(await response.read())
    assert [event for event in events if isinstance(event, str) and not event.startswith(":")] == ["data: [DONE]"]
    assert sum("choices" in event for event in events if isinstance(event, dict)) == 4


async def test_a_held_stream_that_fails_late_says_so_in_an_event() -> None:
    async with open_gateway(limits=QUICK) as stage:
        async with stage.post(STREAM) as response:
            assert await response.content.readuntil(b"\n\n") == WAITING
            stage.catalog.put_pool(replace(pool(POOL), is_hopeless=True, problem="No node has four GPUs."))
            events = split_events(await response.read())
        (line,) = await stage.read_log(1)
    assert "No node has four GPUs." in events[-1]["error"]["message"]
    assert "data: [DONE]" not in events
    assert line["status"] == 503


async def test_an_engines_refusal_after_comments_says_so_in_an_event() -> None:
    refuse = fail_with(400, {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}})
    async with open_engine(refuse) as engine, open_gateway(limits=QUICK) as stage, stage.post(STREAM) as response:
        assert await response.content.readuntil(b"\n\n") == WAITING
        stage.put_endpoints(engine.address)
        events = split_events(await response.read())
    assert events[-1]["error"]["message"] == "too long"


async def test_a_held_stream_that_fails_early_has_a_status_of_its_own() -> None:
    async with open_gateway(hold=HoldLimits(timeout_s=0.05)) as stage, stage.post(STREAM) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert (await stage.read_error(response))["code"] == "timed_out"


async def test_a_full_queue_is_told_with_429() -> None:
    async with open_engine() as engine, open_gateway(hold=HoldLimits(max_requests=1)) as stage:
        first = asyncio.create_task(_ask(stage))
        await stage.wait_for_load(queued=1)
        async with stage.post() as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) >= 1
            assert (await stage.read_error(response))["code"] == "queue_full"
        stage.put_endpoints(engine.address)
        assert await first == ANSWER
        await stage.wait_for_load(arrivalsTotal=2, finishedTotal=1, rejectedTotal=1)


async def test_a_pool_that_can_have_no_replica_says_why_at_once() -> None:
    hopeless = replace(pool(POOL), is_hopeless=True, problem="Unschedulable: no node has four GPUs.")
    async with open_gateway(pools=[hopeless]) as stage, stage.post() as response:
        assert response.status == 503
        assert "Retry-After" not in response.headers
        error = await stage.read_error(response)
    assert error["code"] == "unavailable"
    assert "no node has four GPUs" in error["message"]


async def test_a_pool_that_is_deleted_while_requests_wait_is_gone_for_them() -> None:
    async with open_gateway() as stage:
        asking = asyncio.create_task(_read_status(stage))
        await stage.wait_for_load(queued=1)
        stage.catalog.remove_pool(POOL)
        assert await asking == 404


async def test_a_caller_that_leaves_frees_its_place_at_once() -> None:
    async with open_gateway() as stage:
        async with ClientSession() as leaving:
            headers = {"Authorization": f"Bearer {KEY}"}
            asking = asyncio.create_task(
                leaving.post(f"{stage.url}/v1/chat/completions", json=CHAT, headers=headers).__aenter__()
            )
            await stage.wait_for_load(queued=1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        load = await stage.wait_for_load(queued=0, failedTotal=1)
    assert load["arrivalsTotal"] == 1


async def _ask(stage: Stage) -> object:
    async with stage.post() as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def _read_status(stage: Stage) -> int:
    async with stage.post() as response:
        return int(response.status)
