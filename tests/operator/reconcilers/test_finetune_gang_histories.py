"""Random histories of a FineTuneJob on several nodes: whatever happens to any of its pods, in any order, these hold.

- Never pods of two attempts that may run, and never a second pod of one rank.
- An attempt is counted at most once, whichever of its pods ended, and the user's retries are spent by errors of the job
  only.
- An attempt whose making was cut off is completed, and never costs anything.
- After a pod was lost, the job goes on with a whole gang.
- A pass after which nothing happened writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api.names import ANNOTATION_QUOTA, LABEL_RANK, LABEL_REPLICA
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import PODS
from tests.operator.reconcilers.job_gang import GangWorld
from tests.operator.reconcilers.job_world import CHECKPOINT, REPORT
from tests.operator.reconcilers.world import NAMESPACE

NODES = 3
STOP = '{"stop": {"for_id": "team-b/chat-0", "asked_s": 1, "deadline_s": 100}}'
WRITES = ["apply", "apply_status", "delete"]
KINDS = ["Pod", "Service", "FineTuneJob", "LLMModel", "PersistentVolumeClaim", "ConfigMap"]


@dataclass
class Tale:
    """One history, and what really happened to the attempts."""

    world: GangWorld = field(
        default_factory=lambda: GangWorld(nodes=NODES, retries={"user": 1, "infrastructure": 1000})
    )
    errors_of_job: set[str] = field(default_factory=set)
    hurt: set[str] = field(default_factory=set)
    """Attempts to which anything happened."""
    begun: set[str] = field(default_factory=set)

    async def step(self) -> None:
        await self.world.step()
        self.check()

    def check(self) -> None:
        running = [self.label(name, LABEL_REPLICA) for name in self.unfinished() if "-train-" in name]
        assert len(set(running)) <= 1, running
        assert len(running) <= NODES
        self.begun |= {self.label(name, LABEL_REPLICA) or name for name in self.world.job_pods()}
        attempts = self.world.status_now().get("attempts", {})
        assert attempts.get("user", 0) <= len(self.errors_of_job)
        assert sum(attempts.values()) <= len(self.hurt), "an attempt was counted twice, or for nothing"

    def label(self, pod: str, label: str) -> str:
        return str(self.world.pod(pod)["metadata"]["labels"].get(label, ""))

    def attempt(self, pod: str) -> str:
        return self.label(pod, LABEL_REPLICA) or pod

    def unfinished(self) -> list[str]:
        return [name for name in self.world.job_pods() if self.phase(name) not in {"Succeeded", "Failed"}]

    def phase(self, name: str) -> str:
        return str(self.world.pod(name).get("status", {}).get("phase", ""))

    async def act(self, action: tuple[str, int, Any]) -> None:
        name, which, value = action
        pods = self.unfinished()
        if name == "end":
            pods = [each for each in pods if "deletionTimestamp" in self.world.pod(each)["metadata"]]
        if name == "suspend":
            self.hurt |= {self.attempt(each) for each in pods}
            self.world.change(suspend=value)
        elif name == "wait":
            self.world.pass_time(value)
        elif name == "cut":
            await self.cut(which, *value)
        elif pods:
            await self.happen(pods[which % len(pods)], name, value)

    async def happen(self, pod: str, name: str, value: Any) -> None:
        """Something happens to a pod."""
        if name not in {"run", "succeed"}:
            self.hurt.add(self.attempt(pod))
        if name == "run":
            self.world.run_pod(pod)
        elif name == "succeed":
            self.succeed(pod)
        elif name == "fail":
            self.errors_of_job.add(self.attempt(pod))
            self.world.end_pod(pod, code=1, reason=value, message="it broke", lastCheckpoint=CHECKPOINT)
        elif name == "kill":
            self.world.end_pod(pod, code=137)
        elif name in {"vanish", "end"}:
            self.world.kube.finish_deletion(PODS, pod, NAMESPACE)
        elif name == "delete":
            await self.world.kube.delete(PODS, pod, NAMESPACE)
        elif "-train-" in pod:
            await self.happen_to_rank(pod, name)

    async def happen_to_rank(self, pod: str, name: str) -> None:
        """Something happens that only pods of a gang know."""
        leader = self.attempt(pod)
        if name == "lose":
            self.world.lose_peer(pod)
        elif name == "preempt" and leader in self.world.job_pods():
            await self.world.kube.patch_metadata(PODS, leader, NAMESPACE, annotations={ANNOTATION_QUOTA: STOP})

    def succeed(self, pod: str) -> None:
        if "-prepare-" in pod:
            self.world.end_pod(pod, outcome="prepared", report=REPORT)
        elif self.label(pod, LABEL_RANK) == "0":
            self.world.complete(int(pod.rpartition("-")[2]))
        else:
            self.world.end_pod(pod, outcome="finished")

    async def cut(self, after: int, verb: str, kind: str) -> None:
        """The operator is killed in the middle of a pass."""
        self.world.kube.fail_next(verb, kind, Unavailable("killed"), after=after)
        with contextlib.suppress(Unavailable):
            await self.world.step()
        self.world.kube._failures.clear()

    async def recover(self) -> None:
        """Everything that is asked to end ends, and time passes."""
        self.world.change(suspend=False)
        for _ in range(4):
            await self.step()
            self.world.end_pods()
            self.world.pass_time(400)
            await self.step()


PODS_OF_GANG = st.integers(0, NODES - 1)
OTHERS = st.one_of(
    st.tuples(st.sampled_from(["run", "kill", "lose", "vanish", "delete", "preempt", "end"]), PODS_OF_GANG, st.none()),
    st.tuples(st.just("suspend"), st.just(0), st.booleans()),
    st.tuples(st.just("wait"), st.just(0), st.sampled_from([1, 25, 400])),
    st.tuples(st.just("cut"), PODS_OF_GANG, st.tuples(st.sampled_from(WRITES), st.sampled_from(KINDS))),
)
"""What is nobody's fault."""
REASONS = st.sampled_from(["LossNotFinite", "TrainingFailed", "DiskFull", "CheckpointMismatch"])
ACTIONS = st.one_of(
    OTHERS,
    st.tuples(st.just("succeed"), PODS_OF_GANG, st.none()),
    st.tuples(st.just("fail"), PODS_OF_GANG, REASONS),
)


async def tell(actions: list[tuple[str, int, Any]]) -> None:
    tale = Tale()
    for action in actions:
        before = tale.world.status_now()
        await tale.act(action)
        await tale.step()
        if before.get("phase") in {"Succeeded", "Failed"} and action[0] != "suspend":
            assert tale.world.status_now()["phase"] == before["phase"], action
    for _ in range(4):
        await tale.step()
    tale.world.kube.forget_writes()
    await tale.step()
    assert tale.world.kube.changes == []


@settings(max_examples=100, deadline=None)
@given(st.lists(ACTIONS, min_size=5, max_size=40))
def test_no_history_breaks_a_job_on_several_nodes(actions: list[tuple[str, int, Any]]) -> None:
    asyncio.run(tell(actions))


@settings(max_examples=60, deadline=None)
@given(st.lists(OTHERS, min_size=10, max_size=50))
def test_after_anything_that_is_nobodys_fault_a_whole_gang_goes_on(actions: list[tuple[str, int, Any]]) -> None:
    async def check() -> None:
        tale = Tale()
        await tale.world.go()
        await tale.act(("succeed", 0, None))
        for action in actions:
            await tale.act(action)
            await tale.step()
        assert tale.world.status_now()["attempts"]["user"] == 0
        await tale.recover()
        running = [name for name in tale.unfinished() if "-train-" in name]
        assert len(running) == NODES, tale.world.status_now()

    asyncio.run(check())
