"""Random histories of a FineTuneJob: whatever workers, kubelets, users, the quota and kills of the operator do, in any
order, these hold.

- Never two train pods that may run.
- A user's retries are spent by errors of the job only, and no attempt is counted twice.
- What ended a job stays so as long as nobody changes its spec.
- A pass after which nothing happened writes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api.names import ANNOTATION_QUOTA
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import PODS
from tests.operator.reconcilers.job_world import CHECKPOINT, REPORT, JobWorld
from tests.operator.reconcilers.world import NAMESPACE

STOP = '{"stop": {"for_id": "team-b/chat-0", "asked_s": 1, "deadline_s": 100}}'
WRITES = ["apply", "apply_status", "delete"]
KINDS = ["Pod", "FineTuneJob", "LLMModel", "PersistentVolumeClaim", "ConfigMap"]


@dataclass
class Tale:
    """One history, and what really happened to the attempts."""

    world: JobWorld = field(default_factory=lambda: JobWorld(retries={"user": 1, "infrastructure": 3}))
    errors_of_job: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)

    async def step(self) -> None:
        await self.world.step()
        self.check()

    def check(self) -> None:
        running = [pod for pod in self.unfinished() if "-train-" in pod]
        assert len(running) <= 1, running
        self.uids |= {self.world.pod(name)["metadata"]["uid"] for name in self.world.job_pods()}
        attempts = self.world.status_now().get("attempts", {})
        assert attempts.get("user", 0) <= len(self.errors_of_job)
        assert sum(attempts.values()) <= len(self.uids), "an attempt was counted twice"

    def unfinished(self) -> list[str]:
        return [name for name in self.world.job_pods() if self.phase(name) not in {"Succeeded", "Failed"}]

    def phase(self, name: str) -> str:
        return str(self.world.pod(name).get("status", {}).get("phase", ""))

    def any_pod(self, *, deleted: bool | None = None) -> str:
        found = (
            name
            for name in self.unfinished()
            if deleted is None or ("deletionTimestamp" in self.world.pod(name)["metadata"]) is deleted
        )
        return next(found, "")

    async def act(self, action: tuple[str, Any]) -> None:
        name, value = action
        pod = self.any_pod(deleted=True if name == "end" else None)
        if name == "suspend":
            self.world.change(suspend=value)
        elif name == "wait":
            self.world.pass_time(value)
        elif name == "cut":
            await self.cut(*value)
        elif pod:
            await self.happen(pod, name, value)

    async def happen(self, pod: str, name: str, value: Any) -> None:
        """Something happens to a pod."""
        if name == "run":
            self.world.run_pod(pod)
        elif name == "succeed":
            self.succeed(pod)
        elif name == "fail":
            self.errors_of_job.add(pod)
            self.world.end_pod(pod, code=1, reason=value, message="it broke", lastCheckpoint=CHECKPOINT)
        elif name == "kill":
            self.world.end_pod(pod, code=137)
        elif name == "preempt" and "-train-" in pod:
            await self.world.kube.patch_metadata(PODS, pod, NAMESPACE, annotations={ANNOTATION_QUOTA: STOP})
        elif name in {"vanish", "end"}:
            self.world.kube.finish_deletion(PODS, pod, NAMESPACE)

    def succeed(self, pod: str) -> None:
        if "-prepare-" in pod:
            self.world.end_pod(pod, outcome="prepared", report=REPORT)
        else:
            self.world.complete(int(pod.rpartition("-")[2]))

    async def cut(self, verb: str, kind: str) -> None:
        """The operator is killed in the middle of a pass."""
        self.world.kube.fail_next(verb, kind, Unavailable("killed"))
        with contextlib.suppress(Unavailable):
            await self.world.step()
        self.world.kube._failures.clear()


OTHERS = st.one_of(
    st.sampled_from([(name, None) for name in ("run", "kill", "vanish", "preempt", "end")]),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 400])),
    st.tuples(st.just("cut"), st.tuples(st.sampled_from(WRITES), st.sampled_from(KINDS))),
)
"""What is nobody's fault."""
ACTIONS = st.one_of(
    OTHERS,
    st.just(("succeed", None)),
    st.tuples(st.just("fail"), st.sampled_from(["LossNotFinite", "TrainingFailed", "DiskFull", "CheckpointMismatch"])),
)


async def tell(actions: list[tuple[str, Any]]) -> None:
    tale = Tale()
    for action in actions:
        before = tale.world.status_now()
        await tale.act(action)
        await tale.step()
        is_over = before.get("phase") in {"Succeeded", "Failed"}
        if is_over and action[0] != "suspend":
            assert tale.world.status_now()["phase"] == before["phase"], action
    for _ in range(4):
        await tale.step()
    tale.world.kube.forget_writes()
    await tale.step()
    assert tale.world.kube.changes == []


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, min_size=5, max_size=40))
def test_no_history_breaks_a_job(actions: list[tuple[str, Any]]) -> None:
    asyncio.run(tell(actions))


@settings(max_examples=60, deadline=None)
@given(st.lists(OTHERS, min_size=10, max_size=60))
def test_without_an_error_of_the_job_no_retry_of_the_user_is_spent(actions: list[tuple[str, Any]]) -> None:
    async def check() -> None:
        tale = Tale()
        for action in [("run", None), ("succeed", None), *actions]:
            await tale.act(action)
            await tale.step()
        assert tale.world.status_now()["attempts"]["user"] == 0

    asyncio.run(check())
