"""The queue under a simulated clock: what collapses, what waits, what is never lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import looptime
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos_operator.runtime.workqueue import Backoff, WorkQueue

pytestmark = pytest.mark.looptime

BACKOFF = Backoff(base_s=0.1, cap_s=60.0, jitter=0.0)


class Recorder:
    """A process function that takes `seconds` and remembers when each key began."""

    def __init__(self, seconds: float = 1.0, result: Callable[[str], float | None] = lambda _key: None) -> None:
        self.seconds = seconds
        self.result = result
        self.began: list[tuple[str, float]] = []
        self.ended: list[str] = []

    async def __call__(self, key: str) -> float | None:
        self.began.append((key, asyncio.get_running_loop().time()))
        await asyncio.sleep(self.seconds)
        self.ended.append(key)
        return self.result(key)

    def times(self, key: str = "a") -> list[float]:
        return [round(time, 3) for name, time in self.began if name == key]


def raising(error: Exception) -> Callable[[str], float | None]:
    def result(_key: str) -> float | None:
        raise error

    return result


async def test_a_key_that_waits_already_collapses() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=1)
    for key in ("a", "b", "b", "b"):
        queue.add(key)
    await asyncio.sleep(10)
    assert record.began == [("a", 0), ("b", 1)]


async def test_an_add_during_processing_runs_the_key_once_more_afterwards() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=4)
    queue.add("a")
    await asyncio.sleep(0.5)
    queue.add("a")
    queue.add("a")
    await asyncio.sleep(10)
    assert record.times() == [0, 1]


@pytest.mark.parametrize(("run_s", "began_s"), [(0.02, [0.0, 0.12, 0.24]), (0.1, [0.0, 0.4, 0.8]), (3.0, [0.0, 4.0])])
async def test_a_key_that_changes_all_the_time_rests_three_times_as_long_as_it_ran_within_limits(
    run_s: float, began_s: list[float]
) -> None:
    record = Recorder(run_s)
    queue = WorkQueue(record, workers=1, rest_s=0.1)
    while asyncio.get_running_loop().time() < began_s[-1]:
        queue.add("a")
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert record.times()[: len(began_s)] == began_s


@pytest.mark.parametrize(("asked_s", "began_s"), [(0.05, [0.0, 0.12]), (0.3, [0.0, 0.32]), (60.0, [0.0, 1.02])])
async def test_a_key_rests_as_long_as_it_asks_for_within_limits(asked_s: float, began_s: list[float]) -> None:
    record = Recorder(0.02)
    queue = WorkQueue(record, workers=1, rest_s=0.1, rest_of={"a": asked_s}.__getitem__)
    queue.add("a")
    await asyncio.sleep(0.01)
    queue.add("a")
    await asyncio.sleep(2)
    assert record.times() == began_s


async def test_others_take_the_worker_of_a_key_that_rests_and_one_that_did_not_change_stays_away() -> None:
    record = Recorder(0.05)
    queue = WorkQueue(record, workers=1, rest_s=0.1)
    queue.add("a")
    await asyncio.sleep(0.06)
    queue.add("b")
    await asyncio.sleep(10)
    queue.add("a")
    await asyncio.sleep(10)
    assert [(key, round(began_s, 2)) for key, began_s in record.began] == [("a", 0), ("b", 0.06), ("a", 10.06)]


async def test_keys_run_side_by_side_up_to_the_number_of_workers() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=2)
    for key in "abc":
        queue.add(key)
    await asyncio.sleep(0.5)
    assert (queue.running, queue.depth) == (2, 1)
    await asyncio.sleep(10)
    assert [time for _, time in record.began] == [0, 0, 1]


async def test_a_result_makes_the_key_due_again() -> None:
    record = Recorder(seconds=1, result=lambda _key: 5.0)
    queue = WorkQueue(record, workers=1)
    queue.add("a")
    await asyncio.sleep(13)
    assert record.times() == [0, 6, 12]
    await queue.drain(5)


async def test_news_goes_before_what_is_merely_looked_at_again() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=1)
    queue.add("busy")
    for key in "abc":
        queue.add_after(key, 0.1)
    await asyncio.sleep(0.5)
    queue.add("new")
    queue.add("c")
    await asyncio.sleep(20)
    assert [key for key, _ in record.began] == ["busy", "new", "c", "a", "b"]


async def test_a_flood_of_news_does_not_stop_the_routine() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=1)
    queue.add_after("routine", 0.1)
    for number in range(30):
        queue.add(f"news-{number}")
    await asyncio.sleep(60)
    assert [key for key, _ in record.began].index("routine") <= 8


async def test_of_two_delays_the_earlier_one_counts() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=1)
    queue.add_after("a", 5)
    queue.add_after("a", 3)
    queue.add_after("a", 8)
    await asyncio.sleep(20)
    assert record.times() == [3]


async def test_a_run_covers_a_delay_that_was_set_before_it() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=1)
    queue.add_after("a", 5)
    queue.add("a")
    await asyncio.sleep(20)
    assert record.times() == [0]


async def test_failures_back_off_up_to_the_cap_and_success_forgets_them() -> None:
    fails = chain([True] * 12, [False], [True] * 2, repeat(False))

    async def process(_key: str) -> float | None:
        if next(fails):
            raise RuntimeError("no")
        return 100.0

    told: list[float] = []
    queue = WorkQueue(
        process, workers=1, backoff=BACKOFF, on_failure=lambda _key, _error, delay_s: told.append(round(delay_s, 3))
    )
    queue.add("a")
    await asyncio.sleep(600)
    await queue.drain(1)
    assert told[:12] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]
    assert told[12:] == [0.1, 0.2]


async def test_the_server_may_ask_for_a_longer_pause() -> None:
    class BusyError(Exception):
        retry_after_s = 7.0

    record = Recorder(seconds=0, result=raising(BusyError()))
    queue = WorkQueue(record, workers=1, backoff=BACKOFF)
    queue.add("a")
    await asyncio.sleep(13)
    assert record.times() == [0, 7]
    await queue.drain(1)


async def test_news_need_not_wait_for_the_back_off() -> None:
    record = Recorder(seconds=0, result=raising(RuntimeError()))
    queue = WorkQueue(record, workers=1, backoff=Backoff(base_s=50, jitter=0))
    queue.add("a")
    await asyncio.sleep(3)
    queue.add("a")
    await asyncio.sleep(1)
    assert record.times() == [0, 3]
    await queue.drain(1)


async def test_a_paused_queue_collects_and_does_not_count_as_stuck() -> None:
    record = Recorder()
    queue = WorkQueue(record, workers=1)
    queue.pause()
    queue.add("a")
    queue.add("b")
    await asyncio.sleep(1000)
    assert (record.began, queue.depth, queue.oldest_waiting_s()) == ([], 2, 0.0)
    queue.resume()
    await asyncio.sleep(0.5)
    assert queue.oldest_waiting_s() == pytest.approx(0.5)
    await asyncio.sleep(5)
    assert record.ended == ["a", "b"]


async def test_age_is_told_of_keys_that_wait_and_of_workers_that_are_busy() -> None:
    queue = WorkQueue(Recorder(seconds=100), workers=1)
    queue.add("a")
    await asyncio.sleep(10)
    queue.add("b")
    await asyncio.sleep(20)
    assert queue.longest_run_s() == pytest.approx(30)
    assert queue.oldest_waiting_s() == pytest.approx(20)
    await queue.drain(0)


async def test_what_is_aborted_is_due_again_without_counting_as_a_failure() -> None:
    record = Recorder(seconds=10)
    told: list[Any] = []
    queue = WorkQueue(record, workers=2, on_failure=lambda *args: told.append(args))
    queue.add("a")
    await asyncio.sleep(1)
    queue.pause()
    queue.abort()
    await asyncio.sleep(1)
    assert (queue.running, queue.depth, record.ended) == (0, 1, [])
    queue.resume()
    await asyncio.sleep(20)
    assert (record.ended, told) == (["a"], [])


async def test_draining_finishes_what_runs_and_starts_nothing() -> None:
    record = Recorder(seconds=3, result=lambda _key: 1.0)
    queue = WorkQueue(record, workers=1)
    queue.add("a")
    queue.add("b")
    await asyncio.sleep(1)
    queue.add("a")
    assert await queue.drain(20)
    assert asyncio.get_running_loop().time() == pytest.approx(3)
    await asyncio.sleep(50)
    assert record.ended == ["a"]


async def test_draining_cuts_off_at_the_deadline() -> None:
    record = Recorder(seconds=1000)
    queue = WorkQueue(record, workers=1)
    queue.add("a")
    await asyncio.sleep(1)
    assert not await queue.drain(20)
    assert asyncio.get_running_loop().time() == pytest.approx(21)
    assert (queue.running, record.ended) == (0, [])


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_above_the_cap_nor_jittered_away(failures: int, chance: float) -> None:
    backoff = Backoff()
    delay_s = backoff.compute_delay_s(failures, chance)
    assert backoff.base_s * (1 - backoff.jitter) <= delay_s <= backoff.cap_s


# One step: wait, then an event for a key, whose processing takes a while and may fail.
STEP = st.tuples(st.floats(0, 3), st.sampled_from("abc"), st.sampled_from(["add", "later", "abort", "pause", "resume"]))


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(STEP, max_size=25),
    durations=st.lists(st.tuples(st.floats(0, 2), st.booleans()), min_size=1, max_size=10),
    workers=st.integers(1, 3),
    rest_s=st.sampled_from([0.0, 0.1, 2.0]),
)
def test_no_change_is_lost_and_no_key_has_two_workers(
    steps: list[tuple[float, str, str]], durations: list[tuple[float, bool]], workers: int, rest_s: float
) -> None:
    versions: Counter[str] = Counter()
    handled: dict[str, int] = {}
    busy: set[str] = set()
    runs = 0

    async def process(key: str) -> float | None:
        nonlocal runs
        seconds, fails = durations[runs % len(durations)]
        runs += 1
        assert key not in busy, "two workers have the same key"
        busy.add(key)
        assert len(busy) <= workers
        seen = versions[key]
        try:
            await asyncio.sleep(seconds)
        finally:
            busy.remove(key)
        if fails and runs < 50:
            raise RuntimeError("no")
        handled[key] = seen
        return None

    async def scenario() -> None:
        queue = WorkQueue(process, workers=workers, rest_s=rest_s)
        for wait_s, key, action in steps:
            await asyncio.sleep(wait_s)
            if action == "add":
                versions[key] += 1
                queue.add(key)
            elif action == "later":
                versions[key] += 1
                queue.add_after(key, wait_s)
            else:
                getattr(queue, action)()
        queue.resume()
        await asyncio.sleep(10_000)
        assert (queue.depth, queue.running) == (0, 0)

    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
    assert handled == {key: version for key, version in versions.items() if version}


def test_a_delay_of_nothing_may_be_shortened_in_the_loop_that_the_operator_runs_in() -> None:
    """uvloop's timers that ring at once are no timers to it: it gives a handle that does not tell its time."""

    async def run() -> list[str]:
        done: list[str] = []

        async def process(key: str) -> None:
            done.append(key)

        queue = WorkQueue(process, workers=1)
        for delay_s in (0.0, 0.0001, 0.0):
            queue.add_after("key", delay_s)
        await asyncio.sleep(0.05)
        return done

    assert uvloop.run(run()) == ["key"]


async def test_a_key_with_a_worker_of_its_own_waits_for_nobody_and_takes_nobodys_place() -> None:
    started: list[str] = []
    release = asyncio.Event()

    async def hold(key: str) -> None:
        started.append(key)
        if key != "quota":
            await release.wait()

    queue = WorkQueue(hold, workers=2, own_workers=frozenset({"quota"}))
    for key in ("a", "b", "c", "quota"):
        queue.add(key)
    await asyncio.sleep(0)
    assert started == ["a", "b", "quota"]
    queue.add_after("quota", 0.0)
    await asyncio.sleep(0.01)
    assert started == ["a", "b", "quota", "quota"]
    release.set()
    await asyncio.sleep(0.01)
    assert started[-1] == "c"
    assert queue.depth == 0
