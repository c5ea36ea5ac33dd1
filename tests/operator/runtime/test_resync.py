"""The slow clock under a simulated clock."""

from __future__ import annotations

import asyncio

import pytest

from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, Resource
from llmos_operator.reconcilers.base import Key
from llmos_operator.reconcilers.quota_board import QUOTA
from llmos_operator.runtime.references import DISCOVERY, References
from llmos_operator.runtime.resync import Resync, WatchCheck

pytestmark = pytest.mark.looptime

POOL = Key("InferencePool", "ns", "p")


class Sink:
    """Collects keys in place of the queue."""

    def __init__(self) -> None:
        self.added: list[Key] = []
        self.later: list[tuple[Key, float]] = []

    def add(self, key: Key) -> None:
        self.added.append(key)

    def add_after(self, key: Key, delay_s: float) -> None:
        self.later.append((key, delay_s))


class Versions:
    """What the API server has."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.is_away = False

    async def list_versions(self, resource: Resource) -> dict[tuple[str, str], str]:
        if self.is_away:
            raise Unavailable("away")
        return {("ns", "p"): self.version}


def known(version: str) -> References:
    references = References()
    tell(references, version)
    return references


def tell(references: References, version: str) -> None:
    references.see(POOL, {"metadata": {"name": "p", "namespace": "ns", "resourceVersion": version}})


async def run_for(seconds: float, resync: Resync | WatchCheck) -> None:
    task = asyncio.create_task(resync.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_all_keys_come_once_an_interval_each_at_its_own_moment() -> None:
    references, sink, chances = known("1"), Sink(), iter([0.25, 0.5, 0.3, 0.75, 0.1, 0.4])
    references.see(Key("AcceleratorClass", "", "h100"), {"metadata": {"name": "h100"}})
    await run_for(601, Resync(references, sink, interval_s=600, chance=lambda: next(chances)))
    assert {key for key, _ in sink.later} == {POOL, DISCOVERY, QUOTA}
    assert sorted(delay for _, delay in sink.later) == [60, 150, 180, 240, 300, 450]


async def test_watches_that_tell_everything_are_not_silent() -> None:
    sink = Sink()
    check = WatchCheck(known("1"), sink, Versions("1"), [INFERENCE_POOLS])
    await run_for(1000, check)
    assert not sink.added
    assert not check.is_watch_silent


async def test_a_change_that_no_event_told_is_due_at_once_and_the_second_one_means_silence() -> None:
    missed: list[Key] = []
    sink = Sink()
    check = WatchCheck(known("1"), sink, Versions("2"), [INFERENCE_POOLS], on_missed=missed.append)
    await run_for(131, check)
    assert (sink.added, missed, check.is_watch_silent) == ([POOL], [POOL], False)
    await run_for(300, check)
    assert check.is_watch_silent


async def test_an_object_that_went_without_a_word_is_missed_once_and_then_forgotten() -> None:
    references, sink = known("1"), Sink()
    gone = Key("InferencePool", "ns", "gone")
    references.see(gone, {"metadata": {"name": "gone", "namespace": "ns", "resourceVersion": "1"}})
    check = WatchCheck(references, sink, Versions("1"), [INFERENCE_POOLS])
    await run_for(500, check)
    assert sink.added == [gone]
    assert references.keys() == (POOL,)
    assert not check.is_watch_silent


async def test_an_event_that_arrives_meanwhile_is_not_missed() -> None:
    references, sink = known("1"), Sink()
    check = asyncio.create_task(WatchCheck(references, sink, Versions("2"), [INFERENCE_POOLS]).check())
    await asyncio.sleep(5)
    tell(references, "2")
    assert await check == set()


async def test_an_api_server_that_is_away_says_nothing_about_watches() -> None:
    versions, sink = Versions("2"), Sink()
    versions.is_away = True
    check = WatchCheck(known("1"), sink, versions, [INFERENCE_POOLS])
    await run_for(1000, check)
    assert not check.is_watch_silent
