"""A search: trials begin, are stopped, are lost, go on and win; told as sequences."""

from __future__ import annotations

import json
from typing import Any

from llmos.api.names import LABEL_TRIAL
from llmos.api.search import Search, propose_parameters
from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import FINE_TUNE_JOBS, PERSISTENT_VOLUME_CLAIMS, PODS
from llmos_operator.manifests.finetune_trials import read_trial_values
from tests.operator.reconcilers.job_world import METRIC, REPORT, JobWorld
from tests.operator.reconcilers.quota_world import CLASS, accelerator
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


async def test_two_at_a_time_with_values_of_their_own_and_the_best_is_registered() -> None:
    world = SearchWorld()
    status = await world.begin()
    assert world.trial_pods() == ["tune-train-1-1", "tune-train-2-1"]
    assert (status["phase"], world.ready()) == ("Training", ("False", "Training"))
    for number in (1, 2):
        pod = world.pod(f"tune-train-{number}-1")
        search = Search.model_validate({"parameters": [RATE]})
        values = world.values(number)
        assert values == propose_parameters(search, number)
        told = ["--trial", str(number), "--parameters", json.dumps(values)]
        assert pod["spec"]["containers"][0]["command"][-4:] == told
        world.run_pod(f"tune-train-{number}-1")
    await world.step()
    world.finish("2-1", 1.2)
    await world.go()
    assert world.states() == ["Training", "Complete", "Training"]
    assert world.trial_pods() == ["tune-train-1-1", "tune-train-3-1"]
    assert (world.status_now()["bestTrial"], world.status_now()["evaluation"]["metrics"][0]["result"]) == (2, 1.2)
    assert "output" not in world.status_now()
    for place, loss in (("1-1", 1.5), ("3-1", 1.1)):
        world.run_pod(f"tune-train-{place}")
        world.finish(place, loss)
        await world.go()
    world.finish("4-1", 1.3)
    await world.go(5)
    status = await world.tidy()
    assert (status["phase"], status["bestTrial"], world.ready()) == ("Succeeded", 3, ("True", "Registered"))
    assert status["output"]["digest"] == "sha256:3-1"
    assert status["output"]["uri"] == "pvc://tune-work/trials/3/output"
    assert world.output()["spec"]["source"]["uri"] == "pvc://tune-work/trials/3/output"
    assert status["evaluation"]["metrics"][0]["result"] == 1.1
    assert world.job_pods() == []
    world.kube.forget_writes()
    await world.go()
    assert world.kube.changes == []


async def run_trials(world: SearchWorld, count: int) -> None:
    """Trials one after another; the lower their rate, the better."""
    for number in range(1, count + 1):
        world.run_pod(f"tune-train-{number}-1")
        world.finish(f"{number}-1", 1.0 + world.values(number)["learningRate"])
        await world.go()


async def test_what_tpe_proposes_is_written_down_before_its_pod_and_never_proposed_again() -> None:
    world = SearchWorld(algorithm="tpe", maxTrials=8, parallelism=1)
    await world.begin()
    await run_trials(world, 5)
    search = Search.model_validate({**world.search})
    assert [world.values(number) == propose_parameters(search, number) for number in range(1, 7)] == [True] * 4 + [
        False,
        False,
    ]
    proposed = world.values(6)
    assert world.told_to("tune-train-6-1") == proposed
    # Another history would lead to another proposal; that of a trial that has begun stays, whatever becomes of its pod.
    job = world.kube.stored(FINE_TUNE_JOBS, NAMESPACE, "tune")
    for trial in job["status"]["trials"][:5]:
        trial["evalLoss"] = 9 - trial["evalLoss"]
    world.kube.put(job)
    world.kube.finish_deletion(PODS, "tune-train-6-1", NAMESPACE)
    await world.go()
    world.pass_time(400)
    await world.go()
    assert (world.values(6), world.told_to("tune-train-6-2")) == (proposed, proposed)
    # The claim is lost, and with it all results: those values are trained with again.
    before = [world.values(number) for number in range(1, 7)]
    world.kube.finish_deletion(PODS, "tune-train-6-2", NAMESPACE)
    world.kube.finish_deletion(PERSISTENT_VOLUME_CLAIMS, "tune-work", NAMESPACE)
    await world.go()
    assert [world.values(number) for number in range(1, 7)] == before


async def test_a_trial_that_the_status_lost_keeps_the_values_of_its_pod() -> None:
    world = SearchWorld(algorithm="tpe", maxTrials=8, parallelism=1)
    await world.begin()
    await run_trials(world, 5)
    told = world.told_to("tune-train-6-1")
    job = world.kube.stored(FINE_TUNE_JOBS, NAMESPACE, "tune")
    job["status"]["trials"] = [{**trial, "evalLoss": 3.0} for trial in job["status"]["trials"][:5]]
    world.kube.put(job)
    await world.go()
    assert world.values(6) == told


async def test_gates_are_those_of_the_best_trial() -> None:
    world = SearchWorld(maxTrials=1, parallelism=1)
    await world.begin()
    world.run_pod("tune-train-1-1")
    world.finish("1-1", 1.99)
    status = await world.go(5)
    assert (status["phase"], world.ready()) == ("Failed", ("False", "GateFailed"))
    assert "support" not in world.models()


async def test_asha_stops_what_is_behind_at_a_rung_and_nothing_that_leads() -> None:
    world = SearchWorld(algorithm="asha", maxTrials=3, parallelism=3, reductionFactor=2)
    await world.begin()
    for number, loss in ((1, 2.0), (2, 1.0), (3, 3.0)):
        world.run_pod(f"tune-train-{number}-1")
        world.learn(f"{number}-1", 11, loss)
    await world.step()
    await world.step()
    assert world.states() == ["Training", "Training", "Stopped"]
    assert "Behind at rung 0" in world.trial(3)["message"]
    assert "deletionTimestamp" in world.pod("tune-train-3-1")["metadata"]
    world.pass_time(5)
    world.learn("1-1", 25, 1.9)
    world.learn("2-1", 25, 0.9)
    await world.step()
    # Both reach the next rung: the first one alone is the best of it, the second is better.
    assert world.trial(1)["rungs"] == [2.0, 1.9]
    world.kube.finish_deletion(PODS, "tune-train-3-1", NAMESPACE)
    await world.go()
    assert world.states() == ["Training", "Training", "Stopped"]
    assert "tune-train-3-2" not in world.trial_pods()


async def test_a_lost_trial_goes_on_and_its_lost_time_counts() -> None:
    world = SearchWorld(maxTrials=1, parallelism=1, budgetAcceleratorHours=1)
    await world.begin()
    world.run_pod("tune-train-1-1")
    world.pass_time(100)
    await world.step()
    assert world.trial(1)["acceleratorSeconds"] == 100
    world.kube.finish_deletion(PODS, "tune-train-1-1", NAMESPACE)
    await world.go()
    assert world.trial(1)["attempts"]["infrastructure"] == 1
    world.pass_time(400)
    await world.go()
    assert world.trial_pods() == ["tune-train-1-2"]
    world.run_pod("tune-train-1-2")
    world.pass_time(50)
    await world.step()
    assert world.trial(1)["acceleratorSeconds"] == 150
    assert world.status_now()["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0}


async def test_a_trial_that_fails_is_not_the_end_of_the_others() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await world.begin()
    world.run_pod("tune-train-1-1")
    world.end_pod("tune-train-1-1", code=1, reason="LossNotFinite", message="it broke")
    await world.go(4)
    assert world.states()[0] == "Failed"
    assert world.trial(1)["reason"] == "LossNotFinite"
    world.run_pod("tune-train-2-1")
    world.finish("2-1", 1.0)
    status = await world.go(5)
    status = await world.tidy()
    assert (status["phase"], status["bestTrial"]) == ("Succeeded", 2)


async def test_without_any_result_it_says_so_and_goes_on_when_there_may_be_more_trials() -> None:
    world = SearchWorld(maxTrials=1, parallelism=1)
    await world.begin()
    world.run_pod("tune-train-1-1")
    world.end_pod("tune-train-1-1", code=1, reason="LossNotFinite", message="it broke")
    status = await world.go(4)
    assert (status["phase"], world.ready()) == ("Failed", ("False", "NoTrialSucceeded"))
    assert world.condition("Trained") == ("False", "NoTrialSucceeded")
    search = {**world.search, "maxTrials": 2}
    world.change(search=search)
    await world.go()
    assert world.trial_pods() == ["tune-train-1-1", "tune-train-2-1"]


async def test_the_budget_ends_a_search_with_the_best_so_far() -> None:
    world = SearchWorld(budgetAcceleratorHours=200 / 3600)
    await world.begin()
    for number in (1, 2):
        world.run_pod(f"tune-train-{number}-1")
    world.pass_time(60)
    world.finish("1-1", 1.2)
    await world.go()
    assert world.states() == ["Complete", "Training", "Training"]
    world.run_pod("tune-train-3-1")
    world.pass_time(25)
    await world.step()
    assert world.states() == ["Complete", "Suspended", "Suspended"]
    for place in ("2-1", "3-1"):
        world.kube.finish_deletion(PODS, f"tune-train-{place}", NAMESPACE)
    status = await world.go(6)
    status = await world.tidy()
    assert (status["phase"], status["bestTrial"]) == ("Succeeded", 1)
    assert sum(trial["acceleratorSeconds"] for trial in status["trials"]) <= 200
    assert len(status["trials"]) == 3


async def test_a_budget_that_is_too_small_for_any_trial_is_told() -> None:
    world = SearchWorld(budgetAcceleratorHours=0.001)
    status = await world.begin(4)
    assert (status["phase"], world.ready()) == ("Failed", ("False", "NoTrialSucceeded"))
    world.change(search={**world.search, "budgetAcceleratorHours": 1})
    await world.go(4)
    assert world.trial_pods() == ["tune-train-1-1", "tune-train-2-1"]


async def test_suspension_suspends_all_and_resumes_all() -> None:
    world = SearchWorld()
    await world.begin()
    for number in (1, 2):
        world.run_pod(f"tune-train-{number}-1")
    await world.step()
    world.change(suspend=True)
    status = await world.step()
    assert (status["phase"], world.states()) == ("Suspended", ["Suspended", "Suspended"])
    for number in (1, 2):
        world.kube.finish_deletion(PODS, f"tune-train-{number}-1", NAMESPACE)
    await world.go()
    world.change(suspend=False)
    await world.go()
    assert world.trial_pods() == ["tune-train-1-2", "tune-train-2-2"]
    assert world.trial(1)["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}


async def test_values_that_are_none_are_refused_before_any_pod() -> None:
    world = SearchWorld(parameters=[{"name": "learningRate", "min": 0.5, "max": 9}])
    status = await world.begin()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "InvalidSpec"))
    assert world.trial_pods() == []


async def test_a_refused_pod_is_told_and_no_attempt_is_counted() -> None:
    world = SearchWorld(maxTrials=1, parallelism=1)
    await world.begin()
    world.kube.finish_deletion(PODS, "tune-train-1-1", NAMESPACE)
    await world.go()
    world.pass_time(400)
    world.kube.fail_next("apply", "Pod", Forbidden("no pods here"))
    await world.step()
    assert world.ready() == ("False", "ForbiddenByPolicy")
    await world.go()
    assert world.trial_pods() == ["tune-train-1-2"]
    assert world.trial(1)["attempts"]["infrastructure"] == 1


async def test_a_lost_claim_loses_results_and_not_what_was_spent() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1)
    await world.begin()
    world.run_pod("tune-train-1-1")
    world.pass_time(100)
    world.finish("1-1", 1.2)
    await world.go()
    for name in world.trial_pods():
        world.kube.finish_deletion(PODS, name, NAMESPACE)
    world.kube.finish_deletion(PERSISTENT_VOLUME_CLAIMS, "tune-work", NAMESPACE)
    await world.step()
    assert world.trial(1)["acceleratorSeconds"] == 100
    assert world.trial(1)["state"] == "Pending"


async def test_fewer_trials_than_have_begun_end_the_search_with_those() -> None:
    world = SearchWorld(maxTrials=3, parallelism=3)
    await world.begin()
    world.change(search={**world.search, "maxTrials": 1, "parallelism": 1})
    for number in (1, 2, 3):
        world.run_pod(f"tune-train-{number}-1")
        world.finish(f"{number}-1", 1.0 + number / 10)
    status = await world.go(5)
    status = await world.tidy()
    assert (status["phase"], status.get("bestTrial"), world.ready()) == ("Succeeded", 1, ("True", "Registered"))


async def test_what_a_search_will_not_get_is_told_while_it_goes_on() -> None:
    world = SearchWorld()
    world.change(output={"name": "support", "attachTo": [{"pool": "chat"}]})
    status = await world.begin()
    assert status["phase"] in {"Pending", "Training"}
    assert any("no InferencePool chat" in each for each in status["warnings"])
    world.run_pod("tune-train-1-1")
    world.kube.fail_next("log", "Pod", Forbidden("no logs here"))
    world.pass_time(5)
    status = await world.step()
    assert any("no logs here" in each for each in status["warnings"])


async def test_a_pod_that_never_trained_holds_nothing_after_its_end() -> None:
    world = SearchWorld(maxTrials=1, parallelism=1, budgetAcceleratorHours=1)
    await world.begin()
    world.run_pod("tune-train-1-1")
    world.pass_time(20)
    fetch = {"name": "fetch", "state": {"terminated": {"exitCode": 1, "finishedAt": world.stamp()}}}
    world.kube.set_status(
        PODS,
        "tune-train-1-1",
        NAMESPACE,
        phase="Failed",
        initContainerStatuses=[fetch],
        containerStatuses=[{"name": "train", "state": {"waiting": {"reason": "PodInitializing"}}}],
    )
    await world.step()
    world.pass_time(3000)
    await world.step()
    assert world.trial(1)["acceleratorSeconds"] == 20


async def test_what_was_seen_of_trials_is_noted_though_the_pod_of_another_one_is_refused() -> None:
    world = SearchWorld(maxTrials=2, parallelism=2)
    await world.begin()
    for number in (1, 2):
        world.run_pod(f"tune-train-{number}-1")
    await world.step()
    world.end_pod("tune-train-2-1", code=137)
    await world.step()
    world.pass_time(400)
    world.finish("1-1", 1.2)
    world.kube.fail_next("apply", "Pod", Forbidden("exceeded quota"))
    await world.step()
    assert world.ready() == ("False", "ForbiddenByPolicy")
    assert world.states()[0] == "Complete"
    await world.go()
    assert "tune-train-1-2" not in world.trial_pods(), "what was complete is done again"
    assert world.trial(1)["attempts"]["infrastructure"] == 0
    assert world.trial(2)["attempts"]["infrastructure"] == 1
    assert world.trial_pods() == ["tune-train-2-2"]


async def test_a_failure_before_the_claim_was_lost_counts_once() -> None:
    world = SearchWorld(maxTrials=2, parallelism=1, retries={"user": 2, "infrastructure": 5})
    await world.begin()
    for attempt in (1, 2):
        world.run_pod(f"tune-train-1-{attempt}")
        world.pass_time(10)
        world.end_pod(f"tune-train-1-{attempt}", code=1, reason="LossNotFinite", message="it broke")
        await world.go()
        if attempt == 1:
            world.pass_time(400)
            await world.go()
    assert world.trial_pods() == ["tune-train-1-2"]
    world.kube.finish_deletion(PERSISTENT_VOLUME_CLAIMS, "tune-work", NAMESPACE)
    await world.go()
    world.run_pod("tune-prepare-1")
    await world.step()
    world.end_pod("tune-prepare-1", outcome="prepared", report=REPORT)
    await world.go(4)
    assert world.trial(1)["attempts"] == {"user": 2, "infrastructure": 0, "preemptions": 0}
    assert world.trial(1)["acceleratorSeconds"] == 20
    world.pass_time(400)
    await world.go()
    assert world.trial_pods() == ["tune-train-1-3"]


async def test_a_trial_that_cannot_fit_does_not_keep_the_search_from_its_end() -> None:
    ranks = [{"name": "rank", "values": [512, 8]}]
    world = SearchWorld(algorithm="grid", maxTrials=2, parallelism=1, parameters=ranks)
    small = accelerator()
    world.kube.put({**small, "spec": {**small["spec"], "memory": "4Gi"}})
    world.change(trainer={"accelerator": {"class": CLASS}})
    await world.begin(5)
    assert world.states()[0] == "Failed"
    assert world.trial(1)["reason"] == "DoesNotFit"
    assert world.trial_pods() == ["tune-train-2-1"]
    world.run_pod("tune-train-2-1")
    world.finish("2-1", 1.2)
    status = await world.go(5)
    assert (status["phase"], status["bestTrial"]) == ("Succeeded", 2)


async def test_trials_that_cannot_fit_wait_for_a_class_with_more_memory_and_go_on() -> None:
    ranks = [{"name": "rank", "values": [512, 500]}]
    world = SearchWorld(algorithm="grid", maxTrials=2, parallelism=2, parameters=ranks)
    small = accelerator()
    world.kube.put({**small, "spec": {**small["spec"], "memory": "4Gi"}})
    world.change(trainer={"accelerator": {"class": CLASS}})
    status = await world.begin(5)
    # It has not failed: nobody would look at it any more, and yet it would begin some day.
    assert (status["phase"], world.ready()) == ("Pending", ("False", "DoesNotFit"))
    assert "completionTime" not in status
    assert world.states() == ["Failed", "Failed"]
    world.kube.forget_writes()
    await world.go()
    assert world.kube.changes == []
    world.kube.put(accelerator())
    await world.go()
    assert world.trial_pods() == ["tune-train-1-1", "tune-train-2-1"]


async def test_attempts_of_trials_stand_in_the_history_of_the_job() -> None:
    world = SearchWorld(maxTrials=2, parallelism=2)
    await world.begin()
    for number in (1, 2):
        world.run_pod(f"tune-train-{number}-1")
    await world.step()
    world.pass_time(5)
    world.end_pod("tune-train-2-1", code=137)
    await world.go()
    world.pass_time(5)
    world.end_pod("tune-train-1-1", code=1, reason="LossNotFinite", message="it broke")
    await world.go()
    told = [(each["trial"], each["number"], each["countsAs"], each["reason"]) for each in world.status_now()["history"]]
    assert told == [(2, 1, "infrastructure", "NodeLost"), (1, 1, "user", "LossNotFinite")]
    world.pass_time(400)
    await world.go()
    for attempt in range(2, 14):
        world.run_pod(f"tune-train-2-{attempt}")
        world.end_pod(f"tune-train-2-{attempt}", code=137)
        await world.go()
        world.pass_time(400)
        await world.go()
    history = world.status_now()["history"]
    assert [each["number"] for each in history] == list(range(4, 14))
