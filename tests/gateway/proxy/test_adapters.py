"""Adapters on the road: whom their requests reach, what engines are told, and who pays."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from llmos_gateway.catalog import Adapter, HoldLimits, Pool
from llmos_gateway.proxy.limits import Limits
from tests.gateway.engines import Engine, answer, fail_with, hang, open_engine
from tests.gateway.proxy.budget_stage import HEADERS, open_tenant, read_used
from tests.gateway.proxy.test_simulator import open_simulator
from tests.gateway.stage import CHAT, POOL, SALT, open_gateway, split_events
from tests.gateway.values import api_key, key_text, pool, tenant

ASK = {**CHAT, "model": "support"}
STREAM = {**ASK, "stream": True}
QUICK = replace(Limits(), retry_pause_s=0.02, max_retry_pause_s=0.02, comment_after_s=0.02, comment_every_s=0.02)
NOT_LOADED = fail_with(404, {"error": {"message": "The model `support` does not exist.", "type": "NotFoundError",
                                       "param": "model", "code": 404}})  # fmt: skip


def attached(*replicas: str, name: str = "support", **fields: Any) -> Pool:
    """The pool with an adapter on these replicas; on this stage a replica bears its address as its name."""
    return replace(pool(POOL), policy="round-robin", adapters=(Adapter(name, "v1", frozenset(replicas), **fields),))


async def read_status(asking: Any) -> int:
    async with asking as response:
        await response.read()
        return int(response.status)


@pytest.mark.parametrize("name", ["support", "team/support", "team/chat/support"])
async def test_a_request_reaches_only_replicas_that_serve_the_adapter_by_the_name_they_know(name: str) -> None:
    async with open_engine() as other, open_engine() as holder, open_gateway(pools=[attached()]) as stage:
        stage.put_endpoints(other.address, holder.address)
        stage.catalog.put_pool(attached(holder.address))
        assert [await read_status(stage.post({**ASK, "model": name})) for _ in range(4)] == [200] * 4
        assert [await read_status(stage.post()) for _ in range(4)] == [200] * 4
    assert [body["model"] for body in other.bodies] == ["qwen"] * 2
    assert [body["model"] for body in holder.bodies] == ["support"] * 4 + ["qwen"] * 2


async def test_no_prompt_is_found_in_a_cache_across_adapters_or_files() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        for adapters in (("a", "v1"), ("b", "v1"), ("a", "v2")):
            stage.catalog.put_pool(replace(pool(POOL), adapters=(Adapter(*adapters, frozenset({engine.address})),)))
            assert await read_status(stage.post({**CHAT, "model": adapters[0]})) == 200
        assert await read_status(stage.post()) == 200
    salts = [body["cache_salt"] for body in engine.bodies]
    assert len(set(salts)) == 4
    assert salts[-1] == SALT


async def test_replicas_are_chosen_by_what_they_have_cached_of_the_adapter_itself() -> None:
    long = "the price of item stays between the parties " * 100
    async with open_engine() as first, open_engine() as second, open_gateway() as stage:
        stage.put_endpoints(first.address, second.address)
        stage.catalog.put_pool(replace(attached(first.address, second.address), policy="prefix"))
        messages = [{"role": "user", "content": long}]
        for model in ("chat", "support"):
            for _ in range(3):
                assert await read_status(stage.post({"model": model, "messages": messages})) == 200
    by_engine = [[body["model"] for body in engine.bodies] for engine in (first, second)]
    assert sorted(by_engine) == [["qwen"] * 3, ["support"] * 3], "each went back to its own cache, and to no other"


async def test_models_are_listed_with_their_parents() -> None:
    async with open_gateway(pools=[attached()]) as stage:
        async with stage.get("/v1/models") as response:
            cards = (await response.json())["data"]
        async with stage.get("/v1/models/team%2Fchat%2Fsupport") as response:
            card = await response.json()
    assert [(c["id"], c["root"], c["parent"]) for c in cards] == [
        ("chat", "qwen", None),
        ("support", "support", "qwen"),
    ]
    assert card == {**cards[1], "id": "team/chat/support"}


async def test_a_caller_with_whom_only_the_adapter_is_shared_sees_nothing_of_its_base() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.put_pool(attached(engine.address))
        stage.catalog.replace_tenants([tenant("red", "team"), tenant("blue", models={"allow": ["team/*"]})])
        stage.catalog.keys.put(api_key(1, tenant="blue"))
        headers = {"Authorization": f"Bearer {key_text(1)}"}
        assert await read_status(stage.post(ASK, headers=headers)) == 404
        stage.catalog.put_sharing("team/support", frozenset({"blue"}))
        assert await read_status(stage.post(ASK, headers=headers)) == 200
        assert await read_status(stage.post(headers=headers)) == 404
        async with stage.get("/v1/models", headers=headers) as response:
            cards = (await response.json())["data"]
    assert [(card["id"], card["parent"]) for card in cards] == [("support", None)]


async def test_a_name_of_several_is_refused_with_those_that_may_be_meant() -> None:
    pools = [attached(), replace(attached(), name="more"), replace(attached(), namespace="other")]
    async with open_gateway(pools=pools) as stage:
        stage.catalog.keys.put(api_key(1, namespaces=("team",)))
        headers = {"Authorization": f"Bearer {key_text(1)}"}
        async with stage.post(ASK, headers=headers) as response:
            assert response.status == 404
            error = await stage.read_error(response)
    assert error["code"] == "model_not_found"
    assert "team/chat/support, team/more/support." in error["message"]
    assert "other" not in error["message"]


async def test_an_adapter_that_bears_a_pools_name_is_called_by_its_longer_one_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pools = [attached(name="code"), pool("team/code", model="starcoder")]
    async with open_engine() as engine, open_gateway(pools=pools) as stage:
        stage.put_endpoints(engine.address)
        for _ in range(2):
            stage.catalog.put_pool(attached(engine.address, name="code"))
            stage.catalog.put_pool(attached(name="code"))
        stage.catalog.put_pool(attached(engine.address, name="code"))
        assert await read_status(stage.post({**CHAT, "model": "team/chat/code"})) == 200
    assert [body["model"] for body in engine.bodies] == ["code"]
    assert caplog.text.count("can only be called team/chat/code") == 1


async def test_a_pool_at_zero_wakes_for_an_adapter_and_answers_once_it_is_loaded() -> None:
    async with open_engine() as engine, open_gateway(limits=QUICK, pools=[attached()]) as stage:
        async with stage.post(STREAM) as response:
            assert await response.content.readuntil(b"\n\n") == b": waiting for a replica (pool wakes up)\n\n"
            await stage.wait_for_load(queued=1, arrivalsTotal=1)
            stage.put_endpoints(engine.address)
            assert await read_status(stage.post()) == 200
            assert len(engine.bodies) == 1, "the replica takes requests for its model meanwhile"
            stage.catalog.put_pool(attached(engine.address))
            events = split_events(await response.read())
        await stage.wait_for_load(finishedTotal=2)
        lines = await stage.read_log(2)
    assert events[-1] == "data: [DONE]"
    assert lines[1]["queue_ms"] > 0


async def test_a_stream_for_an_adapter_that_is_being_loaded_says_so() -> None:
    async with open_engine() as engine, open_gateway(engine.address, limits=QUICK) as stage:
        stage.catalog.put_pool(attached())
        async with stage.post(STREAM) as response:
            line = await response.content.readuntil(b"\n\n")
            assert line == b": waiting for a replica (adapter is being loaded)\n\n"
            stage.catalog.put_pool(attached(engine.address))
            assert split_events(await response.read())[-1] == "data: [DONE]"


async def test_an_adapter_that_cannot_be_loaded_is_refused_with_the_operators_words() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.put_pool(attached(problem="AdapterTooLarge: its rank is 64.", is_hopeless=True))
        async with stage.post(ASK) as response:
            assert response.status == 503
            assert "Retry-After" not in response.headers
            error = await stage.read_error(response)
        assert (error["code"], "its rank is 64." in error["message"]) == ("unavailable", True)
        stage.catalog.put_pool(attached(problem="AdapterLoadFailed: no space."))
        async with stage.post(ASK) as response:
            assert (response.status, int(response.headers["Retry-After"])) == (503, 10)
        stage.catalog.put_pool(pool(POOL))
        async with stage.post(ASK) as response:
            assert response.status == 404
            assert (await stage.read_error(response))["code"] == "model_not_found"
        assert await read_status(stage.post()) == 200
    assert len(engine.bodies) == 1


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_a_replica_that_lost_the_adapter_is_left_for_another_and_keeps_its_good_name(
    body: dict[str, Any],
) -> None:
    async with open_simulator() as lost, open_engine() as holder, open_gateway() as stage:
        stage.put_endpoints(lost, holder.address)
        stage.catalog.put_pool(attached(lost, holder.address))
        for _ in range(6):
            assert await read_status(stage.post(body)) == 200
        assert [await read_status(stage.post({**CHAT, "max_tokens": 2})) for _ in range(6)] == [200] * 6
        lines = await stage.read_log(12)
        metrics = await stage.scrape()
    assert {line["attempts"] for line in lines[:6]} == {1, 2}
    assert sum(line["attempts"] for line in lines[:6]) == 7, "one 404 is remembered for a while"
    assert {line["replica"] for line in lines[6:]} == {lost, holder.address}, "it serves its model as ever"
    of_adapter = 'model="support",pool="team/chat",reason="missing"'
    assert f'llmos_gateway_retries_total{{{of_adapter},tenant=""}} 1.0' in metrics


async def test_when_all_replicas_lost_the_adapter_its_requests_wait_and_one_tries_for_all() -> None:
    async with open_engine(NOT_LOADED) as engine, open_gateway(engine.address, limits=QUICK) as stage:
        stage.catalog.put_pool(attached(engine.address))
        asking = [asyncio.create_task(read_status(stage.post(ASK))) for _ in range(20)]
        await stage.wait_for_load(queued=20)
        before = len(engine.bodies)
        await asyncio.sleep(0.5)
        assert len(engine.bodies) - before < 40, "not all of them ask again and again"
        engine.behave = answer
        assert await asyncio.gather(*asking) == [200] * 20
        await stage.wait_for_load(finishedTotal=20, queued=0)


async def test_an_adapter_that_stays_lost_ends_at_the_deadline() -> None:
    hold = HoldLimits(timeout_s=0.3)
    async with open_engine(NOT_LOADED) as engine, open_gateway(engine.address, limits=QUICK) as stage:
        stage.catalog.put_pool(replace(attached(engine.address), hold=hold))
        async with stage.post(ASK) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert "team/chat/support" in (await stage.read_error(response))["message"]
        assert await read_status(stage.post()) == 404, "for the model itself it is the engine's answer"


async def test_who_waits_for_an_adapter_takes_no_room_from_the_pool() -> None:
    async def run_one(engine: Engine, request: web.Request) -> web.StreamResponse:
        return await (answer if engine.bodies[-1]["model"] == "qwen" else NOT_LOADED)(engine, request)

    async with open_engine(run_one) as engine, open_gateway(engine.address, limits=QUICK) as stage:
        stage.catalog.put_pool(replace(attached(engine.address), max_sequences=1))
        waiting = [asyncio.create_task(read_status(stage.post(ASK))) for _ in range(10)]
        await stage.wait_for_load(arrivalsTotal=10)
        assert [await read_status(stage.post()) for _ in range(5)] == [200] * 5
        engine.behave = answer
        assert await asyncio.gather(*waiting) == [200] * 10


async def test_an_adapter_counts_as_itself_in_log_and_metrics_and_as_its_pool_in_the_load() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        stage.catalog.put_pool(attached(engine.address))
        async with stage.post(ASK) as response:
            assert (await response.json())["usage"]["total_tokens"] == 10
        (line,) = await stage.read_log(1)
        load = await stage.wait_for_load(finishedTotal=1)
        metrics = await stage.scrape()
        stage.catalog.put_pool(pool(POOL))
        after = await stage.scrape()
    assert (line["pool"], line["model"], line["completion_tokens"]) == ("team/chat", "support", 3)
    assert (load["arrivalsTotal"], load["completionTokensTotal"]) == (1, 3)
    assert 'llmos_gateway_completion_tokens_total{model="support",pool="team/chat",tenant=""} 3.0' in metrics
    assert 'model="support"' not in after, "a detached adapter takes its series with it"


async def test_a_tenant_pays_for_an_adapter_as_for_the_pool() -> None:
    async with open_engine() as engine, open_tenant(engine, perDay="1000") as stage:
        stage.catalog.put_pool(attached(engine.address))
        assert await read_status(stage.post({**ASK, "max_tokens": 100}, headers=HEADERS)) == 200
        assert await read_used(stage) == (10, 0)


async def test_a_replica_that_fails_is_replaced_by_one_that_serves_the_adapter() -> None:
    async with (
        open_engine(fail_with(503, "draining")) as bad,
        open_engine() as good,
        open_engine() as other,
        open_gateway() as stage,
    ):
        stage.put_endpoints(bad.address, other.address, good.address)
        stage.catalog.put_pool(attached(bad.address, good.address))
        assert [await read_status(stage.post(ASK)) for _ in range(4)] == [200] * 4
        assert not other.bodies
        stage.catalog.put_pool(attached(bad.address))
        assert await read_status(stage.post(ASK)) == 503, "all that serve it were asked"
    assert not other.bodies


async def test_requests_for_a_name_are_dealt_out_and_both_adapters_are_compared() -> None:
    async with open_engine() as engine, open_gateway(engine.address) as stage:
        here = frozenset({engine.address})
        adapters = (Adapter("support", "v1", here), Adapter("v2", "v2", here, replaces="support", weight=30))
        stage.catalog.put_pool(replace(pool(POOL), adapters=adapters))
        assert [await read_status(stage.post(STREAM)) for _ in range(60)] == [200] * 60
        assert [await read_status(stage.post({**STREAM, "model": "v2"})) for _ in range(3)] == [200] * 3
        asked = Counter(body["model"] for body in engine.bodies)
        load = (await stage.read_load())["canaries"]["v2"]
        log = await stage.read_log(63)
    assert asked["v2"] - 3 in range(6, 34)
    assert load["result"]["requestsTotal"] == asked["v2"] - 3
    assert load["incumbent"]["requestsTotal"] == asked["support"]
    assert sum(load["incumbent"]["ttft"]["counts"]) == asked["support"]
    assert (load["replaces"], load["weight"]) == ("support", 30)
    assert Counter(line["model"] for line in log) == asked


async def test_what_its_callers_gave_up_before_an_answer_is_counted_apart() -> None:
    async with open_engine(hang) as engine, open_gateway(engine.address) as stage:
        adapters = (Adapter("v2", "v2", frozenset({engine.address}), replaces="support", weight=50), Adapter("support"))
        stage.catalog.put_pool(replace(pool(POOL), adapters=adapters))
        for body in (ASK, STREAM):
            asking = asyncio.create_task(read_status(stage.post(body)))
            await stage.wait_for_load(running=1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await stage.wait_for_load(running=0)
        load = (await stage.read_load())["canaries"]["v2"]
    assert load["result"] == {"givenUpTotal": 2}


async def test_only_what_a_replica_failed_counts_against_a_canary() -> None:
    async with (
        open_engine(fail_with(500, {"error": {"message": "no"}})) as engine,
        open_gateway(engine.address) as stage,
    ):
        adapters = (Adapter("v2", "v2", frozenset({engine.address}), replaces="support", weight=50), Adapter("support"))
        stage.catalog.put_pool(replace(pool(POOL), adapters=adapters))
        assert [await read_status(stage.post(ASK)) for _ in range(3)] == [500] * 3
        load = (await stage.read_load())["canaries"]["v2"]
    assert load["result"] == {"requestsTotal": 3, "failedTotal": 3}
