"""Holding under a simulated clock: who waits, for how long, in which order, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_gateway.catalog import ANONYMOUS, Catalog, HoldLimits, Pool
from llmos_gateway.holding import LONGEST_TRY_S, UNKNOWN_RETRY_S, Holding, HoldRefused
from llmos_gateway.load import LoadBook
from tests.gateway.values import endpoint, pool

pytestmark = pytest.mark.looptime

POOL = "team/chat"


class Stage:
    """A catalog with one pool at zero, and requests for it."""

    def __init__(self, *, hold: HoldLimits | None = None, start_s: float = 0.0, max_requests: int = 100) -> None:
        loop = asyncio.get_running_loop()
        self.catalog, self.book = Catalog(), LoadBook(clock=loop.time)
        self.holding = Holding(self.catalog, self.book, clock=loop.time, max_requests=max_requests)
        self.pool = replace(pool(POOL), hold=hold or HoldLimits(), start_s=start_s)
        self.catalog.put_pool(self.pool)
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[Pool]] = []

    async def ask(self, key: str = "key", name: str = "") -> asyncio.Task[Pool]:
        """Start a request and let it run until it waits or ends."""
        self.book.arrived(POOL, 10)
        task = asyncio.create_task(self._hold(key, name))
        self.tasks.append(task)
        await settle()
        return task

    async def ask_adapter(self, name: str = "", *, key: str = "key", **tried: Any) -> asyncio.Task[Pool]:
        """Start a request for the adapter `support`."""
        self.book.arrived(POOL, 10)
        task = asyncio.create_task(self._hold(key, name, adapter="support", **tried))
        self.tasks.append(task)
        await settle()
        return task

    async def ask_again(self, name: str, *, pause_s: float, arrived_s: float | None = None) -> asyncio.Task[Pool]:
        """Let a request wait that could not reach the replica."""
        self.book.arrived(POOL, 10)
        avoided = frozenset({endpoint().address})
        task = asyncio.create_task(self._hold("key", name, avoided=avoided, pause_s=pause_s, arrived_s=arrived_s))
        self.tasks.append(task)
        await settle()
        return task

    async def _hold(self, key: str, name: str, **tried: Any) -> Pool:
        held = await self.holding.wait(POOL, key, 10, **tried)
        self.order.append(name)
        return held

    def wake(self) -> None:
        self.catalog.put_endpoints(POOL, (endpoint(),))

    def sleep(self) -> None:
        self.catalog.put_endpoints(POOL, ())

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Queued, rejected and failed requests."""
        load = self.book.build("gw", "boot").pools[POOL]
        return load.queued, load.rejected_total, load.failed_total


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def refusal(wait: Coroutine[Any, Any, Pool] | asyncio.Task[Pool]) -> HoldRefused:
    with pytest.raises(HoldRefused) as caught:
        await wait
    return caught.value


async def test_a_pool_with_a_replica_holds_nobody() -> None:
    stage = Stage()
    stage.wake()
    assert (await (await stage.ask())).endpoints == (endpoint(),)
    assert stage.book.sequence == 0


async def test_all_held_requests_go_in_order_when_a_replica_appears() -> None:
    stage = Stage()
    for name in "abcde":
        await stage.ask(name=name)
    assert stage.numbers == (5, 0, 0)
    stage.wake()
    await asyncio.gather(*stage.tasks)
    assert stage.order == list("abcde")
    assert stage.numbers == (0, 0, 0)


async def test_the_first_held_request_and_only_it_tells_the_autoscaler() -> None:
    stage = Stage()
    reader = asyncio.create_task(stage.book.wait_beyond(0, 30))
    await stage.ask()
    await asyncio.wait_for(reader, 0.1)
    await stage.ask()
    assert stage.book.sequence == 1


async def test_a_replica_that_came_and_went_at_once_keeps_everybodys_place() -> None:
    stage = Stage()
    await stage.ask(name="a")
    stage.wake()
    stage.sleep()
    await stage.ask(name="b")
    assert stage.numbers == (2, 0, 0)
    stage.wake()
    await asyncio.gather(*stage.tasks)
    assert stage.order == ["a", "b"]


async def test_a_request_waits_until_its_deadline_and_no_longer() -> None:
    stage = Stage(hold=HoldLimits(timeout_s=60))
    refused = await refusal(await stage.ask())
    assert asyncio.get_running_loop().time() == pytest.approx(60)
    assert (refused.status, refused.reason) == (503, "timed_out")
    assert "within 60 s" in refused.message
    assert stage.numbers == (0, 1, 0)


async def test_waiting_again_does_not_begin_the_deadline_anew() -> None:
    stage = Stage(hold=HoldLimits(timeout_s=60))
    await asyncio.sleep(50)
    stage.book.arrived(POOL, 10)
    await refusal(stage.holding.wait(POOL, "key", 10, arrived_s=0))
    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_a_pool_that_holds_for_no_time_refuses_at_once() -> None:
    stage = Stage(hold=HoldLimits(timeout_s=0))
    assert (await refusal(await stage.ask())).status == 503
    assert asyncio.get_running_loop().time() == 0


async def test_a_full_queue_refuses_and_frees_a_slot_with_each_that_goes() -> None:
    stage = Stage(hold=HoldLimits(max_requests=2))
    first = await stage.ask()
    await stage.ask()
    refused = await refusal(await stage.ask())
    assert (refused.status, refused.reason) == (429, "queue_full")
    assert "spec.hold.maxRequests" in refused.message
    first.cancel()
    await settle()
    assert not (await stage.ask()).done()
    assert stage.numbers == (2, 1, 1)


async def test_one_key_cannot_take_the_whole_queue() -> None:
    stage = Stage(hold=HoldLimits(max_requests=10, max_requests_per_key=1))
    await stage.ask("greedy")
    refused = await refusal(await stage.ask("greedy"))
    assert "spec.hold.maxRequestsPerKey" in refused.message
    assert not (await stage.ask("modest")).done()


async def test_without_keys_nobody_is_counted_as_one_key() -> None:
    stage = Stage(hold=HoldLimits(max_requests_per_key=1))
    await stage.ask(ANONYMOUS.identity)
    assert not (await stage.ask(ANONYMOUS.identity)).done()


async def test_the_gateway_as_a_whole_holds_a_bounded_number() -> None:
    stage = Stage(max_requests=1)
    stage.catalog.put_pool(pool("team/other"))
    await stage.ask()
    stage.book.arrived("team/other", 1)
    refused = await refusal(stage.holding.wait("team/other", "key", 1))
    assert refused.status == 429
    assert "This gateway holds 1" in refused.message


async def test_a_pool_without_hope_refuses_at_once_and_says_why() -> None:
    stage = Stage()
    stage.catalog.put_pool(replace(stage.pool, is_hopeless=True, problem="Too big. Use a smaller model."))
    refused = await refusal(await stage.ask())
    assert (refused.status, refused.reason, refused.retry_after_s) == (503, "unavailable", None)
    assert refused.message.endswith("Too big. Use a smaller model.")
    assert stage.numbers == (0, 0, 1)


async def test_a_pool_that_loses_hope_fails_all_that_wait_at_once() -> None:
    stage = Stage()
    tasks = [await stage.ask() for _ in range(3)]
    stage.catalog.put_pool(replace(stage.pool, is_hopeless=True, problem="Too big."))
    for task in tasks:
        assert "Too big." in (await refusal(task)).message
    assert asyncio.get_running_loop().time() == 0
    assert stage.numbers == (0, 0, 3)


async def test_a_pool_without_hope_for_more_still_serves_by_what_it_has() -> None:
    stage = Stage()
    stage.wake()
    stage.catalog.put_pool(replace(stage.pool, is_hopeless=True, problem="Too big."))
    assert (await (await stage.ask())).endpoints


async def test_a_deleted_pool_fails_all_that_wait_as_unknown() -> None:
    stage = Stage()
    task = await stage.ask()
    stage.catalog.remove_pool(POOL)
    assert ((await refusal(task)).status, stage.numbers) == (404, (0, 0, 1))


async def test_a_problem_that_may_pass_is_told_at_the_deadline() -> None:
    stage = Stage(hold=HoldLimits(timeout_s=5), start_s=100)
    stage.catalog.put_pool(replace(stage.pool, problem="No node has a free GPU."))
    refused = await refusal(await stage.ask())
    assert "No node has a free GPU." in refused.message
    assert refused.retry_after_s == UNKNOWN_RETRY_S


@pytest.mark.parametrize(
    ("start_s", "waited_s", "retry_after_s"), [(100, 30, 70), (100, 99.5, 1), (100, 500, 1), (0, 5, UNKNOWN_RETRY_S)]
)
async def test_retry_after_is_what_is_left_of_the_start(start_s: float, waited_s: float, retry_after_s: int) -> None:
    stage = Stage(hold=HoldLimits(max_requests=1), start_s=start_s)
    await stage.ask()
    await asyncio.sleep(waited_s)
    assert (await refusal(await stage.ask())).retry_after_s == retry_after_s


async def test_a_caller_that_goes_away_is_counted_once_and_leaves_nothing() -> None:
    stage = Stage()
    task = await stage.ask()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (stage.numbers, stage.book.open(POOL)) == ((0, 0, 1), 0)


async def test_a_caller_that_goes_away_in_the_moment_of_release_is_counted_once() -> None:
    stage = Stage()
    task = await stage.ask()
    stage.wake()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (stage.numbers, stage.book.open(POOL)) == ((0, 0, 1), 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abc")),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("pass"), st.floats(0, 15)),
        st.tuples(st.sampled_from(["wake", "sleep", "delete", "despair", "hope"]), st.none()),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(STEPS)
def test_whatever_happens_limits_hold_and_every_request_ends_once(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, Any]]) -> None:
    now = [0.0]
    stage = Stage(hold=HoldLimits(timeout_s=20, max_requests=5, max_requests_per_key=3))
    stage.book = LoadBook(clock=lambda: now[0])
    stage.holding = Holding(stage.catalog, stage.book, clock=lambda: now[0])
    keys: dict[asyncio.Task[Pool], str] = {}
    for step, value in steps:
        if step == "ask":
            keys[await stage.ask(value)] = value
        elif step == "cancel" and stage.tasks:
            stage.tasks[value % len(stage.tasks)].cancel()
        elif step == "pass":
            now[0] += value
            stage.catalog.put_pool(replace(stage.pool, start_s=now[0]))  # A change makes the waiting look at the clock.
        elif step in {"wake", "sleep"}:
            getattr(stage, step)()
        elif step == "delete":
            stage.catalog.remove_pool(POOL)
        elif step in {"despair", "hope"}:
            stage.catalog.put_pool(replace(stage.pool, is_hopeless=step == "despair"))
        await settle()
        waiting = [keys[task] for task in stage.tasks if not task.done()]
        assert len(waiting) <= 5
        assert all(waiting.count(key) <= 3 for key in "abc")
    for task in stage.tasks:
        task.cancel()
    results = await asyncio.gather(*stage.tasks, return_exceptions=True)
    if not results:
        return
    served = sum(isinstance(result, Pool) for result in results)
    load = stage.book.build("gw", "boot").pools[POOL]
    assert load.arrivals_total == len(results)
    assert load.queued == load.queued_prompt_tokens == 0
    assert load.arrivals_total == served + load.failed_total + load.rejected_total


async def test_replicas_that_could_not_be_reached_are_tried_by_one_for_all() -> None:
    stage = Stage()
    stage.wake()
    waits = [await stage.ask_again(f"{number}", pause_s=1.0) for number in range(3)]
    await asyncio.sleep(0.9)
    assert stage.order == []
    await asyncio.sleep(0.2)
    assert stage.order == ["0"], "its pause is over, and the others wait for what it finds out"
    await asyncio.sleep(LONGEST_TRY_S / 2)
    assert stage.order == ["0"]
    stage.holding.reached(POOL)
    await asyncio.gather(*waits)
    assert stage.order == ["0", "1", "2"]
    assert stage.numbers == (0, 0, 0)


async def test_who_tried_in_vain_is_first_again_and_if_it_never_comes_back_the_next_tries() -> None:
    stage = Stage(hold=HoldLimits(max_requests=2))
    stage.wake()
    arrived_s = asyncio.get_running_loop().time()
    await stage.ask_again("a", pause_s=0.5)
    await asyncio.sleep(0.1)
    await stage.ask_again("b", pause_s=0.5)
    await asyncio.sleep(0.5)
    assert stage.order == ["a"]
    await stage.ask_again("a", pause_s=0.5, arrived_s=arrived_s)
    await asyncio.sleep(0.6)
    assert stage.order == ["a", "a"]
    await asyncio.sleep(LONGEST_TRY_S)
    assert stage.order == ["a", "a", "b"]


async def test_who_could_not_reach_a_replica_goes_when_another_one_comes() -> None:
    stage = Stage()
    stage.wake()
    waits = [await stage.ask_again(f"{number}", pause_s=60) for number in range(3)]
    stage.catalog.put_endpoints(POOL, (endpoint(), endpoint(2)))
    await asyncio.gather(*waits)
    assert stage.order == ["0", "1", "2"]


async def test_a_replica_that_was_away_and_is_listed_again_is_tried_at_once() -> None:
    stage = Stage()
    stage.wake()
    wait = await stage.ask_again("a", pause_s=60)
    stage.sleep()
    await settle()
    stage.wake()
    await asyncio.wait_for(wait, 1)


async def test_who_could_not_reach_a_replica_keeps_its_place_in_a_full_queue_until_its_deadline() -> None:
    stage = Stage(hold=HoldLimits(max_requests=1, timeout_s=10))
    stage.wake()
    waits = [await stage.ask_again(f"{number}", pause_s=60) for number in range(3)]
    assert stage.numbers == (3, 0, 0)
    for wait in waits:
        refused = await refusal(wait)
        assert (refused.status, refused.reason) == (503, "replica_unreachable")
        assert refused.retry_after_s
    assert asyncio.get_running_loop().time() == pytest.approx(10)
    assert stage.numbers == (0, 3, 0)
