"""The load task against real HTTP servers: what gateways and replicas say becomes decisions, and nothing else does.

Several tests are named after a bug of another autoscaler that this one must not have.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from llmos.api import Reason
from llmos.api.scaling import ReplicaCapacity, Scaling, ScalingStatus
from llmos_operator.kube.resources import INFERENCE_POOLS
from llmos_operator.planning.failures import build_failure
from llmos_operator.planning.replicas import Replica, ReplicaState
from llmos_operator.planning.sampling import ScaledPool
from llmos_operator.planning.scaling_record import read_records, replay
from llmos_operator.reconcilers.keys import Key
from tests.operator.runtime.load_world import BORN, KEY, FakeGateway, open_world, wait_until

pytestmark = pytest.mark.steady

BY_QUEUE = {"target": {"queueDepth": 4}, "scaleDownDelaySeconds": 0}
NO_NODE = build_failure(Reason.Unschedulable, "0/3 nodes are available.")


async def test_requests_of_all_gateways_are_added_up() -> None:
    """Mean and sum confused: AIBrix divides a mean of pods by a target for the total."""
    first, second = FakeGateway(), FakeGateway()
    async with open_world(first, second, replicas=1) as world:
        world.replicas["chat-0"].figures = {"running": 16}
        await first.tell(running=8)
        await second.tell(running=8)
        await world.hear(first, second)
        world.reconcile(**BY_QUEUE)
        decision = await world.turn()
        assert decision is not None
        assert decision.desired == 4
        assert "16 requests" in decision.message
        assert world.queue.keys == [KEY]


async def test_a_pool_at_zero_is_woken_by_the_answer_that_tells_of_its_first_request() -> None:
    """From zero: others look every 10 or 30 seconds, or wait for a metric that a pool at zero does not have."""
    gateway = FakeGateway()
    async with open_world(gateway) as world:
        world.reconcile(minReplicas=0, **BY_QUEUE)
        world.task.set_leader(True)
        await world.turn()
        assert world.board.decision(KEY) is None, "a pool that sleeps is not written"
        await gateway.tell(queued=1)
        await wait_until(lambda: world.queue.keys == [KEY])
        decision = world.board.decision(KEY)
        assert decision is not None
        assert (decision.desired, decision.inputs.queued) == (1, 1)


async def test_a_request_that_was_already_waiting_wakes_a_pool_that_was_seen_for_the_first_time() -> None:
    gateway = FakeGateway()
    async with open_world(gateway) as world:
        await gateway.tell(queued=9)
        await world.hear(gateway)
        world.reconcile(minReplicas=0, **BY_QUEUE)
        decision = await world.turn()
        assert decision is not None
        assert decision.desired == 3


async def test_a_gateway_that_is_missing_never_makes_a_pool_smaller_and_is_named() -> None:
    """Stale read as zero: a scrape that fails is not the end of the traffic."""
    first, second = FakeGateway(), FakeGateway()
    async with open_world(first, second, replicas=2) as world:
        await first.tell(running=4)
        await second.tell(running=4)
        await world.hear(first, second)
        world.desired = 2
        world.reconcile(**BY_QUEUE)
        await world.turn(2)
        second.is_deaf = True
        await asyncio.sleep(1.6)
        await first.tell(running=0)
        await world.hear(first)
        decision = await world.turn(3)
        assert decision is None or decision.desired == 2
        lines = (world.recorder.read(KEY) or b"").decode().splitlines()
        last = list(read_records(lines))[-1]
        assert (last.desired, last.bounded_by) == (2, "staleInputs")
        assert any(name.startswith("gateway 127.0.0.1") for name in last.sample.stale)


async def test_a_missing_gateway_does_not_keep_a_pool_from_growing() -> None:
    """A tick that is skipped because one source fails: KubeAI then decides nothing at all."""
    first, second = FakeGateway(), FakeGateway()
    second.is_deaf = True
    async with open_world(first, second, replicas=1) as world:
        await first.tell(running=12)
        await world.hear(first)
        world.desired = 1
        world.reconcile(**BY_QUEUE)
        decision = await world.turn()
        assert decision is not None
        assert decision.desired == 3


async def test_without_any_gateway_engines_tell_enough_to_grow_and_to_keep_one() -> None:
    """Traffic that bypasses the gateway: KubeAI never sees it."""
    async with open_world(replicas=2) as world:
        for replica in world.replicas.values():
            replica.figures = {"running": 6, "waiting": 2}
        world.desired = 2
        world.reconcile(minReplicas=0, scaleToZeroAfterSeconds=0, **BY_QUEUE)
        decision = await world.turn(4)
        assert decision is not None
        assert decision.desired == 4
        for replica in world.replicas.values():
            replica.figures = {"running": 0}
        world.reconcile()
        await world.turn(4)
        assert world.board.decision(KEY) is not None
        assert world.board.decision(KEY).desired == 1, "nothing could wake it from zero"  # type: ignore[union-attr]  # asserted above


async def test_gateways_that_do_not_answer_keep_a_pool_from_zero_and_from_shrinking() -> None:
    deaf = FakeGateway()
    deaf.is_deaf = True
    async with open_world(deaf, replicas=2) as world:
        world.desired = 2
        world.reconcile(minReplicas=0, scaleToZeroAfterSeconds=0, **BY_QUEUE)
        await world.turn(4)
        records = list(read_records((world.recorder.read(KEY) or b"").decode().splitlines()))
        assert {record.desired for record in records} == {2}
        assert records[-1].sample.gateway is None


async def test_adapter_traffic_counts_for_its_pool() -> None:
    """Adapter traffic not counted: KubeAI's autoscaler asks for the base model's name only. Engines count all of it."""
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as world:
        await gateway.tell(running=20)
        world.replicas["chat-0"].figures = {"running": 20}
        await world.hear(gateway)
        world.desired = 1
        world.reconcile(**BY_QUEUE)
        decision = await world.turn(4)
        assert decision is not None
        assert decision.desired == 5, "once by the gateway, not again by the engine"


async def test_replicas_that_start_are_not_ordered_twice() -> None:
    """Pending not counted: AIBrix went 2, 4, 8, 16 while pods were starting."""
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as world:
        await gateway.tell(running=4, queued=12)
        world.replicas["chat-0"].figures = {"running": 4}
        await world.hear(gateway)
        world.desired = 1
        world.reconcile(**BY_QUEUE)
        await world.turn()
        world.starting = [
            Replica(f"chat-{number}", number, "r1", ReplicaState.STARTING, world.now) for number in (1, 2, 3)
        ]
        for _ in range(5):
            world.reconcile()
            await world.turn()
        assert world.board.decision(KEY) is not None
        assert world.desired == 4


async def test_a_replica_that_finds_no_node_does_not_keep_a_pool_from_shrinking() -> None:
    """Frozen by a pending pod: Dynamo's planner waits for it for ever."""
    gateway = FakeGateway()
    async with open_world(gateway, replicas=2) as world:
        world.starting = [
            Replica("chat-9", 9, "r1", ReplicaState.STARTING, BORN, stuck=NO_NODE),
        ]
        world.desired = 3
        await gateway.tell(running=1)
        await world.hear(gateway)
        world.reconcile(**BY_QUEUE)
        decision = await world.turn(4)
        assert decision is not None
        assert decision.desired == 1


@pytest.mark.parametrize(
    "answer",
    [
        '{"running": NaN}',
        '{"kvUsage": NaN}',
        '{"ageS": 60}',
        '{"running": 1e300}',
        f'{{"running": {10**30}}}',
        "[]",
        "{",
    ],
)
async def test_figures_that_are_none_are_no_figures(answer: str) -> None:
    """NaN read as no change, or as a reason to grow: Dynamo never shrinks again."""
    gateway = FakeGateway()
    async with open_world(gateway, replicas=2) as world:
        world.desired = 2
        world.replicas["chat-1"].answer = answer
        world.reconcile(**BY_QUEUE)
        await world.turn(3)
        records = list(read_records((world.recorder.read(KEY) or b"").decode().splitlines()))
        assert records[-1].sample.silent == 1
        assert records[-1].sample.stale == ("replica chat-1",)
        assert {record.desired for record in records} == {2}


async def test_a_pool_at_rest_is_read_and_never_written() -> None:
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as world:
        await gateway.tell(arrivals_total=10**6)
        await world.hear(gateway)
        world.desired = 1
        world.reconcile()
        await world.turn(2)
        world.reconcile()
        world.queue.keys.clear()
        for _ in range(30):
            await world.turn()
        assert world.queue.keys == []
        assert world.replicas["chat-0"].asked == 32


async def test_a_restarted_operator_goes_on_from_status_and_takes_nothing_away_at_once() -> None:
    """State that is lost: KubeAI's count of consecutive decisions, for one."""
    gateway = FakeGateway()
    capacity = ReplicaCapacity(
        revision="r1", step_milliseconds=20, milliseconds_per_sequence=0.3, samples=500, start_seconds=40
    )
    async with open_world(gateway, replicas=3) as world:
        world.desired = 3
        world.decided = ScalingStatus(desired=3, raw=2.9, capacity=capacity)
        world.reconcile(scaleDownDelaySeconds=60)
        await world.turn(3)
        records = list(read_records((world.recorder.read(KEY) or b"").decode().splitlines()))
        assert {record.desired for record in records} == {3}
        assert records[0].capacity.step_milliseconds == 20
        assert records[0].capacity.start_seconds == 40


async def test_what_was_measured_is_forgotten_when_only_replicas_of_a_new_revision_answer() -> None:
    gateway = FakeGateway()
    capacity = ReplicaCapacity(revision="r0", step_milliseconds=20, samples=500, start_seconds=40)
    async with open_world(gateway, replicas=1) as world:
        world.desired = 1
        world.decided = ScalingStatus(desired=1, capacity=capacity)
        world.revision = "r0"
        world.reconcile()
        await world.turn()
        world.revision = "r1"
        world.reconcile()
        await world.turn()
        after = list(read_records((world.recorder.read(KEY) or b"").decode().splitlines()))[-1].capacity
        assert (after.revision, after.samples, after.start_seconds) == ("r1", 0, 40)


async def test_a_pool_that_leaves_is_forgotten_with_everything_about_it() -> None:
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as world:
        world.reconcile()
        await world.turn(2)
        assert b'llmos_operator_pool_desired_replicas{namespace="team",pool="chat"}' in world.metrics.render()
        world.board.forget(KEY)
        await world.turn()
        assert world.recorder.read(KEY) is None
        assert b'pool="chat"' not in world.metrics.render()
        assert world.board.decision(KEY) is None


async def test_only_the_leader_decides() -> None:
    """Two controllers that write replicas: KubeAI flapped between 0 and 1."""
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as leading, open_world(gateway, replicas=1) as standing_by:
        running = [asyncio.create_task(world.task.run()) for world in (leading, standing_by)]
        try:
            await gateway.tell(running=40)
            for world in (leading, standing_by):
                world.reconcile(**BY_QUEUE)
            leading.task.set_leader(True)
            await wait_until(lambda: leading.queue.keys)
            assert standing_by.queue.keys == []
            leading.task.set_leader(False)
            assert leading.board.pools == {}
            standing_by.task.set_leader(True)
            await wait_until(lambda: standing_by.queue.keys)
            leading.queue.keys.clear()
            leading.reconcile()
            await asyncio.sleep(1.2)
            assert leading.queue.keys == []
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def test_a_turn_comes_about_once_a_second_and_counts_each_request_once() -> None:
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as world:
        world.reconcile()
        world.task.set_leader(True)
        running = asyncio.create_task(world.task.run())
        try:
            for step in range(1, 31):
                await gateway.tell(arrivals_total=step * 10)
                await asyncio.sleep(0.1)
            await wait_until(lambda: (world.recorder.read(KEY) or b"").count(b"\n") >= 4)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        records = list(read_records((world.recorder.read(KEY) or b"").decode().splitlines()))
        arrivals = sum(record.sample.gateway.arrivals for record in records if record.sample.gateway)
        assert arrivals % 10 == 0
        assert 200 <= arrivals <= 300, "all but those before the first look"
        assert all(record.sample.interval_s >= 0.9 for record in records[1:])


async def test_trouble_with_one_pool_is_not_that_of_all(caplog: pytest.LogCaptureFixture) -> None:
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as world:
        world.reconcile(**BY_QUEUE)
        without_a_zone = Replica("x-0", 0, "r1", ReplicaState.STARTING, BORN.replace(tzinfo=None))
        world.board.publish(KEY._replace(name="broken"), ScaledPool(Scaling(), replicas=(without_a_zone,)))
        await gateway.tell(running=40)
        await world.hear(gateway)
        await world.turn(3)
        assert world.board.decision(KEY) is not None
        assert [record.message for record in caplog.records] == [
            "Nothing could be decided about InferencePool/team/broken, again in 30 s."
        ]
        assert b"llmos_operator_scaling_errors_total 1.0" in world.metrics.render()


async def test_what_was_recorded_can_be_run_again() -> None:
    gateway = FakeGateway()
    async with open_world(gateway, replicas=1) as world:
        world.desired = 1
        world.reconcile(**BY_QUEUE)
        for running in (0, 3, 9, 30, 30, 2):
            await gateway.tell(running=running, arrivals_total=running)
            world.replicas["chat-0"].figures = {"running": running, "generation_tokens_total": running}
            await world.hear(gateway)
            await world.turn()
            world.now += timedelta(seconds=1)
        text = (world.recorder.read(KEY) or b"").decode()
        for record, plan in replay(read_records(text.splitlines())):
            assert (plan.desired, plan.raw, plan.bounded_by) == (record.desired, record.raw, record.bounded_by)


@pytest.mark.parametrize("passes", range(8))
async def test_it_ends_when_it_is_cancelled_at_any_moment_of_losing_the_leadership(passes: int) -> None:
    async with open_world(FakeGateway()) as world:
        task = asyncio.create_task(world.task.run())
        world.task.set_leader(True)
        await asyncio.sleep(0.05)
        world.task.set_leader(False)
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        ended, _ = await asyncio.wait({task}, timeout=10)
        assert ended == {task}
        assert task.cancelled()


async def test_while_many_pools_are_decided_about_everything_else_runs() -> None:
    async with open_world() as world:
        world.reconcile(minReplicas=0)
        keys = [Key(INFERENCE_POOLS.kind, "team", f"pool-{number}") for number in range(800)]
        for key in keys:
            world.board.publish(key, world.board.pools[KEY])
        seen: set[tuple[bool, bool]] = set()

        async def look() -> None:
            while True:
                first, last = (world.recorder.read(key) is not None for key in (keys[0], keys[-1]))
                seen.add((first, last))
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        await world.task.take_turn()
        looking.cancel()
    assert (True, False) in seen, "one was decided about, and another one not yet"
