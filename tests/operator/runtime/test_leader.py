"""Leader election under simulated clocks: one writer at most, and a quick takeover where that is safe."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import looptime
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import LEASES, Resource
from llmos_operator.runtime.leader import Elector, LeaseTiming
from tests.operator.fake_kube import FakeKube, Write

pytestmark = pytest.mark.looptime


def loop_time_s() -> float:
    return asyncio.get_running_loop().time()


def wall() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=loop_time_s())


def candidate(kube: FakeKube, identity: str, changes: list[bool] | None = None, **overrides: Any) -> Elector:
    return Elector(
        kube,
        name="llmos-operator",
        namespace="llmos-system",
        identity=identity,
        on_change=(changes if changes is not None else []).append,
        **{"clock": loop_time_s, "wall": wall, "chance": lambda: 0.5} | overrides,
    )


def lease_of(kube: FakeKube) -> dict[str, Any]:
    spec: dict[str, Any] = kube.stored(LEASES, "llmos-system", "llmos-operator")["spec"]
    return spec


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_first_candidate_leads_and_keeps_renewing() -> None:
    kube, changes = FakeKube(), list[bool]()
    elector = candidate(kube, "a", changes)
    task = asyncio.create_task(elector.run())
    await asyncio.sleep(100)
    assert changes == [True]
    assert elector.may_write()
    assert lease_of(kube)["holderIdentity"] == "a"
    assert lease_of(kube)["leaseTransitions"] == 0
    assert len(kube.writes) == pytest.approx(51, abs=1)
    await stop(task)


async def test_a_standby_only_reads() -> None:
    kube = FakeKube()
    first, second = candidate(kube, "a"), candidate(kube, "b")
    tasks = [asyncio.create_task(first.run())]
    await asyncio.sleep(1)
    tasks.append(asyncio.create_task(second.run()))
    await asyncio.sleep(60)
    assert first.may_write()
    assert not second.may_write()
    assert second.holder == "a"
    await stop(*tasks)


async def test_a_released_lease_is_taken_at_the_next_look() -> None:
    kube = FakeKube()
    first, second = candidate(kube, "a"), candidate(kube, "b")
    tasks = [asyncio.create_task(first.run()), asyncio.create_task(second.run())]
    await asyncio.sleep(30)
    await stop(tasks[0])
    await first.release()
    assert not first.may_write()
    await asyncio.sleep(2.1)
    assert second.may_write()
    assert lease_of(kube)["leaseTransitions"] == 1
    await stop(tasks[1])


async def test_a_lease_whose_holder_died_is_taken_when_it_expires_and_not_before() -> None:
    kube = FakeKube()
    first, second = candidate(kube, "a"), candidate(kube, "b")
    tasks = [asyncio.create_task(first.run()), asyncio.create_task(second.run())]
    await asyncio.sleep(30)
    await stop(tasks[0])
    await asyncio.sleep(12.9)
    assert not second.may_write()
    await asyncio.sleep(5)
    assert second.may_write()
    await stop(tasks[1])


async def test_a_leader_that_cannot_renew_stops_before_the_lease_expires() -> None:
    kube, changes = FakeKube(), list[bool]()
    elector = candidate(kube, "a", changes)
    task = asyncio.create_task(elector.run())
    await asyncio.sleep(1)
    kube.fail_next("apply", "Lease", Unavailable("away"), times=1000)
    kube.fail_next("get", "Lease", Unavailable("away"), times=1000)
    await asyncio.sleep(8.9)
    assert elector.may_write()
    await asyncio.sleep(0.2)
    assert not elector.may_write()
    assert changes == [True, False]
    await stop(task)


async def test_a_leader_that_comes_back_in_time_never_stopped() -> None:
    kube, changes = FakeKube(), list[bool]()
    elector = candidate(kube, "a", changes)
    task = asyncio.create_task(elector.run())
    await asyncio.sleep(1)
    kube.fail_next("apply", "Lease", Unavailable("away"), times=1)
    kube.fail_next("get", "Lease", Unavailable("away"), times=2)
    await asyncio.sleep(60)
    assert changes == [True]
    await stop(task)


async def test_a_leader_whose_lease_was_taken_by_force_stops() -> None:
    kube, changes = FakeKube(), list[bool]()
    elector = candidate(kube, "a", changes)
    task = asyncio.create_task(elector.run())
    await asyncio.sleep(1)
    lease = kube.stored(LEASES, "llmos-system", "llmos-operator")
    kube.put({**lease, "spec": {**lease["spec"], "holderIdentity": "someone"}})
    await asyncio.sleep(4.1)
    assert changes == [True, False]
    assert not elector.may_write()
    await stop(task)


async def test_the_fence_counts_from_the_question_and_not_from_the_answer() -> None:
    class SlowKube(FakeKube):
        async def create(self, manifest: Mapping[str, Any]) -> Object:
            created = await super().create(manifest)
            await asyncio.sleep(7)
            return created

        async def apply(self, manifest: Mapping[str, Any], *, field_manager: str = "") -> Object:
            raise Unavailable("away")

    elector = candidate(SlowKube(), "a")
    task = asyncio.create_task(elector.run())
    await asyncio.sleep(9.9)
    assert elector.may_write()
    await asyncio.sleep(0.2)
    assert not elector.may_write()
    await stop(task)


async def test_who_never_led_has_nothing_to_release() -> None:
    kube = FakeKube()
    await candidate(kube, "a").release()
    assert kube.writes == list[Write]()


@pytest.mark.parametrize(("retry_s", "renew_s", "lease_s"), [(10, 10, 15), (2, 15, 15), (2, 20, 15)])
def test_a_timing_that_leaves_no_margin_is_refused(retry_s: float, renew_s: float, lease_s: float) -> None:
    with pytest.raises(ValueError, match="retry < renew deadline < lease"):
        LeaseTiming(lease_s=lease_s, renew_deadline_s=renew_s, retry_s=retry_s)


class FaultyKube(FakeKube):
    """Requests and answers take their time or get lost; a request that was given up may still arrive."""

    def __init__(self, store: FakeKube, chance: random.Random, faults: float) -> None:
        super().__init__()
        self.store = store
        self.chance = chance
        self.faults = faults

    async def _travel(self) -> None:
        if self.chance.random() < self.faults:
            await asyncio.sleep(self.chance.choice([1.0, 7.0, 9.0, 15.0]))
            if self.chance.random() < 0.5:
                raise Unavailable("lost on the way")
        else:
            await asyncio.sleep(self.chance.random() * 0.05)

    async def _send(self, request: Callable[[], Any]) -> Any:
        async def arrive() -> Any:
            await self._travel()
            return await request()

        arrival = asyncio.ensure_future(arrive())
        arrival.add_done_callback(lambda task: task.cancelled() or task.exception())
        answer = await asyncio.shield(arrival)
        await self._travel()
        return answer

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        found: Object | None = await self._send(lambda: self.store.get(resource, name, namespace))
        return found

    async def create(self, manifest: Mapping[str, Any]) -> Object:
        created: Object = await self._send(lambda: self.store.create(manifest))
        return created

    async def apply(self, manifest: Mapping[str, Any], *, field_manager: str = "") -> Object:
        applied: Object = await self._send(lambda: self.store.apply(manifest, field_manager=field_manager))
        return applied


def faulty_candidate(store: FakeKube, name: str, chance: random.Random, faults: float, rate: float) -> Elector:
    offset_s = chance.uniform(-1e6, 1e6)

    async def sleep(seconds: float) -> None:
        # The process may be frozen for a while.
        frozen_s = chance.choice([12.0, 20.0]) if chance.random() < faults / 2 else 0.0
        await asyncio.sleep(seconds / rate + frozen_s)

    return candidate(
        FaultyKube(store, chance, faults),
        name,
        clock=lambda: offset_s + rate * loop_time_s(),
        sleep=sleep,
        chance=chance.random,
    )


@settings(max_examples=25, deadline=None, phases=[Phase.generate])
@given(
    seed=st.integers(0, 2**32),
    faults=st.sampled_from([0.0, 0.1, 0.3]),
    rates=st.lists(st.floats(0.85, 1.15), min_size=2, max_size=4),
    restarts=st.integers(0, 3),
)
def test_two_never_write_at_the_same_time(seed: int, faults: float, rates: list[float], restarts: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - faults, not secrets
    led = set[str]()

    async def scenario() -> None:
        store = FakeKube()
        electors = {
            f"candidate-{number}": faulty_candidate(store, f"candidate-{number}", chance, faults, rate)
            for number, rate in enumerate(rates)
        }
        tasks = {name: asyncio.create_task(elector.run()) for name, elector in electors.items()}
        stops = sorted(chance.uniform(20, 100) for _ in range(min(restarts, len(rates) - 1)))
        while loop_time_s() < 120:
            writers = [name for name, elector in electors.items() if elector.may_write()]
            assert len(writers) <= 1, f"{writers} at {loop_time_s():.2f} s"
            led.update(writers)
            if stops and loop_time_s() >= stops[0] and writers:
                # The leader ends in order; it is gone for good.
                stops.pop(0)
                await stop(tasks.pop(writers[0]))
                await electors[writers[0]].release()
            await asyncio.sleep(0.2)
        await stop(*tasks.values())
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        await stop(*pending)  # Requests that are still on their way.

    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(scenario())
    finally:
        loop.close()
    assert led or faults
