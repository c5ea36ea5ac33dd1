"""A search: trials begin, are stopped, go on and win; told as sequences."""

from __future__ import annotations

import json

from llmos.api.search import Search, propose_parameters
from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import FINE_TUNE_JOBS, PERSISTENT_VOLUME_CLAIMS, PODS
from tests.operator.reconcilers.search_world import RATE, SearchWorld, run_trials
from tests.operator.reconcilers.world import NAMESPACE


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
    await world.begin_two()
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
