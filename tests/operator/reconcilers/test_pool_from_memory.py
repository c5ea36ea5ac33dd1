"""Pools reconciled from memory under a watch that lags: nothing is doubled, and in the end all is as it should be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api.names import LABEL_SERVING
from llmos_operator.kube.errors import KubeError
from llmos_operator.kube.resources import INFERENCE_POOLS, SERVICES
from llmos_operator.kube.stored import Memory, StoredKube
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.base import Context
from tests.operator.kube.lagging_server import LaggingServer
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, build_pool

SURGE: Final = 1


class RememberingWorld(World):
    """A world whose reconciles read through memory."""

    def __init__(self, runner: asyncio.Runner) -> None:
        super().__init__()
        self.runner = runner
        self.server = LaggingServer(build_model(), now=lambda: self.time)
        self.kube = self.server
        self.memory = Memory(lambda: self.time.timestamp())  # noqa: PLW0108 - time passes
        self.context = Context(
            StoredKube(self.server, self.memory), Settings(), lambda: self.time, observe_in_flight=self._in_flight
        )
        self.most_desired = 0

    def scale(self, replicas: int) -> None:
        self.most_desired = max(self.most_desired, replicas)
        self.server.put(build_pool(replicas=replicas, rollout={"maxSurge": SURGE, "maxUnavailable": 0}))

    def scale_to_none(self) -> None:
        self.scale(0)

    def scale_to_one(self) -> None:
        self.scale(1)

    def scale_to_three(self) -> None:
        self.scale(3)

    def change_the_engine(self) -> None:
        pools = self.server.all(INFERENCE_POOLS)
        if pools:
            pool = {key: value for key, value in pools[0].items() if key != "status"}
            engine = {"name": "simulator", "args": {"seed": len(self.server.writes)}}
            self.server.put({**pools[0], "spec": {**pool["spec"], "engine": engine}})

    def look(self) -> None:
        with contextlib.suppress(KubeError):  # The queue would try again.
            self.runner.run(self.reconcile("InferencePool", "chat"))
        assert len(self.serving()) <= self.most_desired + SURGE

    def look_and_lose_an_answer(self) -> None:
        self.server.loses_next_answer = True
        self.look()
        self.server.loses_next_answer = False

    def tell(self, limit: int) -> None:
        for kind, events in self.server.pending.items():
            for _ in range(min(limit, len(events))):
                told = events.popleft()
                has_body = kind != SERVICES.kind
                self.memory.see(kind, told.type, told.item if has_body else {"metadata": told.item["metadata"]})

    def tell_a_little(self) -> None:
        self.tell(1)

    def tell_all(self) -> None:
        self.tell(1000)

    def become_the_leader(self) -> None:
        self.memory.forget()

    def some_time_passes(self) -> None:
        self.pass_time(20)

    def serving(self) -> list[dict[str, Any]]:
        pods = [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in pods if pod["metadata"]["labels"][LABEL_SERVING] == "true"]


ACTIONS: Final[tuple[Callable[[RememberingWorld], None], ...]] = (
    RememberingWorld.scale_to_none,
    RememberingWorld.scale_to_one,
    RememberingWorld.scale_to_three,
    RememberingWorld.change_the_engine,
    RememberingWorld.look,
    RememberingWorld.look,
    RememberingWorld.look_and_lose_an_answer,
    RememberingWorld.tell_a_little,
    RememberingWorld.tell_all,
    RememberingWorld.start_pods,
    RememberingWorld.finish_deletions,
    RememberingWorld.become_the_leader,
    RememberingWorld.some_time_passes,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), max_size=40), st.integers(0, 3))
def test_a_lagging_watch_doubles_nothing_and_the_end_is_right(
    actions: list[Callable[[RememberingWorld], None]], replicas: int
) -> None:
    with asyncio.Runner() as runner:
        world = RememberingWorld(runner)
        for action in actions:
            action(world)
        settle(world, replicas)
    assert len(world.pods()) == replicas
    assert world.server.stored(INFERENCE_POOLS, NAMESPACE, "chat")["status"]["readyReplicas"] == replicas
    assert world.server.writes == []


def settle(world: RememberingWorld, replicas: int) -> None:
    """Let everything come to rest, then look once more and note what that writes."""
    world.scale(replicas)
    for _ in range(30):
        world.tell_all()
        world.look()
        world.start_pods()
        world.finish_deletions()
        world.some_time_passes()
    world.tell_all()
    world.server.forget_writes()
    world.look()


def test_the_first_look_at_a_pool_without_replicas_is_one_write_and_no_read() -> None:
    with asyncio.Runner() as runner:
        world = RememberingWorld(runner)
        world.server.put(build_pool("other", replicas=0))
        runner.run(world.reconcile("InferencePool", "other"))
        world.scale(0)
        world.tell_all()
        world.server.forget_writes()
        world.look()
    assert world.server.reads == []
    assert [write.verb for write in world.server.writes] == ["apply_status"]
