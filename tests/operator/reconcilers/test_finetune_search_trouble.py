"""A search in trouble: trials are lost, fail, are refused or cannot fit, and the others go on."""

from __future__ import annotations

from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import PERSISTENT_VOLUME_CLAIMS, PODS
from tests.operator.reconcilers.job_world import REPORT
from tests.operator.reconcilers.quota_world import CLASS, accelerator
from tests.operator.reconcilers.search_world import SearchWorld
from tests.operator.reconcilers.world import NAMESPACE


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
    await world.begin_two()
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
    await world.begin_two()
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
