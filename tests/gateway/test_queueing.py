"""Waiting for a turn under a simulated clock: who goes, who gives up, and what the load book says meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from llmos.api.load import EngineLoad
from llmos_gateway.catalog import Catalog, HoldLimits
from llmos_gateway.holding import HoldRefused
from llmos_gateway.keys import ApiKey
from llmos_gateway.load import LoadBook
from llmos_gateway.protocol.usage import Usage
from llmos_gateway.queueing import Place, Queueing
from tests.gateway.values import api_key, endpoint, pool

pytestmark = pytest.mark.looptime

POOL = "team/chat"
FIRST, SECOND = api_key(1), api_key(2)
SENT = 6
"""Requests of one caller that go at once to the pool below."""


class Stage:
    """A pool with one replica that runs one sequence at a time, and requests for it."""

    def __init__(self, hold: HoldLimits | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.catalog, self.book = Catalog(), LoadBook(clock=loop.time)
        self.queueing = Queueing(self.catalog, self.book, clock=loop.time)
        self.catalog.put_pool(replace(pool(POOL), hold=hold or HoldLimits(), max_sequences=1))
        self.catalog.put_endpoints(POOL, (endpoint(),))

    def enter(self, key: ApiKey = FIRST) -> Place:
        self.book.arrived(POOL, 10)
        found = self.catalog.get_pool(POOL)
        assert found is not None
        return self.queueing.enter(found, key, prompt_tokens=10, is_whole=False)

    async def wait(self, key: ApiKey = FIRST) -> asyncio.Task[bool]:
        """Enter a full pool, and wait there."""
        place = self.enter(key)
        assert not place.may_go
        task = asyncio.create_task(place.wait(10, arrived_s=asyncio.get_running_loop().time()))
        await asyncio.sleep(0)
        return task

    def fill(self) -> list[Place]:
        places = [self.enter() for _ in range(SENT)]
        assert all(place.may_go for place in places)
        return places

    @property
    def queued(self) -> int:
        return self.book.build("gw", "boot").pools[POOL].queued


async def refusal(task: asyncio.Task[bool]) -> HoldRefused:
    with pytest.raises(HoldRefused) as caught:
        await task
    return caught.value


async def test_a_pool_with_room_lets_requests_pass_at_once() -> None:
    stage = Stage()
    stage.fill()
    assert stage.queued == 0


async def test_a_request_for_a_full_pool_goes_when_another_one_ends() -> None:
    stage = Stage()
    places = stage.fill()
    task = await stage.wait()
    assert stage.queued == 1
    places[0].leave(Usage(10, 5), was_served=True)
    assert await task
    assert stage.queued == 0


async def test_the_backlog_is_told_as_queued_and_wakes_nobody() -> None:
    stage = Stage()
    stage.fill()
    tasks = [await stage.wait() for _ in range(3)]
    load = stage.book.build("gw", "boot")
    assert (load.pools[POOL].queued, load.pools[POOL].queued_prompt_tokens, load.sequence) == (3, 30, 0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert stage.queued == 0


async def test_keys_take_turns_however_much_one_of_them_piled_up() -> None:
    stage = Stage()
    places = stage.fill()
    many = [await stage.wait(FIRST) for _ in range(10)]
    few = await stage.wait(SECOND)
    places[0].leave(None, was_served=True)
    places[1].leave(None, was_served=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert few.done()
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)


async def test_a_request_gives_up_at_its_deadline() -> None:
    stage = Stage(HoldLimits(timeout_s=30))
    stage.fill()
    refused = await refusal(await stage.wait())
    assert asyncio.get_running_loop().time() == pytest.approx(30)
    assert (refused.status, refused.reason) == (503, "timed_out")
    assert refused.retry_after_s
    assert stage.queued == 0
    assert stage.book.build("gw", "boot").pools[POOL].rejected_total == 1


async def test_beyond_its_limits_a_queue_refuses_and_says_when_to_come_back() -> None:
    stage = Stage(HoldLimits(max_requests=5, max_requests_per_key=1))
    stage.fill()
    task = await stage.wait()
    with pytest.raises(HoldRefused, match="maxRequestsPerKey") as full:
        stage.enter()
    assert (full.value.status, full.value.retry_after_s) == (429, 10)
    other = await stage.wait(SECOND)
    for waiting in (task, other):
        waiting.cancel()
    await asyncio.gather(task, other, return_exceptions=True)


async def test_the_newest_request_of_the_longest_line_makes_room_for_others() -> None:
    stage = Stage(HoldLimits(max_requests=2))
    stage.fill()
    oldest, newest = await stage.wait(), await stage.wait()
    other = await stage.wait(SECOND)
    refused = await refusal(newest)
    assert (refused.status, refused.reason) == (429, "queue_full")
    assert not oldest.done()
    for task in (oldest, other):
        task.cancel()
    await asyncio.gather(oldest, other, return_exceptions=True)


async def test_a_caller_that_leaves_as_its_turn_comes_passes_it_on() -> None:
    stage = Stage()
    places = stage.fill()
    leaving, next_one = await stage.wait(), await stage.wait()
    places[0].leave(None, was_served=True)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert await next_one


@pytest.mark.parametrize("gives_up", [True, False])
async def test_who_leaves_the_queue_lets_those_go_for_whom_it_was_in_the_way(gives_up: bool) -> None:
    stage = Stage(HoldLimits(timeout_s=30))
    stage.enter(SECOND).leave(Usage(1000, 1), was_served=True)
    for _ in range(SENT - 1):
        assert stage.enter(FIRST).may_go
    first = await stage.wait(FIRST)
    await asyncio.sleep(20)
    second = await stage.wait(SECOND)
    assert not second.done(), "the reserve is not for the first in the queue, and nobody jumps ahead"
    if gives_up:
        await refusal(first)
    else:
        first.cancel()
    assert await second
    assert asyncio.get_running_loop().time() == pytest.approx(30 if gives_up else 20)


async def test_a_pool_without_replicas_sends_those_that_wait_back() -> None:
    stage = Stage()
    stage.fill()
    task = await stage.wait()
    stage.catalog.put_endpoints(POOL, ())
    assert await task is False
    assert stage.queued == 0


async def test_a_pool_that_is_deleted_is_gone_for_those_that_wait() -> None:
    stage = Stage()
    stage.fill()
    task = await stage.wait()
    stage.catalog.remove_pool(POOL)
    assert (await refusal(task)).status == 404


async def test_a_report_of_room_lets_more_go() -> None:
    stage = Stage()
    stage.fill()
    task = await stage.wait()
    assert stage.queueing.find_awaited() == [POOL]
    found = stage.catalog.get_pool(POOL)
    assert found is not None
    stage.catalog.put_pool(replace(found, max_sequences=64))
    stage.queueing.tell(endpoint().address, EngineLoad(running=SENT, waiting=0))
    assert await task


async def test_a_second_replica_lets_more_go() -> None:
    stage = Stage()
    stage.fill()
    task = await stage.wait()
    stage.catalog.put_endpoints(POOL, (endpoint(1), endpoint(2)))
    assert await task


async def test_a_stream_that_begins_again_elsewhere_is_counted_at_one_replica() -> None:
    stage = Stage()
    here, there = endpoint().address, "there:8000"
    stage.catalog.put_pool(replace(pool(POOL), max_sequences=0))
    stage.catalog.put_endpoints(POOL, (endpoint(), replace(endpoint(), address=there)))
    stage.enter().leave(None, was_served=False)
    before = stage.queueing.read_windows()[POOL]
    for _ in range(100):
        place = stage.enter()
        for address in (here, there):
            place.send(address)
            place.begin(address)
        place.leave(None, was_served=True)
    stage.queueing.tell(here, EngineLoad(running=1, waiting=0))
    assert stage.queueing.read_windows()[POOL] <= before
