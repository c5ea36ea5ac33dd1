"""A world with a FineTuneJob that searches, and what becomes of its trials."""

from __future__ import annotations

from typing import Any

from llmos.api.names import LABEL_TRIAL
from llmos_operator.kube.resources import PODS
from llmos_operator.manifests.finetune_trials import read_trial_values
from tests.operator.reconcilers.job_world import METRIC, JobWorld
from tests.operator.reconcilers.world import NAMESPACE

RATE = {"name": "learningRate", "min": 1e-5, "max": 1e-2, "log": True}
CHECKPOINT = {"everySteps": 10, "onPreempt": {"deadlineSeconds": 10}}
RESERVE_S = 20


class SearchWorld(JobWorld):
    """A job that searches, with its dataset prepared."""

    def __init__(self, *, retries: dict[str, int] | None = None, **search: Any) -> None:
        asked = {"algorithm": "random", "maxTrials": 4, "parallelism": 2, "parameters": [RATE], **search}
        evaluate = {"everySteps": 10, "gates": [{"metric": "eval_loss", "maxRelativeToBase": 0.9}]}
        more: dict[str, Any] = {"retries": retries} if retries else {}
        self.search = asked
        super().__init__(search=asked, evaluate=evaluate, checkpoint=CHECKPOINT, **more)

    async def begin(self, passes: int = 3) -> dict[str, Any]:
        await self.prepare()
        return await self.go(passes)

    async def begin_two(self) -> None:
        """Begin, and have the pods of the first two trials run."""
        await self.begin()
        for number in (1, 2):
            self.run_pod(f"tune-train-{number}-1")
        await self.step()

    def trial(self, number: int) -> dict[str, Any]:
        return next(dict(each) for each in self.status_now()["trials"] if each["number"] == number)

    def values(self, number: int) -> dict[str, float]:
        """What a trial is to train with, as its status has it."""
        return {each["name"]: each["value"] for each in self.trial(number)["parameters"]}

    def told_to(self, name: str) -> dict[str, float]:
        """The same as its pod has it."""
        return read_trial_values(self.pod(name))

    def states(self) -> list[str]:
        return [trial["state"] for trial in self.status_now()["trials"]]

    def trial_pods(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods() if LABEL_TRIAL in pod["metadata"].get("labels", {})]

    def _set(self, name: str, phase: str, state: dict[str, Any]) -> None:
        """As of any pod, and it began when it began."""
        began = self.pod(name).get("status", {}).get("startTime")
        super()._set(name, phase, state)
        if began:
            self.kube.set_status(PODS, name, NAMESPACE, startTime=began)

    def finish(self, place: str, loss: float) -> None:
        """A trial's attempt, for example `2-1`, comes to a result."""
        self.end_pod(
            f"tune-train-{place}",
            outcome="complete",
            evaluation={"metrics": [{**METRIC, "result": loss}]},
            output={"digest": f"sha256:{place}", "kind": "adapter"},
            progress={"step": 100, "totalSteps": 100},
        )

    async def tidy(self) -> dict[str, Any]:
        """The files of the other trials are removed, and what waited for that is done."""
        self.kube.set_status(PODS, "tune-tidy", NAMESPACE, phase="Succeeded")
        return await self.go()

    def learn(self, place: str, step: int, loss: float) -> None:
        """A trial's attempt tells how far it is."""
        self.tell(f"tune-train-{place}", progress={"step": step, "totalSteps": 100, "evalLoss": loss})


async def run_trials(world: SearchWorld, count: int) -> None:
    """Trials one after another; the lower their rate, the better."""
    for number in range(1, count + 1):
        world.run_pod(f"tune-train-{number}-1")
        world.finish(f"{number}-1", 1.0 + world.values(number)["learningRate"])
        await world.go()
