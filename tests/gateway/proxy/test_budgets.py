"""Requests of a tenant with a budget: what they may use, what comes back, and what their callers are told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from llmos.api.load import GatewayLoad
from llmos_gateway.proxy.limits import Limits
from tests.gateway.engines import (
    Engine,
    answer,
    begin_stream,
    die,
    die_in_stream,
    end_early,
    fail_with,
    hang,
    open_engine,
    pause_in_stream,
)
from tests.gateway.proxy.budget_stage import (
    EVEN,
    HEADERS,
    PROMPT,
    RESERVED,
    ask,
    build_token,
    endless,
    open_tenant,
    read_status,
    read_used,
    wait_for_used,
)
from tests.gateway.redis_server import Server
from tests.gateway.stage import Stage, split_events
from tests.gateway.values import key_text, tenant


async def test_an_answer_costs_what_the_engine_counted_and_the_headers_say_what_is_left() -> None:
    async with open_engine() as engine, open_tenant(engine, perDay="1000") as stage:
        async with ask(stage, max_tokens=100) as response:
            assert response.status == 200
            assert response.headers["x-ratelimit-limit-tokens"] == "1000"
            assert response.headers["x-ratelimit-remaining-tokens"] == str(1000 - 100 - RESERVED)
            assert response.headers["x-ratelimit-reset-tokens"].endswith("s")
        assert await read_used(stage) == (10, 0)


async def burst(engine: Engine, request: web.Request) -> web.StreamResponse:
    """Stream 1,500 tokens in one piece, as they come from an engine that was not read for a while."""
    response = await begin_stream(request)
    await response.write(b"".join(build_token(number) for number in range(1500)))
    return response


async def test_of_much_that_comes_at_once_a_caller_gets_what_its_tenant_can_pay() -> None:
    async with open_engine(burst) as engine, open_tenant(engine, perDay="1000") as stage:
        async with ask(stage, stream=True) as response:
            events = split_events(await response.read())
        assert events[-1]["error"]["code"] == "insufficient_quota"
        assert len(events) - 1 == 1000 - PROMPT + 1, "the first one is none of the answer's tokens"
        assert await read_used(stage) == (1000, 0)


async def test_keys_without_a_tenant_and_tenants_without_a_budget_are_not_counted() -> None:
    async with open_engine() as engine, open_tenant(engine) as stage:
        for headers in (HEADERS, {"Authorization": f"Bearer {key_text()}"}):
            async with stage.post(headers=headers) as response:
                assert response.status == 200
                assert not [name for name in response.headers if name.lower().startswith("x-ratelimit")]


@pytest.mark.parametrize(
    ("tokens", "code", "retry"),
    [
        ({"perMinute": "50"}, "rate_limit_exceeded", 60),
        ({"perDay": "50"}, "insufficient_quota", 86_400),
        ({"perMonth": "50"}, "insufficient_quota", 31 * 86_400),
    ],
)
async def test_who_has_used_it_up_is_told_when_there_is_more(tokens: dict[str, Any], code: str, retry: int) -> None:
    big = count_so({"prompt_tokens": 45, "completion_tokens": 3})
    await avoid_turn_of_minute()
    async with open_engine(big) as engine, open_tenant(engine, **tokens) as stage:
        async with ask(stage, max_tokens=3) as response:
            assert response.status == 200
        async with ask(stage, max_tokens=3) as response:
            assert response.status == 429
            assert 1 <= int(response.headers["Retry-After"]) <= retry
            assert response.headers["x-ratelimit-remaining-tokens"] == "2"
            error = await stage.read_error(response)
        assert (error["type"], error["code"]) == ("rate_limit_error", code)
        assert "Of the 50 weighted tokens of the tenant 'acme'" in error["message"]
        assert len(engine.bodies) == 1
        samples = await stage.scrape()
    assert (
        f'budget_refused_total{{mode="enforce",tenant="acme",window="{next(iter(tokens))[3:].lower()}"}} 1.0' in samples
    )


def count_so(usage: dict[str, int]) -> Any:
    """An engine that answers and counts so."""

    async def behave(_: Engine, request: web.Request) -> web.StreamResponse:
        del request
        return web.json_response({"choices": [], "usage": usage})

    return behave


async def test_what_never_fits_is_refused_without_a_time_to_come_back() -> None:
    async with (
        open_engine() as engine,
        open_tenant(engine, perDay="50") as stage,
        ask(stage, max_tokens=99) as response,
    ):
        assert response.status == 429
        assert "Retry-After" not in response.headers
        assert response.headers["x-should-retry"] == "false"
        assert "shorter answer" in (await stage.read_error(response))["message"]


async def test_what_running_requests_have_reserved_may_come_back_soon() -> None:
    async with open_engine(hang) as engine, open_tenant(engine, perDay="150") as stage:
        running = asyncio.create_task(read_status(ask(stage, max_tokens=80)))
        await stage.wait_for_load(running=1)
        async with ask(stage, max_tokens=80) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
            assert (await stage.read_error(response))["code"] == "rate_limit_exceeded"
        engine.went_on.set()
        assert await running == 200
        async with ask(stage, max_tokens=80) as response:
            assert response.status == 200


async def avoid_turn_of_minute() -> None:
    """Have some seconds before the minute ends, by which its window begins anew."""
    left_s = 60 - time.time() % 60
    if left_s < 5:
        await asyncio.sleep(left_s)


async def test_two_hundred_at_once_on_a_budget_for_ten_are_never_over() -> None:
    async with open_engine(hang) as engine, open_tenant(engine, perMonth="1000") as stage:
        asking = [asyncio.create_task(read_status(ask(stage, max_tokens=100 - RESERVED))) for _ in range(200)]
        await stage.wait_for_load(running=10)
        async with asyncio.timeout(20):
            while sum(task.done() for task in asking) < 190:  # noqa: ASYNC110 - what is waited for is beyond HTTP
                await asyncio.sleep(0.01)
        assert await read_used(stage, "month") == (1000, 1000)
        engine.went_on.set()
        statuses = await asyncio.gather(*asking)
        assert (statuses.count(200), statuses.count(429)) == (10, 190)
        assert await read_used(stage, "month") == (100, 0)


async def test_only_so_many_requests_at_a_time() -> None:
    async with open_engine(hang) as engine, open_tenant(engine, maxConcurrency=2) as stage:
        running = [asyncio.create_task(read_status(ask(stage))) for _ in range(2)]
        await stage.wait_for_load(running=2)
        async with ask(stage) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
            assert response.headers["x-ratelimit-limit-requests"] == "2"
            assert response.headers["x-ratelimit-remaining-requests"] == "0"
            assert (await stage.read_error(response))["code"] == "rate_limit_exceeded"
        running[0].cancel()
        await stage.wait_for_load(running=1)
        engine.went_on.set()
        assert await read_status(ask(stage)) == 200
        await asyncio.gather(*running, return_exceptions=True)


async def test_in_shadow_nobody_is_refused_and_all_is_counted() -> None:
    async with open_engine() as engine, open_tenant(engine, perDay="5", maxConcurrency=1, mode="shadow") as stage:
        for _ in range(3):
            async with ask(stage, max_tokens=100) as response:
                assert response.status == 200
                assert "x-ratelimit-limit-tokens" not in response.headers
        assert await read_used(stage) == (30, 0)
        samples = await stage.scrape()
    assert 'budget_refused_total{mode="shadow",tenant="acme",window="day"} 3.0' in samples


async def test_a_budget_that_runs_out_in_a_stream_ends_it_and_the_next_request_is_refused() -> None:
    async with open_engine(endless) as engine, open_tenant(engine, perDay="1000") as stage:
        async with ask(stage, stream=True) as response:
            assert response.status == 200
            events = split_events(await response.read())
        assert events[-1]["error"]["code"] == "insufficient_quota"
        assert "data: [DONE]" not in events
        await asyncio.wait_for(engine.cancelled.wait(), 10)
        used, reserved = await read_used(stage)
        assert (used, reserved) == (1000, 0)
        assert len(events) - 1 <= 1000 - PROMPT + 1
        assert len(events) - 1 >= 1000 - PROMPT - 50
        async with ask(stage, stream=True) as response:
            assert response.status == 429
            assert response.headers["x-ratelimit-remaining-tokens"] == "0"
            assert int(response.headers["Retry-After"]) >= 1
        line = (await stage.read_log(2))[0]
    assert (line["status"], line["code"], line["decision"]) == (429, "insufficient_quota", "failed")


async def test_an_open_stream_holds_little_of_the_budget_and_grows() -> None:
    async with open_engine(pause_in_stream) as engine, open_tenant(engine, perDay="100k") as stage:
        streaming = asyncio.create_task(read_status(ask(stage, stream=True)))
        await stage.wait_for_load(running=1)
        assert await read_used(stage) == (RESERVED + 256, RESERVED + 256)
        engine.went_on.set()
        assert await streaming == 200
        await wait_for_used(stage, 10)


async def test_an_open_whole_answer_is_asked_for_no_longer_than_the_budget_lasts() -> None:
    async with open_engine() as engine, open_tenant(engine, perDay="100") as stage:
        async with ask(stage) as response:
            assert response.status == 200
        assert engine.bodies[-1]["max_tokens"] == 100 - RESERVED
        stage.catalog.put_tenant(tenant("acme", "team", tokens={"cost": EVEN, "perDay": "1M"}))
        async with ask(stage) as response:
            assert response.status == 200
    assert "max_tokens" not in engine.bodies[-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_no_engine_answers_gives_all_back(stream: bool) -> None:
    for behave, status in ((die, 502), (fail_with(400, "no"), 400), (fail_with(503, "no"), 503)):
        async with open_engine(behave) as engine, open_tenant(engine, perDay="1000") as stage:
            async with ask(stage, max_tokens=100, stream=stream) as response:
                assert response.status == status
                assert "x-ratelimit-remaining-tokens" in response.headers
            await wait_for_used(stage, 0)


async def test_a_stream_that_an_engine_does_not_end_costs_what_the_caller_got() -> None:
    async with open_engine(die_in_stream) as engine, open_tenant(engine, perDay="1000") as stage:
        async with ask(stage, max_tokens=100, stream=True) as response:
            assert response.status == 200
            await response.content.readuntil(b"Par")
            engine.went_on.set()
            await response.read()
        await wait_for_used(stage, PROMPT + 2)


async def test_a_caller_that_leaves_pays_for_what_it_got() -> None:
    async with open_engine(pause_in_stream) as engine, open_tenant(engine, perDay="1000") as stage:
        async with ask(stage, max_tokens=100, stream=True) as response:
            await response.content.readuntil(b'"is"')
            await wait_for_used(stage, RESERVED + 100, RESERVED + 100)
        await wait_for_used(stage, PROMPT + 2)


async def test_a_caller_that_leaves_a_large_answer_before_the_count_pays_for_what_it_got() -> None:
    async def behave(engine: Engine, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"choices":[{"text":"' + b"a" * 4000)
        await engine.went_on.wait()
        return response

    options = {"limits": replace(Limits(), max_buffered_bytes=100)}
    # No estimate of the gateway's is charged beyond what was reserved.
    for most, used in ((5000, PROMPT + 1005), (100, RESERVED + 100)):
        async with open_engine(behave) as engine, open_tenant(engine, perDay="10k", options=options) as stage:
            async with ask(stage, max_tokens=most) as response:
                await response.content.readexactly(4000)
            await wait_for_used(stage, used)


async def test_a_caller_that_leaves_before_its_turn_pays_nothing() -> None:
    async with open_engine() as engine, open_tenant(engine, perDay="1000") as stage:
        stage.put_endpoints()
        waiting = asyncio.create_task(read_status(ask(stage, max_tokens=100)))
        await stage.wait_for_load(queued=1)
        assert await read_used(stage) == (RESERVED + 100, RESERVED + 100)
        waiting.cancel()
        await wait_for_used(stage, 0)
        assert not engine.bodies


async def test_another_attempt_costs_nothing_more() -> None:
    async with open_engine(die) as broken, open_engine() as engine, open_tenant(broken, perDay="1000") as stage:
        stage.put_endpoints(broken.address, engine.address)
        for _ in range(4):
            assert await read_status(ask(stage, max_tokens=100)) == 200
        assert broken.bodies
        await wait_for_used(stage, 4 * 10)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/classify", "/v1/pooling"])
async def test_what_does_not_speak_reserves_its_prompt_only(path: str) -> None:
    async with open_engine(count_so({"prompt_tokens": 3})) as engine, open_tenant(engine, perDay="100") as stage:
        async with stage.post({"model": "chat", "input": "Paris"}, path, headers=HEADERS) as response:
            assert response.status == 200
            assert response.headers["x-ratelimit-remaining-tokens"] == "78"
        await wait_for_used(stage, 3)


async def test_every_choice_of_every_prompt_is_reserved() -> None:
    body = {"model": "chat", "prompt": ["a" * 4, "b" * 4], "n": 3}
    async with open_engine(hang) as engine, open_tenant(engine, perDay="1000") as stage:
        running = asyncio.create_task(read_status(stage.post(body, "/v1/completions", headers=HEADERS)))
        await stage.wait_for_load(running=1)
        used, _ = await read_used(stage)
        engine.went_on.set()
        await running
    assert 2 * 3 * 16 + 20 <= used <= 2 * 3 * 16 + 30


async def test_openai_client_reads_a_refusal_as_its_own_and_does_not_insist() -> None:
    message: Any = {"role": "user", "content": "hi"}
    async with open_engine() as engine, open_tenant(engine, perDay="50") as stage:
        client = openai.AsyncOpenAI(base_url=f"{stage.url}/v1", api_key=key_text(1))
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="chat", messages=[message], max_tokens=100)
        await client.close()
        lines = await stage.read_log(1)
    assert refused.value.code == "rate_limit_exceeded"
    assert (len(engine.bodies), len(lines)) == (0, 1)


async def test_the_operator_is_told_what_tenants_have_used() -> None:
    async with open_engine() as engine, open_tenant(engine, perDay="1000") as stage:
        assert await read_status(ask(stage, max_tokens=100)) == 200
        async with stage.client.get(f"{stage.admin_url}/load") as response:
            load = GatewayLoad.model_validate_json(await response.read())
    assert {use.window: use.used for use in load.tenants["acme"]}["month"] == 10
    assert not load.shares_budgets


async def test_the_operator_is_told_the_tokens_of_the_month_of_tenants_with_and_without_limits() -> None:
    async with open_engine() as engine, open_tenant(engine) as stage:
        for _ in range(2):
            assert await read_status(ask(stage, max_tokens=100)) == 200
        async with stage.client.get(f"{stage.admin_url}/load") as response:
            load = GatewayLoad.model_validate_json(await response.read())
        (first, _) = await stage.read_log(2)
    tokens = load.months["acme"]
    assert tokens.input_tokens + tokens.cached_tokens == 2 * first["prompt_tokens"]
    assert tokens.output_tokens == 2 * first["completion_tokens"] > 0
    assert tokens.month == datetime.now(UTC).strftime("%Y-%m")


EVERY_END = {"caller_gone", "engine_error", "replica_lost", ""}


@pytest.mark.parametrize("is_shared", [False, True])
async def test_whatever_becomes_of_requests_the_account_is_what_their_log_lines_say(
    server: Server, is_shared: bool
) -> None:
    """Answers, streams, refusals of the engine, deaths of it, and callers that leave at any moment."""
    chance = random.Random(7)  # noqa: S311 - the same each time
    behaviours = [answer, die, die_in_stream, end_early, fail_with(400, "no"), fail_with(500, "no"), hang]

    async def behave(engine: Engine, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(chance.random() * 0.02)
        return await chance.choice(behaviours)(engine, request)

    async def ask_once(stage: Stage) -> None:
        fields: dict[str, Any] = {"stream": chance.random() < 0.6}
        if chance.random() < 0.5:
            fields["max_tokens"] = chance.randrange(1, 200)
        with suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(chance.choice([0.005, 0.02, 0.1])):
                await read_status(ask(stage, **fields))

    options = {"budget_store": server.url} if is_shared else {}
    async with open_engine(behave) as engine, open_tenant(engine, perMonth="1M", options=options) as stage:
        # On a busy machine most callers have left before anything comes of their request.
        for turn in range(100):
            await asyncio.gather(*(ask_once(stage) for _ in range(20)))
            if turn >= 9 and {json.loads(line)["code"] for line in stage.log.getvalue().splitlines()} >= EVERY_END:
                break
        await stage.wait_for_load(running=0, queued=0)
        # Some callers left before the gateway had read what they want.
        lines = [json.loads(line) for line in await settle_log(stage)]
        used = sum(line["prompt_tokens"] + line["completion_tokens"] for line in lines if line["tenant"] == "acme")
        async with asyncio.timeout(10):
            while await read_used(stage, "month") != (used, 0):  # noqa: ASYNC110 - beyond HTTP
                await asyncio.sleep(0.05)
    assert {line["code"] for line in lines} >= EVERY_END
    assert used > 0


async def settle_log(stage: Stage) -> list[bytes]:
    """Return the access log once nothing more is added to it."""
    seen: list[bytes] = []
    while (lines := stage.log.getvalue().splitlines()) != seen or not lines:
        seen = lines
        await asyncio.sleep(0.3)
    return seen
