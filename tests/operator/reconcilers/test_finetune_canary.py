"""The result of a job takes the place of another adapter: told as sequences, and as histories."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.api.names import ANNOTATION_JUDGED_BY
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import FINE_TUNE_JOBS, INFERENCE_POOLS, LLM_MODELS
from tests.operator.reconcilers.canary_world import RESULT, TARGET, CanaryWorld
from tests.operator.reconcilers.job_world import METRIC
from tests.operator.reconcilers.world import NAMESPACE

HALF_AN_HOUR_S = 1800
SHARE = {"pool": "chat", "name": "support"}


async def begin(**options: Any) -> CanaryWorld:
    """A canary that a replica serves."""
    world = CanaryWorld(**options)
    await world.register()
    await world.go_on()
    return world


async def test_a_result_begins_with_its_share_and_takes_all_after_its_time() -> None:
    world = CanaryWorld()
    status = await world.register()
    assert (status["phase"], world.ready()) == ("Canary", ("False", "CanaryRunning"))
    assert (world.canary["state"], world.canary["incumbent"]["name"]) == ("Waiting", "support")
    assert world.adapter["replaces"] == [{**SHARE, "weight": 10}]
    assert "completionTime" not in status
    await world.go_on()
    assert world.canary["state"] == "Running"
    world.ask((60, 0), (500, 0))
    await world.go_on(HALF_AN_HOUR_S - 10)
    assert (world.canary["state"], world.canary["result"]["requests"]) == ("Running", 60)
    assert world.condition("Promoted") == ("Unknown", "CanaryRunning")
    await world.go_on(10)
    assert (world.canary["state"], world.adapter["replaces"][0]["weight"]) == ("Promoting", 10)
    status = await world.go_on()
    assert (status["phase"], world.ready()) == ("Succeeded", ("True", "Promoted"))
    assert world.adapter == {
        "baseModelRef": {"name": "smollm2"},
        "attachTo": ["chat"],
        "replaces": [{**SHARE, "weight": 100}],
    }
    assert status["completionTime"]
    reasons = [event["reason"] for event in world.kube.events]
    assert reasons == ["Starting", "Training", "CanaryRunning", "Promoted"]
    assert not world.context.canaries.is_needed()


async def test_one_that_fails_is_rolled_back_at_once_in_two_steps() -> None:
    world = await begin()
    world.ask((20, 12), (180, 1))
    await world.go_on()
    assert (world.canary["state"], world.adapter["replaces"][0]["weight"]) == ("RollingBack", 10)
    assert world.ready() == ("False", "CanaryRegressed")
    await world.go_on()
    assert (world.canary["state"], world.adapter["replaces"][0]["weight"]) == ("RollingBack", 0)
    assert world.adapter["attachTo"] == ["chat"]
    status = await world.go_on()
    assert (status["phase"], world.canary["state"]) == ("Failed", "RolledBack")
    assert (world.adapter["attachTo"], world.adapter["replaces"]) == ([], [])
    assert world.condition("Promoted") == ("False", "CanaryRegressed")
    told = next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    assert "12 of 20" in told
    assert "make a new FineTuneJob" in told
    event = world.kube.events[-1]
    assert (event["reason"], event["type"]) == ("CanaryRegressed", "Warning")
    assert world.condition("Registered") == ("True", "Registered")


async def test_one_that_is_slow_is_rolled_back() -> None:
    world = await begin()
    world.ask((60, 0), (500, 0), ttft_s=0.9)
    await world.go_on()
    assert world.canary["state"] == "RollingBack"
    assert "TTFT" in world.canary["message"]
    assert (world.canary["result"]["ttftMilliseconds"], world.canary["incumbent"]["ttftMilliseconds"]) == (900, 100)


async def test_a_flaky_incumbent_does_not_make_it_fail() -> None:
    world = await begin()
    world.ask((100, 30), (900, 290))
    await world.go_on(HALF_AN_HOUR_S)
    assert world.canary["state"] == "Promoting"


async def test_an_origin_that_its_owner_took_away_does_not_come_back() -> None:
    world = await begin()
    model = world.output(RESULT)
    assert set(model["spec"]["origin"]) == {"job", "baseDigest", "datasetDigest"}
    world.kube.put({**model, "spec": {**model["spec"], "origin": {"job": "tune", "datasetDigest": "sha256:d"}}})
    world.ask((60, 0), (500, 0))
    await world.go_on(HALF_AN_HOUR_S)
    await world.go_on()
    assert world.adapter["replaces"] == [{**SHARE, "weight": 100}]
    assert world.output(RESULT)["spec"]["origin"] == {"job": "tune", "datasetDigest": "sha256:d"}


async def test_too_few_requests_promote_nothing_and_say_so() -> None:
    world = await begin()
    world.ask((12, 0), (100, 0))
    await world.go_on(HALF_AN_HOUR_S)
    assert world.ready() == ("False", "CanaryUndecided")
    assert "12 requests of the result" in world.canary["message"]
    assert world.kube.events[-1]["reason"] == "CanaryUndecided"
    world.ask((50, 0), (400, 0))
    await world.go_on()
    assert world.canary["state"] == "Promoting"


@pytest.mark.parametrize("incumbents", [(), ("other",)])
async def test_with_nothing_to_replace_it_is_attached_at_once(incumbents: tuple[str, ...]) -> None:
    world = CanaryWorld(incumbents=incumbents)
    status = await world.register()
    assert (status["phase"], world.ready()) == ("Succeeded", ("True", "Promoted"))
    assert world.adapter["replaces"] == [{**SHARE, "weight": 100}]
    assert "no adapter support" in world.canary["message"]


async def test_a_pool_of_which_nothing_is_known_yet_has_not_nothing_to_replace() -> None:
    world = CanaryWorld()
    chat = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    await world.prepare()
    await world.train()
    world.complete()
    await world.go()
    assert (world.canary["state"], world.adapter["replaces"]) == ("Waiting", [{**SHARE, "weight": 10}])
    assert "status of InferencePool chat" in world.canary["message"]
    world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.step()
    assert "no InferencePool chat" in world.canary["message"]
    world.kube.put({**chat, "spec": {**chat["spec"], "adapters": None}})
    world.kube.set_status(INFERENCE_POOLS, "chat", NAMESPACE, observedGeneration=1)
    await world.step()
    assert "spec.adapters" in world.canary["message"]
    world.kube.put(chat)
    world.serve()
    await world.go_on()
    assert (world.canary["state"], world.canary["incumbent"]["name"]) == ("Waiting", "support")
    await world.go_on()
    assert world.canary["state"] == "Running"


async def test_an_operator_that_is_killed_while_it_registers_is_followed_by_one_that_goes_on() -> None:
    world = CanaryWorld()
    world.serve()
    await world.prepare()
    await world.train()
    world.complete()
    world.kube.fail_next("apply", "LLMModel", Unavailable("killed"))
    with contextlib.suppress(Unavailable):
        await world.go()
    assert world.adapter == {"baseModelRef": {"name": "smollm2"}}
    await world.go()
    assert (world.adapter["attachTo"], world.adapter["replaces"]) == (["chat"], [{**SHARE, "weight": 10}])
    assert world.canary["state"] == "Waiting"


async def test_it_waits_for_a_replica_and_says_what_the_pool_says() -> None:
    world = CanaryWorld()
    world.is_served = False
    await world.register()
    await world.go_on(2 * HALF_AN_HOUR_S)
    assert (world.canary["state"], "since" in world.canary) == ("Waiting", False)
    world.kube.finish_deletion(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.go_on()
    assert "no InferencePool chat" in world.canary["message"]


async def test_one_that_no_ready_replica_holds_is_rolled_back_after_its_time_and_sleep_does_not_count() -> None:
    world = CanaryWorld()
    world.is_served = False
    await world.register()
    await world.go_on(2 * HALF_AN_HOUR_S)
    assert "waitingSince" not in world.canary
    world.ready_replicas = 2
    await world.go_on()
    await world.go_on(HALF_AN_HOUR_S - 5)
    assert world.canary["state"] == "Waiting"
    for _ in range(3):
        await world.go_on()
    assert (world.canary["state"], world.canary["weight"]) == ("RolledBack", 0)
    assert "No replica held it for 30 minutes" in world.canary["message"]
    assert world.ready() == ("False", "CanaryRegressed")


async def test_one_that_is_held_in_time_is_not_taken_for_lost() -> None:
    world = CanaryWorld()
    world.is_served, world.ready_replicas = False, 1
    await world.register()
    await world.go_on(HALF_AN_HOUR_S - 60)
    world.is_served = True
    await world.go_on()
    world.is_served = False
    await world.go_on(120)
    assert world.canary["state"] == "Running"


@pytest.mark.parametrize("ends_first", [False, True], ids=["the operator sees it go", "it was away"])
async def test_a_job_that_is_deleted_before_it_decided_takes_the_share_back(ends_first: bool) -> None:
    world = await begin()
    assert world.output(RESULT)["metadata"]["annotations"] == {ANNOTATION_JUDGED_BY: "tune"}
    if ends_first:
        world.context.canaries.clear()
    world.kube.finish_deletion(FINE_TUNE_JOBS, "tune", NAMESPACE)
    await world.reconcile("FineTuneJob", "tune")
    assert world.adapter["replaces"] == [{**SHARE, "weight": 0}]
    assert world.adapter["attachTo"] == ["chat"]
    assert not world.output(RESULT)["metadata"].get("annotations")
    world.kube.forget_writes()
    await world.reconcile("FineTuneJob", "tune")
    assert world.kube.changes == []


async def test_what_a_job_had_decided_stays_when_it_is_deleted() -> None:
    world = await begin()
    world.ask((60, 0), (500, 0))
    await world.go_on(HALF_AN_HOUR_S)
    await world.go_on()
    assert world.canary["state"] == "Promoted"
    assert not world.output(RESULT)["metadata"].get("annotations")
    world.kube.finish_deletion(FINE_TUNE_JOBS, "tune", NAMESPACE)
    await world.reconcile("FineTuneJob", "tune")
    assert world.adapter["replaces"] == [{**SHARE, "weight": 100}]


async def test_a_person_promotes_by_weight_100_and_detaches_by_removing_the_entry() -> None:
    world = await begin()
    world.change(output={"name": RESULT, "attachTo": [{**TARGET, "weight": 100}]})
    await world.go_on()
    await world.go_on()
    assert world.status_now()["phase"] == "Succeeded"
    assert not world.output(RESULT)["metadata"].get("annotations"), "from then on it is its owner's"
    world = await begin()
    world.change(output={"name": RESULT, "attachTo": []})
    status = await world.go_on()
    assert (status["phase"], status["canaries"], world.ready()) == ("Succeeded", [], ("True", "Registered"))
    assert (world.adapter["attachTo"], world.adapter["replaces"]) == ([], [])


async def test_another_share_begins_anew() -> None:
    world = await begin()
    world.ask((60, 0), (500, 0))
    await world.go_on(HALF_AN_HOUR_S - 60)
    world.change(output={"name": RESULT, "attachTo": [{**TARGET, "weight": 30}]})
    await world.go_on()
    await world.go_on(60)
    assert world.adapter["replaces"][0]["weight"] == 30
    assert (world.canary["state"], world.canary["result"]["requests"]) == ("Running", 0)


async def test_a_gate_that_is_made_stricter_rolls_it_back() -> None:
    world = await begin()
    world.change(evaluate={"gates": [{"metric": METRIC["name"], "max": 0.1}]})
    await world.go_on()
    assert world.canary["state"] == "RollingBack"
    assert "A gate does not hold any more" in world.canary["message"]


async def test_models_that_are_deleted_meanwhile_decide_it() -> None:
    world = await begin()
    world.kube.finish_deletion(LLM_MODELS, "support", NAMESPACE)
    await world.go_on()
    assert world.canary["state"] == "Promoting"
    world = await begin()
    world.kube.finish_deletion(LLM_MODELS, RESULT, NAMESPACE)
    await world.go_on()
    assert (world.canary["state"], world.status_now()["phase"]) == ("RolledBack", "Failed")
    assert RESULT not in world.models()


async def test_what_was_decided_is_never_written_again() -> None:
    world = await begin()
    world.ask((60, 0), (500, 0))
    for seconds in (HALF_AN_HOUR_S, 5, 5):
        await world.go_on(seconds)
    model = world.output(RESULT)
    world.kube.put({**model, "spec": {**model["spec"], "adapter": {**model["spec"]["adapter"], "replaces": []}}})
    await world.go_on()
    assert world.adapter["replaces"] == []
    assert world.canary["state"] == "Promoted"


async def test_a_restarted_gateway_or_operator_loses_time_and_never_the_verdict() -> None:
    world = await begin()
    world.ask((30, 0), (250, 0))
    world.boot, world.counts = "second", [[0, 0], [0, 0]]
    world.ask((30, 0), (250, 0))
    await world.go_on()
    assert world.canary["result"]["requests"] == 60
    world.context.canaries.clear()
    await world.go_on(HALF_AN_HOUR_S)
    assert world.ready() == ("False", "CanaryUndecided")
    world.ask()
    await world.go_on()
    assert (world.canary["state"], world.canary["result"]["requests"]) == ("Running", 30)


TRAFFIC = st.tuples(st.integers(0, 40), st.integers(0, 200))
ACTIONS = st.one_of(
    st.tuples(st.just("good"), TRAFFIC),
    st.tuples(st.just("bad"), TRAFFIC),
    st.tuples(st.just("wait"), st.sampled_from([5, 600, 1800])),
    st.tuples(
        st.just("cut"), st.sampled_from([("apply", "LLMModel"), ("apply_status", "FineTuneJob"), ("apply", "Pod")])
    ),
    st.tuples(st.sampled_from(["forget", "silent", "served"]), st.none()),
)


async def act(world: CanaryWorld, name: str, value: Any) -> None:
    if name in {"good", "bad"}:
        failed = value[0] if name == "bad" else 0
        world.ask((value[0], failed), (value[1], 0))
    elif name == "wait":
        world.pass_time(value)
    elif name == "cut":
        world.kube.fail_next(value[0], value[1], Unavailable("killed"))
        with contextlib.suppress(Unavailable):
            await world.go_on()
        world.kube._failures.clear()
    elif name == "forget":
        world.context.canaries.clear()
    else:
        world.is_served = name == "served"


@settings(max_examples=120, deadline=None)
@given(st.lists(ACTIONS, min_size=3, max_size=30))
def test_no_history_promotes_or_rolls_back_without_grounds(actions: list[tuple[str, Any]]) -> None:
    async def check() -> None:
        world = await begin()
        was_bad, has_waited, before = False, 0, world.canary["state"]
        for name, value in actions:
            was_bad |= name == "bad" and value[0] > 0
            has_waited += value + 5 if name == "wait" else 5
            await act(world, name, value)
            await world.go_on()
            state, weight = world.canary["state"], sum(each["weight"] for each in world.adapter["replaces"])
            assert weight in {0, 10, 100}
            assert (weight == 100) <= (state == "Promoted")
            assert (state in {"RollingBack", "RolledBack"}) <= was_bad
            assert (state in {"Promoting", "Promoted"}) <= (has_waited >= HALF_AN_HOUR_S - 60)
            if before in {"Promoted", "RolledBack"}:
                assert state == before
            before = state
        for _ in range(3):
            await world.go_on()
        world.kube.forget_writes()
        await world.go_on(0)
        assert world.kube.changes == [] or world.canary["state"] not in {"Promoted", "RolledBack"}

    asyncio.run(check())
