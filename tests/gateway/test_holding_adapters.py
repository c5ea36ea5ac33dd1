"""Requests for an adapter that no replica serves yet: held with those for its pool, and for other replicas."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from llmos_gateway.catalog import Adapter, HoldLimits, Pool
from llmos_gateway.holding import UNKNOWN_RETRY_S, HoldRefused
from tests.gateway.test_holding import POOL, Stage, settle
from tests.gateway.values import adapter, endpoint

pytestmark = pytest.mark.looptime


def attach(stage: Stage, *adapters: Adapter) -> None:
    stage.pool = replace(stage.pool, adapters=adapters)
    stage.catalog.put_pool(stage.pool)


async def read_refusal(task: asyncio.Task[Pool]) -> HoldRefused:
    with pytest.raises(HoldRefused) as caught:
        await task
    return caught.value


async def test_a_pool_at_zero_is_woken_for_an_adapter_and_its_request_goes_when_a_replica_has_it() -> None:
    stage = Stage()
    attach(stage, adapter())
    task = await stage.ask_adapter()
    load = stage.book.build("", "").pools[POOL]
    assert (load.queued, stage.book.sequence) == (1, 1)
    stage.wake()
    await settle()
    assert not task.done(), "the replica has not loaded it yet"
    attach(stage, adapter("support", 1))
    held = await task
    assert (held.model, held.endpoints) == ("support", (endpoint(1),))


async def test_an_adapter_that_is_being_loaded_is_waited_for_and_then_the_caller_is_told_when_to_come_back() -> None:
    stage = Stage(hold=HoldLimits(timeout_s=5), start_s=60)
    attach(stage, adapter())
    stage.wake()
    refusal = await read_refusal(await stage.ask_adapter())
    assert (refusal.reason, refusal.retry_after_s) == ("timed_out", UNKNOWN_RETRY_S)
    assert "team/chat/support" in refusal.message
    assert stage.book.build("", "").pools[POOL].rejected_total == 1


@pytest.mark.parametrize("is_hopeless", [True, False])
async def test_an_adapter_that_replicas_cannot_load_is_refused_at_once_with_the_reason(*, is_hopeless: bool) -> None:
    stage = Stage()
    attach(stage, adapter())
    stage.wake()
    waiting = await stage.ask_adapter()
    attach(stage, adapter(problem="AdapterTooLarge: rank 64.", is_hopeless=is_hopeless))
    for task in (waiting, await stage.ask_adapter()):
        refusal = await read_refusal(task)
        assert (refusal.reason, refusal.status) == ("unavailable", 503)
        assert "AdapterTooLarge: rank 64." in refusal.message
        assert refusal.retry_after_s == (None if is_hopeless else UNKNOWN_RETRY_S)
    assert stage.book.open(POOL) == 0


async def test_what_is_detached_while_requests_wait_is_gone_for_them_and_for_no_others() -> None:
    stage = Stage()
    attach(stage, adapter())
    task, base = await stage.ask_adapter(), await stage.ask()
    attach(stage)
    refusal = await read_refusal(task)
    assert (refusal.reason, refusal.status) == ("not_found", 404)
    assert "support" in refusal.message
    assert not base.done()
    stage.wake()
    await base


async def test_requests_for_adapters_and_model_share_the_room_of_the_pool() -> None:
    stage = Stage(hold=HoldLimits(max_requests=3, max_requests_per_key=2))
    attach(stage, adapter())
    waiting = [await stage.ask("a"), await stage.ask_adapter(key="a")]
    assert (await read_refusal(await stage.ask_adapter(key="a"))).reason == "queue_full"
    waiting.append(await stage.ask_adapter(key="b"))
    assert (await read_refusal(await stage.ask("c"))).reason == "queue_full"
    attach(stage, adapter("support", 1))
    stage.wake()
    await asyncio.gather(*waiting)
    assert stage.book.open(POOL) == 3


async def test_an_adapter_that_nobody_serves_keeps_no_other_request_from_trying_a_replica() -> None:
    stage = Stage()
    attach(stage, adapter("support", 2))
    stage.wake()
    stuck = await stage.ask_adapter()
    tried = await stage.ask_again("base", pause_s=1)
    await asyncio.sleep(1.1)
    assert tried.done(), "it was the first of those that wait for any replica"
    assert not stuck.done()
    stage.catalog.put_endpoints(POOL, (endpoint(1), endpoint(2)))
    await stuck


async def test_what_one_finds_out_by_trying_holds_for_the_same_replicas_only() -> None:
    stage = Stage()
    attach(stage, adapter("support", 1))
    stage.wake()
    avoided = frozenset({endpoint(1).address})
    base = await stage.ask_again("base", pause_s=50)
    first, second = [await stage.ask_adapter(avoided=avoided, pause_s=pause_s) for pause_s in (1, 50)]
    await asyncio.sleep(1.1)
    assert (first.done(), second.done(), base.done()) == (True, False, False)
    stage.holding.reached(POOL, "support")
    await settle()
    assert (second.done(), base.done()) == (True, False)
    stage.holding.reached(POOL)
    await base
