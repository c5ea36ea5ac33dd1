"""Requests for a pool whose replicas are full, as callers and the autoscaler see them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from llmos.api.load import PoolLoad
from llmos.api.scaling import Scaling
from llmos_gateway.catalog import HoldLimits
from llmos_gateway.proxy.limits import Limits
from llmos_operator.planning.sampling import GatewayReading, SamplerMemory, ScaledPool, Sources, build_sample
from tests.gateway.engines import ANSWER, Engine, fail_with, hang, open_engine
from tests.gateway.proxy.test_records import read_samples
from tests.gateway.stage import CHAT, POOL, Stage, open_gateway, split_events
from tests.gateway.values import api_key, key_text, pool, tenant

NARROW = replace(pool(POOL), max_sequences=1)
SENT, ASKED = 6, 20
QUICK = replace(Limits(), comment_after_s=0.02, comment_every_s=0.02)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_more_than_an_engine_runs_waits_in_the_gateway_and_is_then_answered() -> None:
    async with open_engine(hang) as engine, open_gateway(engine.address, pools=[NARROW]) as stage:
        asking = [asyncio.create_task(_ask(stage)) for _ in range(ASKED)]
        load = await stage.wait_for_load(queued=ASKED - SENT, running=SENT)
        assert len(engine.bodies) == SENT
        engine.went_on.set()
        assert await asyncio.gather(*asking) == [ANSWER] * ASKED
        await stage.wait_for_load(finishedTotal=ASKED, queued=0, running=0)
        lines = await stage.read_log(ASKED)
        samples = read_samples(await stage.scrape())
    assert load["queuedPromptTokens"] > 0
    assert sum(line["queue_ms"] > 0 for line in lines) == ASKED - SENT
    assert samples["llmos_gateway_queue_seconds_count", POOL] == ASKED - SENT
    assert samples["llmos_gateway_dispatch_window", POOL] >= 1


async def test_the_autoscaler_sees_what_waits_in_the_gateway() -> None:
    async with open_engine(hang) as engine, open_gateway(engine.address, pools=[NARROW]) as stage:
        asking = [asyncio.create_task(_ask(stage)) for _ in range(ASKED)]
        told = PoolLoad.model_validate(await stage.wait_for_load(queued=ASKED - SENT))
        engine.went_on.set()
        await asyncio.gather(*asking)
    sources = Sources(gateways={"gateway": GatewayReading("boot", told)})
    scaled = ScaledPool(Scaling(min_replicas=1, max_replicas=4))
    sample, _ = build_sample(SamplerMemory(), scaled, sources, now_s=1.0, now=_NOW)
    assert sample.gateway is not None
    assert (sample.gateway.queued, sample.gateway.running) == (ASKED - SENT, SENT)


async def test_a_stream_that_waits_for_its_turn_is_kept_alive() -> None:
    async with open_engine(hang) as engine, open_gateway(engine.address, pools=[NARROW], limits=QUICK) as stage:
        asking = [asyncio.create_task(_ask(stage)) for _ in range(SENT)]
        await stage.wait_for_load(running=SENT)
        async with stage.post({**CHAT, "stream": True}) as response:
            assert await response.content.readuntil(b"\n\n") == b": waiting for its turn (pool is busy)\n\n"
            engine.went_on.set()
            events = split_events(await response.read())
        await asyncio.gather(*asking)
    assert "data: [DONE]" in events


async def test_a_request_that_cannot_wait_any_longer_is_told_when_to_come_back() -> None:
    narrow = replace(NARROW, hold=HoldLimits(timeout_s=0.2))
    async with open_engine(hang) as engine, open_gateway(engine.address, pools=[narrow]) as stage:
        asking = [asyncio.create_task(_ask(stage)) for _ in range(SENT)]
        await stage.wait_for_load(running=SENT)
        async with stage.post() as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await stage.read_error(response))["code"] == "timed_out"
        engine.went_on.set()
        await asyncio.gather(*asking)
        await stage.wait_for_load(finishedTotal=SENT, rejectedTotal=1)


async def test_a_caller_that_leaves_gives_its_turn_to_the_next() -> None:
    async with open_engine(hang) as engine, open_gateway(engine.address, pools=[NARROW]) as stage:
        asking = [asyncio.create_task(_ask(stage)) for _ in range(SENT)]
        await stage.wait_for_load(running=SENT)
        waiting = asyncio.create_task(_ask(stage))
        await stage.wait_for_load(queued=1)
        asking[0].cancel()
        await stage.wait_for_load(queued=0, running=SENT)
        engine.went_on.set()
        await asyncio.gather(*asking, waiting, return_exceptions=True)
    assert waiting.result() == ANSWER


@pytest.mark.parametrize("is_replaced", [True, False])
async def test_what_waited_for_its_turn_goes_to_the_replicas_that_there_are_then(is_replaced: bool) -> None:
    async with open_engine(hang) as old, open_engine() as new, open_gateway(old.address, pools=[NARROW]) as stage:
        asking = [asyncio.create_task(_ask(stage)) for _ in range(SENT + 3)]
        await stage.wait_for_load(queued=3, running=SENT)
        stage.put_endpoints(*([] if is_replaced else [old.address]), new.address)
        await stage.wait_for_load(queued=0, running=SENT)
        assert (len(old.bodies), len(new.bodies)) == (SENT, 3)
        old.went_on.set()
        await asyncio.gather(*asking)


async def test_keys_of_one_tenant_wait_within_one_bound_and_what_was_held_is_let_in_when_the_pool_wakes() -> None:
    hold = HoldLimits(max_requests=100, max_requests_per_key=5)
    asleep = replace(NARROW, hold=hold, is_scaled=True)
    async with open_engine() as engine, open_gateway(pools=[asleep]) as stage:
        stage.catalog.put_tenant(tenant("acme", "team"))
        for number in (1, 2):
            stage.catalog.keys.put(api_key(number, tenant="acme"))
        held = [asyncio.create_task(_ask(stage, number)) for number in (1, 2, 1, 2, 1)]
        await stage.wait_for_load(queued=5)
        async with stage.post(headers=_present(2)) as response:
            assert response.status == 429
            assert "tenant or API key" in (await stage.read_error(response))["message"]
        other = asyncio.create_task(_ask(stage))
        await stage.wait_for_load(queued=6)
        assert _find_held(await stage.scrape()) == {"acme": 5, "": 1}
        stage.put_endpoints(engine.address)
        assert await asyncio.gather(*held, other) == [ANSWER] * 6
        assert _find_held(await stage.scrape()) == {"acme": 0, "": 0}


async def test_what_waits_for_its_turn_is_held_without_another_look_at_the_bound_when_the_last_replica_goes() -> None:
    narrow = replace(NARROW, hold=HoldLimits(max_requests=100, max_requests_per_key=5), is_scaled=True)
    async with open_engine(hang) as old, open_engine() as new, open_gateway(old.address, pools=[narrow]) as stage:
        sent = [asyncio.create_task(_ask(stage)) for _ in range(SENT)]
        await stage.wait_for_load(running=SENT)
        waiting = [asyncio.create_task(_ask(stage)) for _ in range(5)]
        await stage.wait_for_load(queued=5)
        stage.put_endpoints()
        late = asyncio.create_task(_ask(stage))
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        stage.put_endpoints(new.address)
        old.went_on.set()
        await asyncio.gather(*sent, *waiting)
        with pytest.raises(AssertionError, match="queue_full"):
            await late


@pytest.mark.parametrize("status", [400, 503])
async def test_what_an_engine_refused_costs_its_caller_no_turn(status: int) -> None:
    async def behave(engine: Engine, request: web.Request) -> web.StreamResponse:
        is_refused = b"refuse" in await request.read()
        return await (fail_with(status, {}) if is_refused else hang)(engine, request)

    async def ask_what_is_refused(words: int) -> None:
        message = {"role": "user", "content": "refuse " * words}
        async with stage.post({**CHAT, "messages": [message]}, headers=_present(1)) as response:
            assert response.status == status

    async with open_engine(behave) as engine, open_gateway(engine.address, pools=[NARROW]) as stage:
        stage.catalog.keys.put(api_key(1))
        asking = [asyncio.create_task(_ask(stage)) for _ in range(SENT)]
        await stage.wait_for_load(running=SENT)
        long = asyncio.create_task(ask_what_is_refused(10_000))
        await stage.wait_for_load(queued=1)
        asking.append(asyncio.create_task(_ask(stage)))
        await stage.wait_for_load(queued=2)
        asking.pop(0).cancel()
        await long
        await ask_what_is_refused(1)
        await stage.wait_for_load(queued=1)
        engine.went_on.set()
        await asyncio.gather(*asking)


def _present(number: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {key_text(number)}"}


async def _ask(stage: Stage, number: int = 0) -> object:
    async with stage.post(headers=_present(number)) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def _find_held(metrics: str) -> dict[str, float]:
    """Return how many requests wait for the pool's model, by tenant."""
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    held = [sample for sample in samples if sample.name == "llmos_gateway_held_requests"]
    assert {(sample.labels["pool"], sample.labels["model"]) for sample in held} == {(POOL, "qwen")}
    return {sample.labels["tenant"]: sample.value for sample in held}
