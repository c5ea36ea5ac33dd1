"""Pools whose replicas span several pods: made, drained, broken and counted as one, whatever happens to one pod."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api import Reason
from llmos_operator.kube.errors import KubeError, Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, build_pool, condition

PER_NODE: Final = 8
CLASS: Final = {
    "apiVersion": "llmos.dev/v1alpha1",
    "kind": "AcceleratorClass",
    "metadata": {"name": "h100"},
    "spec": {"memory": "80Gi", "countPerNode": PER_NODE},
    "status": {"observedGeneration": 1, "nodes": 9, "capacity": 72, "largestNode": 8},
}
Pod = dict[str, Any]


def build_gang_pool(pods: int = 2, **spec: Any) -> dict[str, Any]:
    return build_pool(accelerator={"class": "h100", "count": pods * PER_NODE}, **spec)


class GangWorld(World):
    """A world with nodes of eight accelerators, in which a leader answers only while its whole gang is there."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        super().__init__(build_model(), CLASS, *objects)

    def gangs(self) -> dict[str, list[Pod]]:
        found: dict[str, list[Pod]] = {}
        for pod in self.pods():
            found.setdefault(pod["metadata"]["labels"]["llmos.dev/replica"], []).append(pod)
        return found

    def start_pods(self, *names: str) -> None:
        """Kubelets start what was bound, and end what has reached its deadline."""
        self.reach_deadlines()
        super().start_pods(*names)
        self.notice()

    def reach_deadlines(self) -> None:
        for pod in self.pods():
            if pod["spec"].get("activeDeadlineSeconds") and not has_ended(pod):
                self.kube.set_status(
                    PODS, pod["metadata"]["name"], NAMESPACE, phase="Failed", reason="DeadlineExceeded", conditions=[]
                )

    def notice(self) -> None:
        """Who misses a pod of its gang does not answer."""
        for gang in self.gangs().values():
            for pod in gang:
                if is_ready(pod) and not is_whole(gang):
                    unready = {"type": "Ready", "status": "False", "lastTransitionTime": self.stamp()}
                    self.kube.set_status(PODS, pod["metadata"]["name"], NAMESPACE, conditions=[unready])

    def remove_pod(self, name: str) -> None:
        """A pod is gone at once, as one is that was deleted by force."""
        self.kube.finish_deletion(PODS, name, NAMESPACE)

    def answering(self) -> list[str]:
        return [name for name, gang in self.gangs().items() if answers(gang)]


def has_ended(pod: Pod) -> bool:
    return pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}


def is_ready(pod: Pod) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", ()))


def is_whole(gang: list[Pod]) -> bool:
    size = int(gang[0]["metadata"]["labels"].get("llmos.dev/gang-size", "1"))
    running = [pod for pod in gang if pod.get("status", {}).get("phase") == "Running"]
    return len(running) == len(gang) == size


def answers(gang: list[Pod]) -> bool:
    """Whether requests come to the gang: its leader is ready, and neither asked to go nor taken out of the Service."""
    leader = next((pod for pod in gang if pod["metadata"]["labels"]["llmos.dev/rank"] == "0"), None)
    if leader is None or not is_ready(leader) or any("deletionTimestamp" in pod["metadata"] for pod in gang):
        return False
    return is_whole(gang) and leader["metadata"]["labels"]["llmos.dev/serving"] == "true"


async def test_a_replica_larger_than_a_node_is_made_of_a_pod_for_each_node_and_counted_once() -> None:
    world = GangWorld(build_gang_pool(replicas=2))
    pool = await world.pool()
    assert [len(gang) for gang in world.gangs().values()] == [2, 2]
    assert pool["status"]["plan"]["pods"] == 2
    assert "in 2 pods" in condition(pool, "Planned")["message"]
    services = {service["metadata"]["name"]: service["spec"] for service in world.kube.all(SERVICES)}
    assert services["chat-leaders"]["clusterIP"] == "None"
    assert services["chat"]["selector"]["llmos.dev/rank"] == "0"
    world.start_pods()
    pool = await world.pool()
    assert (pool["status"]["replicas"], pool["status"]["readyReplicas"], pool["status"]["accelerators"]) == (2, 2, 32)
    assert condition(pool)["reason"] == "Ready"
    world.kube.forget_writes()
    await world.pool()
    assert world.kube.writes == []


async def test_workers_are_made_before_their_leader_so_that_a_leader_is_never_without_them() -> None:
    world = GangWorld(build_gang_pool(pods=3))
    await world.pool()
    made = [write.name for write in world.kube.writes if write.kind == "Pod"]
    assert [name.rpartition("-")[2] for name in made] == ["2", "1", "0"]


async def test_a_gang_of_which_an_operator_made_only_a_part_is_completed_by_the_next_one() -> None:
    world = GangWorld(build_gang_pool(pods=3))
    await world.pool()
    worker = next(name for name in world.pod_names() if name.endswith("-2"))
    kept = world.kube.stored(PODS, NAMESPACE, worker)
    for name in world.pod_names():
        world.remove_pod(name)
    world.kube.put(kept)
    await world.pool()
    (gang,) = world.gangs().values()
    assert len(gang) == 3
    assert kept["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in gang}


async def test_a_gang_of_which_an_operator_of_another_version_made_only_a_part_is_made_anew() -> None:
    """It is completed with what its first pod was made with, or not at all: the image is part of the revision."""
    world = GangWorld(build_gang_pool(2))
    world.kube.fail_next("apply", "Pod", Unavailable("cut off"), after=1)
    with pytest.raises(Unavailable):
        await world.pool()
    (begun,) = world.pods()
    newer = replace(world.context.settings, worker_lite_image="llmos-worker:next")
    world.context = replace(world.context, settings=newer)
    for _ in range(3):
        await world.pool()
        world.finish_deletions()
    assert begun["metadata"]["name"] not in world.pod_names()
    (gang,) = world.gangs().values()
    assert [pod["spec"]["containers"][0]["image"] for pod in gang] == ["llmos-worker:next"] * 2


async def test_how_busy_a_gang_is_is_asked_of_its_leader_and_it_drains_and_goes_as_a_whole() -> None:
    world = GangWorld(build_gang_pool(replicas=2))
    await world.pool()
    world.start_pods()
    await world.pool()
    quiet, busy = (name for name in world.gangs())
    world.in_flight = {quiet: 1, busy: 7, f"{busy}-1": 0}
    world.kube.put(
        {**world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat"), "spec": build_gang_pool(replicas=1)["spec"]}
    )
    await world.pool()
    serving = {
        name: {p["metadata"]["labels"]["llmos.dev/serving"] for p in gang} for name, gang in world.gangs().items()
    }
    assert serving == {quiet: {"false"}, busy: {"true"}}
    world.pass_time(3)
    await world.pool()
    deleted = {p["metadata"]["name"] for p in world.pods() if "deletionTimestamp" in p["metadata"]}
    assert deleted == {quiet, f"{quiet}-1"}
    world.finish_deletions()
    assert condition(await world.pool())["reason"] == "Ready"


@pytest.mark.parametrize("rank", [0, 1])
async def test_the_failure_of_one_pod_restarts_the_whole_gang_after_a_pause_and_says_why(rank: int) -> None:
    world = GangWorld(build_gang_pool())
    await world.pool()
    world.start_pods()
    await world.pool()
    victim = sorted(world.pod_names())[rank]
    world.fail_pod(victim, Reason.OutOfMemory, "CUDA out of memory.")
    world.notice()
    pool = await world.pool()
    assert condition(pool)["reason"] == "OutOfMemory"
    assert condition(pool)["message"].startswith(f"Pod {victim}: CUDA out of memory.")
    assert pool["status"]["readyReplicas"] == 0
    (other,) = [name for name in world.pod_names() if name != victim]
    assert world.kube.stored(PODS, NAMESPACE, other)["spec"]["activeDeadlineSeconds"] == 1
    for _ in range(3):
        world.pass_time(60)
        await world.pool()
        assert len(world.gangs()) == 1, "it is not made anew while a pod of it still holds accelerators"
    world.reach_deadlines()
    world.pass_time(10)
    await world.pool()
    world.finish_deletions()
    (gang,) = world.gangs().values()
    assert {pod["metadata"]["annotations"]["llmos.dev/attempt"] for pod in gang} == {"1"}
    assert victim not in world.pod_names()
    world.start_pods()
    assert condition(await world.pool())["reason"] == "Ready"


async def test_an_evicted_worker_takes_its_gang_along_and_another_one_comes() -> None:
    world = GangWorld(build_gang_pool())
    await world.pool()
    world.start_pods()
    await world.pool()
    leader, worker = sorted(world.pod_names())
    await world.kube.delete(PODS, worker, NAMESPACE)
    await world.pool()
    assert "deletionTimestamp" in world.kube.stored(PODS, NAMESPACE, leader)["metadata"]
    assert len(world.gangs()) == 2, "its replacement does not wait for its end"
    world.finish_deletions()
    world.start_pods()
    assert condition(await world.pool())["reason"] == "Ready"
    assert len(world.pods()) == 2


async def test_a_worker_that_is_gone_without_a_word_breaks_its_gang() -> None:
    world = GangWorld(build_gang_pool())
    await world.pool()
    world.start_pods()
    await world.pool()
    leader, worker = sorted(world.pod_names())
    world.remove_pod(worker)
    world.notice()
    pool = await world.pool()
    assert condition(pool)["reason"] == "GangBroken"
    assert worker in condition(pool)["message"]
    world.reach_deadlines()
    assert condition(await world.pool())["message"].count(worker) == 1, "the cause outlives the pods"
    world.pass_time(11)
    await world.pool()
    world.finish_deletions()
    world.start_pods()
    assert condition(await world.pool())["reason"] == "Ready"
    assert leader not in world.pod_names()


async def test_a_pool_that_grows_over_its_node_rolls_from_single_pods_to_gangs_without_a_gap() -> None:
    world = GangWorld(build_gang_pool(1, replicas=2))
    await world.pool()
    world.start_pods()
    pool = await world.pool()
    world.kube.put({**pool, "spec": build_gang_pool(2, replicas=2)["spec"]})
    for _ in range(20):
        await world.pool()
        assert len(world.answering()) >= 2
        assert len(world.gangs()) <= 3
        world.start_pods()
        world.finish_deletions()
        world.pass_time(3)
    assert [len(gang) for gang in world.gangs().values()] == [2, 2]
    assert condition(await world.pool())["reason"] == "Ready"


@pytest.mark.parametrize(("count", "remedy"), [(9, "count to 10"), (15, "count to 14 or 16"), (17, "count to 18")])
async def test_accelerators_that_cannot_be_divided_evenly_are_refused_with_the_numbers_that_can(
    count: int, remedy: str
) -> None:
    world = GangWorld(build_pool(accelerator={"class": "h100", "count": count}))
    pool = await world.pool()
    assert condition(pool)["reason"] == "InvalidSpec"
    assert remedy in condition(pool)["message"]
    assert world.pods() == []


async def test_a_gang_that_the_nodes_of_the_class_cannot_hold_is_refused() -> None:
    world = GangWorld(build_gang_pool(16))
    pool = await world.pool()
    assert condition(pool)["reason"] == "NoNodeHasAccelerator"
    assert "needs 16 nodes with 8 each" in condition(pool)["message"]


class History:
    """What users, nodes and operators do to a pool of gangs, and what has to hold after each look."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.world = GangWorld()
        self.desired, self.size, self.seed = 1, 2, 0
        self.write_pool()

    def write_pool(self) -> None:
        stored = next(iter(self.world.kube.all(INFERENCE_POOLS)), {})
        engine = {"name": "simulator", "args": {"seed": self.seed}}
        wanted = build_gang_pool(self.size, replicas=self.desired, engine=engine, drain={"timeoutSeconds": 5})
        self.world.kube.put({**stored, **wanted, "metadata": stored.get("metadata", wanted["metadata"])})

    def scale_to(self, number: int) -> None:
        self.desired = number % 4
        self.write_pool()

    def resize(self, number: int) -> None:
        self.size = 1 + number % 3
        self.write_pool()

    def change_the_engine(self, number: int) -> None:
        self.seed = number
        self.write_pool()

    def look(self, _: int) -> None:
        before, serving = self.count_gangs(), len(self.world.answering())
        most = max(before, self.desired + 1)
        broken = sum(
            any(map(has_ended, gang)) and not all(map(has_ended, gang)) for gang in self.world.gangs().values()
        )
        try:
            self.runner.run(self.world.reconcile("InferencePool", "chat"))
        except KubeError:  # The queue would try again.
            # Its successor, which carries the attempts on, is made before a broken one is deleted.
            most += broken
        assert self.count_gangs() <= most, "never above surge"
        assert len(self.world.answering()) >= min(serving, self.desired), "never below what must be available"
        for name in self.world.answering():
            assert is_whole(self.world.gangs()[name])

    def look_and_be_killed(self, number: int) -> None:
        self.world.kube.fail_next(("apply", "delete", "patch")[number % 3], "Pod", Unavailable("killed"))
        self.look(number)

    def count_gangs(self) -> int:
        return sum(not all(map(has_ended, gang)) for gang in self.world.gangs().values())

    def start_all(self, _: int) -> None:
        self.world.start_pods()

    def pick(self, number: int) -> str | None:
        names = [pod["metadata"]["name"] for pod in self.world.pods() if not has_ended(pod)]
        return names[number % len(names)] if names else None

    def fail_one(self, number: int) -> None:
        if name := self.pick(number):
            self.world.fail_pod(name, (Reason.EngineCrashed, Reason.GangBroken, None)[number % 3])
            self.world.notice()

    def evict_one(self, number: int) -> None:
        if name := self.pick(number):
            with contextlib.suppress(KubeError):
                self.runner.run(self.world.kube.delete(PODS, name, NAMESPACE))

    def remove_one(self, number: int) -> None:
        if name := self.pick(number):
            self.world.remove_pod(name)
            self.world.notice()

    def finish(self, _: int) -> None:
        self.world.finish_deletions()
        self.world.notice()

    def wait(self, number: int) -> None:
        self.world.pass_time((1, 10, 70, 400)[number % 4])


ACTIONS: Final[tuple[Callable[[History, int], None], ...]] = (
    History.scale_to,
    History.resize,
    History.change_the_engine,
    History.look,
    History.look,
    History.look,
    History.look_and_be_killed,
    History.start_all,
    History.start_all,
    History.fail_one,
    History.evict_one,
    History.remove_one,
    History.finish,
    History.wait,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), max_size=40))
def test_whatever_happens_no_half_gang_serves_and_the_limits_hold_in_replicas(
    story: list[tuple[Callable[[History, int], None], int]],
) -> None:
    with asyncio.Runner() as runner:
        history = History(runner)
        for action, number in story:
            action(history, number)
        for _ in range(30):
            history.look(0)
            history.start_all(0)
            history.finish(0)
            history.world.pass_time(301)
        assert len(history.world.answering()) == len(history.world.gangs()) == history.desired
        assert all(len(gang) == history.size for gang in history.world.gangs().values())
        history.world.kube.forget_writes()
        history.look(0)
        assert history.world.kube.writes == []
