"""A replica fails: who is asked next, how often, and when the caller is told."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.catalog import HoldLimits, Pool
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.proxy.retries import Retries
from llmos_gateway.proxy.upstream import DeclinedError, LostError, ReplicaError, UnreachableError
from tests.gateway.engines import (
    ANSWER,
    Behaviour,
    Engine,
    answer,
    die,
    die_after_head,
    die_in_body,
    fail_with,
    hang,
    open_engine,
)
from tests.gateway.raw import find_closed_port
from tests.gateway.stage import CHAT, POOL, Stage, open_gateway, split_events, wait_until
from tests.gateway.values import pool

STREAM = {**CHAT, "stream": True}
IN_TURN: list[Pool] = [replace(pool(POOL), policy="round-robin")]
QUICK = replace(Limits(), retry_pause_s=0.001, max_retry_pause_s=0.002)


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("failure", [die, die_after_head, die_in_body, fail_with(503, "draining"), fail_with(502, "")])
async def test_a_request_that_the_caller_saw_nothing_of_goes_to_another_replica(
    failure: Behaviour, body: dict[str, object]
) -> None:
    async with open_engine(failure) as bad, open_engine() as good, open_gateway(pools=IN_TURN) as stage:
        stage.put_endpoints(bad.address, good.address)
        async with stage.post(body) as response:
            assert response.status == 200
            await response.read()
        (line,) = await stage.read_log(1)
        metrics = await stage.scrape()
        load = await stage.read_load()
    assert len(bad.bodies) == 1
    assert len(good.bodies) == 1
    assert line["attempts"] == 2
    assert 'llmos_gateway_retries_total{model="qwen",pool="team/chat",reason="' in metrics
    assert load["finishedTotal"] == 1
    assert "failedTotal" not in load


async def test_a_replica_that_cannot_be_reached_costs_nothing() -> None:
    async with open_engine() as good, open_gateway(pools=IN_TURN) as stage:
        stage.put_endpoints(f"127.0.0.1:{find_closed_port()}", good.address)
        for _ in range(5):
            async with stage.post() as response:
                assert await response.json() == ANSWER
    assert len(good.bodies) == 5


async def test_the_only_replica_is_tried_again_until_it_is_back() -> None:
    port = find_closed_port()
    limits = replace(Limits(), retry_pause_s=0.05)
    async with open_gateway(f"127.0.0.1:{port}", limits=limits) as stage:
        asking = asyncio.create_task(_read_status(stage.post()))
        await stage.wait_for_load(arrivalsTotal=1)
        async with open_engine(port=port) as engine:
            assert await asking == 200
    assert len(engine.bodies) == 1


async def test_requests_for_a_dead_replica_that_is_still_listed_are_held_until_it_is_replaced() -> None:
    limits = replace(QUICK, max_attempts=3)
    async with open_gateway(f"127.0.0.1:{find_closed_port()}", limits=limits) as stage:
        asking = [asyncio.create_task(_read_status(stage.post())) for _ in range(5)]
        await _wait_for_tries(stage, 3 * limits.max_attempts)
        load = await stage.wait_for_load(arrivalsTotal=5)
        assert "failedTotal" not in load
        async with open_engine() as engine:
            stage.put_endpoints(engine.address)
            assert await asyncio.gather(*asking) == [200] * 5
        await stage.wait_for_load(finishedTotal=5, queued=0)


async def test_a_stream_for_a_dead_replica_is_kept_alive_until_it_is_replaced() -> None:
    limits = replace(QUICK, comment_after_s=0.02, comment_every_s=0.02, retry_pause_s=0.2, max_retry_pause_s=0.2)
    async with open_gateway(f"127.0.0.1:{find_closed_port()}", limits=limits) as stage, stage.post(STREAM) as response:
        line = await response.content.readuntil(b"\n\n")
        assert line == b": waiting for a replica (none can be reached)\n\n"
        async with open_engine() as engine:
            stage.put_endpoints(engine.address)
            assert split_events(await response.read())[-1] == "data: [DONE]"


async def test_who_is_first_tries_for_all_and_all_go_when_it_has_a_connection() -> None:
    port = find_closed_port()
    limits = replace(Limits(), retry_pause_s=0.05, max_retry_pause_s=0.05)
    async with open_gateway(f"127.0.0.1:{port}", limits=limits) as stage:
        asking = [asyncio.create_task(_read_status(stage.post())) for _ in range(8)]
        await _wait_for_tries(stage, 2 * len(asking))
        async with open_engine(hang, port=port) as engine:
            await stage.wait_for_load(running=len(asking))
            engine.went_on.set()
            assert await asyncio.gather(*asking) == [200] * len(asking)
    assert len(engine.bodies) == len(asking)


async def test_when_no_replica_is_reached_within_the_holding_time_the_caller_is_told_when_to_come_back() -> None:
    hold = HoldLimits(timeout_s=0.3)
    async with open_gateway(f"127.0.0.1:{find_closed_port()}", limits=QUICK, hold=hold) as stage:
        async with stage.post() as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            error = await stage.read_error(response)
        assert error["code"] == "replica_unreachable"
        assert "127.0.0.1" not in error["message"]
        load = await stage.wait_for_load(rejectedTotal=1)
        (line,) = await stage.read_log(1)
    assert line["attempts"] > 1
    assert load["arrivalsTotal"] == 1


async def test_a_request_that_kills_engines_kills_three_at_most() -> None:
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_gateway(pools=IN_TURN, limits=QUICK))
        engines = [await stack.enter_async_context(open_engine(die)) for _ in range(5)]
        stage.put_endpoints(*(engine.address for engine in engines))
        async with stage.post() as response:
            assert response.status == 502
            assert (await stage.read_error(response))["code"] == "replica_lost"
    assert sum(len(engine.bodies) for engine in engines) == 3


async def test_if_all_decline_the_caller_gets_the_engines_own_words() -> None:
    error = {"message": "The engine is busy.", "type": "ServiceUnavailableError", "param": None, "code": 503}
    busy = fail_with(503, {"error": error}, **{"Retry-After": "7"})
    async with open_engine(busy) as first, open_engine(busy) as second, open_gateway(pools=IN_TURN) as stage:
        stage.put_endpoints(first.address, second.address)
        async with stage.post() as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "7"
            assert await stage.read_error(response) == error
    assert len(first.bodies) == len(second.bodies) == 1


async def test_an_engine_that_failed_over_the_request_itself_is_not_asked_again() -> None:
    broken = fail_with(500, {"error": {"message": "bad luck"}})
    async with open_engine(broken) as first, open_engine(answer) as second, open_gateway(pools=IN_TURN) as stage:
        stage.put_endpoints(first.address, second.address)
        async with stage.post() as response:
            assert response.status == 500
    assert not second.bodies


async def test_a_replica_that_keeps_failing_is_left_alone() -> None:
    async with open_engine(die) as bad, open_engine() as good, open_gateway(pools=IN_TURN) as stage:
        stage.put_endpoints(bad.address, good.address)
        for _ in range(20):
            async with stage.post() as response:
                assert response.status == 200
                await response.read()
    assert len(bad.bodies) < 6


async def test_a_request_that_fails_everywhere_takes_no_replica_away_from_the_others() -> None:
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(open_gateway(pools=IN_TURN))
        engines = [await stack.enter_async_context(open_engine(fail_over_poison)) for _ in range(2)]
        stage.put_endpoints(*(engine.address for engine in engines))
        for _ in range(6):
            async with stage.post(POISON) as response:
                assert response.status == 500
        for _ in range(4):
            async with stage.post() as response:
                assert await response.json() == ANSWER
    assert [len(engine.bodies) for engine in engines] == [5, 5]


async def test_a_replica_that_answers_nothing_but_errors_is_left_alone() -> None:
    async with open_engine(fail_with(500, "")) as bad, open_engine() as good, open_gateway(pools=IN_TURN) as stage:
        stage.put_endpoints(bad.address, good.address)
        for number in range(20):
            async with stage.post({**CHAT, "messages": [{"role": "user", "content": f"{number}"}]}) as response:
                await response.read()
    assert len(bad.bodies) < 6


POISON = {**CHAT, "messages": [{"role": "user", "content": "poison"}]}


async def fail_over_poison(engine: Engine, request: web.Request) -> web.StreamResponse:
    """Answer as a healthy engine that one request does not agree with."""
    if engine.bodies[-1]["messages"] == POISON["messages"]:
        return web.json_response({"error": {"message": "division by zero"}}, status=500)
    return await answer(engine, request)


ERRORS: dict[str, ReplicaError] = {
    "unreachable": UnreachableError(),
    "lost": LostError(),
    "declined": DeclinedError(503, b"", None),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(ERRORS)), st.integers(0, 4)), min_size=20, max_size=20))
def test_tries_that_cost_engines_something_end_whatever_fails(failures: list[tuple[str, int]]) -> None:
    limits = Limits()
    retries = Retries(limits)
    present = [str(number) for number in range(5)]
    tries = losses = 0
    for kind, number in failures:
        tries += kind != "unreachable"
        losses += kind == "lost"
        if not retries.may_go_on(str(number), ERRORS[kind], present):
            break
        assert 0 <= retries.pause_s <= limits.max_retry_pause_s
        assert set(present) - retries.tried, "there is always somebody to ask next"
        assert bool(retries.avoided) == (retries.pause_s > 0)
    assert tries <= limits.max_attempts
    assert losses <= limits.max_losses + 1


def test_the_pause_grows_to_its_longest_and_stays_there() -> None:
    limits = Limits()
    retries = Retries(limits)
    for _ in range(3000):
        assert retries.may_go_on("a", ERRORS["unreachable"], ["a"])
    assert limits.max_retry_pause_s / 2 <= retries.pause_s <= limits.max_retry_pause_s


async def _wait_for_tries(stage: Stage, number: int) -> None:
    async def has_tried() -> bool:
        line = 'llmos_gateway_upstream_errors_total{kind="unreachable",model="qwen",pool="team/chat",tenant=""} '
        found = [text for text in (await stage.scrape()).splitlines() if text.startswith(line)]
        return bool(found) and float(found[0].removeprefix(line)) >= number

    await wait_until(has_tried)


async def _read_status(asking: object) -> int:
    async with asking as response:  # type: ignore[attr-defined]  # aiohttp's request, typed where it is made
        await response.read()
        return int(response.status)
