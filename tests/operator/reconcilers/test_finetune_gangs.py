"""The life of a FineTuneJob on several nodes: its pods are made, counted and ended as one attempt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from llmos.api.names import ANNOTATION_QUOTA, LABEL_GANG_SIZE, LABEL_RANK, LABEL_REPLICA, LABEL_REVISION
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import PODS, SERVICES
from tests.operator.reconcilers.job_gang import LEADER, WORKER, GangWorld
from tests.operator.reconcilers.job_world import CHECKPOINT, REPORT
from tests.operator.reconcilers.world import NAMESPACE

ONCE = {"user": 0, "infrastructure": 1, "preemptions": 0}


async def begin(**spec: Any) -> GangWorld:
    """A job whose first attempt trains."""
    world = GangWorld(**spec)
    await world.prepare()
    await world.train()
    return world


def option(pod: dict[str, Any], name: str) -> str:
    command = pod["spec"]["containers"][0]["command"]
    return str(command[command.index(name) + 1])


async def test_two_pods_find_each_other_train_as_one_and_are_gone_in_the_end() -> None:
    world = GangWorld()
    await world.prepare()
    made = [write.name.rpartition("/")[2] for write in world.kube.writes if "tune-train" in write.name]
    assert made[:3] == ["tune-train", WORKER, LEADER], "the Service first, the leader last"
    assert world.job_pods() == [LEADER, WORKER]
    leader, worker = world.pod(LEADER), world.pod(WORKER)
    for rank, pod in enumerate((leader, worker)):
        labels = pod["metadata"]["labels"]
        assert (labels[LABEL_REPLICA], labels[LABEL_RANK], labels[LABEL_GANG_SIZE]) == (LEADER, str(rank), "2")
        assert (option(pod, "--rank"), option(pod, "--nodes"), option(pod, "--accelerators")) == (str(rank), "2", "2")
    (service,) = world.kube.all(SERVICES)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= leader["metadata"]["labels"].items()
    name = f"{leader['spec']['hostname']}.{leader['spec']['subdomain']}.{NAMESPACE}.svc"
    assert option(worker, "--leader") == name
    await world.train()
    message = next(each["message"] for each in world.status_now()["conditions"] if each["type"] == "Trained")
    assert message == "Attempt 1 runs on 2 nodes."
    world.end_pod(WORKER, outcome="finished")
    assert (await world.go())["phase"] == "Training", "the leader still makes the result"
    world.complete()
    status = await world.go(2)
    assert (status["phase"], world.ready()) == ("Succeeded", ("True", "Registered"))
    assert world.job_pods() == []


async def test_nodes_of_ranks_that_are_done_may_go_while_the_leader_makes_the_result() -> None:
    world = await begin()
    world.end_pod(WORKER, outcome="finished")
    world.kube.logs[NAMESPACE, LEADER, "train", False] = '{"event": "progress", "phase": "evaluating"}\n'
    world.pass_time(5)
    assert (await world.step())["phase"] == "Evaluating"
    world.kube.finish_deletion(PODS, WORKER, NAMESPACE)
    status = await world.go()
    assert (status["phase"], status["attempts"]) == ("Evaluating", {**ONCE, "infrastructure": 0})
    assert (world.job_pods(), world.going()) == ([LEADER], [])
    world.complete()
    assert (await world.go(2))["phase"] == "Succeeded"


async def test_where_the_model_is_sharded_no_rank_may_go_before_the_result_is_made() -> None:
    world = await begin(trainer={"accelerator": {"class": "cpu"}, "nodes": 2, "sharding": "full"})
    assert "--sharded" in world.pod(WORKER)["spec"]["containers"][0]["command"]
    world.kube.logs[NAMESPACE, LEADER, "train", False] = '{"event": "progress", "phase": "evaluating"}\n'
    world.pass_time(5)
    assert (await world.step())["phase"] == "Evaluating"
    world.end_pod(WORKER, code=137)
    status = await world.go()
    assert status["attempts"] == ONCE
    assert world.going() == [LEADER]


def hold(sharding: str) -> dict[str, Any]:
    """How the accelerators of two nodes hold the model."""
    return {"accelerator": {"class": "cpu"}, "nodes": 2, "sharding": sharding}


async def test_sharding_that_is_asked_for_while_the_result_is_made_is_for_the_next_attempt() -> None:
    world = await begin()
    world.end_pod(WORKER, outcome="finished")
    world.kube.logs[NAMESPACE, LEADER, "train", False] = '{"event": "progress", "phase": "evaluating"}\n'
    world.pass_time(5)
    await world.step()
    world.kube.finish_deletion(PODS, WORKER, NAMESPACE)
    world.change(trainer=hold("full"))
    status = await world.go()
    assert (status["phase"], status["attempts"]) == ("Evaluating", {**ONCE, "infrastructure": 0})
    assert (world.job_pods(), world.going()) == ([LEADER], [])
    world.complete()
    assert (await world.go(2))["phase"] == "Succeeded"


async def test_ranks_of_a_sharded_model_stay_needed_though_the_next_attempt_is_to_hold_it_whole() -> None:
    world = await begin(trainer=hold("full"))
    world.kube.logs[NAMESPACE, LEADER, "train", False] = '{"event": "progress", "phase": "evaluating"}\n'
    world.pass_time(5)
    await world.step()
    world.change(trainer=hold("none"))
    world.end_pod(WORKER, code=137)
    status = await world.go()
    assert status["attempts"] == ONCE
    assert world.going() == [LEADER]


@pytest.mark.parametrize(("before", "after"), [("none", "full"), ("full", "none")])
async def test_pods_of_a_gang_hold_the_model_alike_though_the_job_was_edited_before_all_of_them_were_made(
    before: str, after: str
) -> None:
    world = await cut_off(trainer=hold(before))
    world.change(trainer=hold(after))
    await begin_anew(world)
    commands = [world.pod(name)["spec"]["containers"][0]["command"] for name in world.gang(2)]
    assert ["--sharded" in command for command in commands] == [after == "full"] * 2


async def cut_off(made: int = 1, objects: Iterable[dict[str, Any]] = (), **spec: Any) -> GangWorld:
    """A job whose first attempt lacks pods: the operator was killed while it made them."""
    world = GangWorld(*objects, **spec)
    await world.go()
    world.end_pod("tune-prepare-1", outcome="prepared", report=REPORT)
    world.kube.fail_next("apply", "Pod", Unavailable("killed"), after=made)
    with pytest.raises(Unavailable):
        await world.go()
    return world


async def begin_anew(world: GangWorld) -> None:
    """The attempt that was cut off goes, and another one is there, which spends no retries."""
    await world.go()
    world.end_pods()
    status = await world.go()
    assert [name for name in world.job_pods() if "-train-" in name] == world.gang(2)
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0, "moves": 1}
    assert (status["attempt"], status.get("history", [])) == (2, [])


def upgrade(world: GangWorld, image: str) -> None:
    """Another operator goes on, whose pods are of another image."""
    world.context = replace(world.context, settings=replace(world.context.settings, worker_image=image))


@pytest.mark.parametrize("made", [1, 2])
@pytest.mark.parametrize("runs", [False, True])
async def test_a_gang_that_was_begun_by_another_version_of_the_operator_is_begun_anew(made: int, runs: bool) -> None:
    world = await cut_off(made, nodes=3)
    for name in [each for each in world.job_pods() if runs and "-train-" in each]:
        world.run_pod(name)
    upgrade(world, "llmos-worker:next")
    await begin_anew(world)
    images = {world.pod(name)["spec"]["containers"][0]["image"] for name in world.gang(2)}
    assert images == {"llmos-worker:next"}
    await world.train(2)
    world.complete(2)
    assert (await world.go(2))["phase"] == "Succeeded"


async def test_a_gang_of_a_version_that_did_not_say_what_it_was_made_with_is_begun_anew() -> None:
    world = await cut_off()
    pod = world.pod(WORKER)
    assert pod["metadata"]["labels"].pop(LABEL_REVISION)
    world.kube.put(pod)
    await begin_anew(world)


async def test_a_gang_that_is_whole_goes_on_through_an_upgrade() -> None:
    world = await begin()
    upgrade(world, "llmos-worker:next")
    world.kube.forget_writes()
    await world.go()
    assert (world.going(), world.kube.changes) == ([], [])


@pytest.mark.parametrize(("verb", "kind"), [("apply_status", "FineTuneJob"), ("delete", "Pod"), ("apply", "Pod")])
@pytest.mark.parametrize("after", [0, 1])
async def test_an_operator_that_is_killed_while_it_begins_a_gang_anew_is_followed_by_one_that_goes_on(
    verb: str, kind: str, after: int
) -> None:
    world = await cut_off(2, nodes=3)
    upgrade(world, "llmos-worker:next")
    world.kube.fail_next(verb, kind, Unavailable("killed"), after=after)
    for _ in range(4):
        with contextlib.suppress(Unavailable):
            await world.step()
        world.end_pods()
    await begin_anew(world)


async def test_a_second_pass_over_a_gang_writes_nothing() -> None:
    world = await begin()
    world.kube.forget_writes()
    await world.go()
    assert world.kube.changes == []


async def test_one_pod_that_is_killed_ends_the_attempt_once_and_the_next_one_begins_when_all_have_ended() -> None:
    world = await begin()
    world.end_pod(WORKER, code=137)
    status = await world.go()
    assert status["attempts"] == ONCE
    assert world.condition("Trained") == ("False", "NodeLost")
    assert world.going() == [LEADER]
    world.pass_time(20)
    await world.go()
    assert world.job_pods() == [LEADER, WORKER], "the leader still saves its work"
    world.end_pod(LEADER, code=143, outcome="stopped", lastCheckpoint=CHECKPOINT)
    await world.step()
    world.end_pods()
    status = await world.go()
    assert world.job_pods() == world.gang(2)
    assert (status["attempts"], status["attempt"]) == (ONCE, 2)
    assert status["lastCheckpoint"]["step"] == 40


async def test_a_pod_that_is_deleted_by_hand_takes_the_others_along_and_counts_once() -> None:
    world = await begin()
    await world.kube.delete(PODS, WORKER, NAMESPACE)
    await world.go()
    assert world.going() == world.gang()
    world.end_pod(WORKER, code=143, outcome="stopped")
    world.end_pod(LEADER, code=143, outcome="stopped", lastCheckpoint=CHECKPOINT)
    assert (await world.go())["attempts"] == ONCE
    world.end_pods()
    world.pass_time(11)
    assert (await world.go())["attempts"] == ONCE
    assert world.job_pods() == world.gang(2)


async def test_a_pod_that_vanished_ends_the_attempt() -> None:
    world = await begin()
    world.kube.finish_deletion(PODS, WORKER, NAMESPACE)
    status = await world.go()
    assert status["attempts"] == ONCE
    assert WORKER in next(each["message"] for each in status["conditions"] if each["type"] == "Trained")
    assert world.going() == [LEADER]


async def test_what_the_lost_one_says_is_waited_for_and_taken_for_the_cause() -> None:
    world = await begin()
    world.lose_peer(LEADER)
    assert (await world.go())["attempts"]["infrastructure"] == 0
    world.pass_time(3)
    world.end_pod(WORKER, code=137, by="OOMKilled")
    status = await world.go()
    assert status["attempts"] == {"user": 1, "infrastructure": 0, "preemptions": 0}
    assert world.ready() == ("False", "OutOfMemory")
    assert WORKER in next(each["message"] for each in status["conditions"] if each["type"] == "Ready")


async def test_a_node_that_no_longer_answers_is_waited_for_no_longer_than_that() -> None:
    world = await begin()
    world.lose_peer(LEADER)
    await world.step()
    world.pass_time(21)
    assert (await world.go())["attempts"] == ONCE
    assert world.condition("Trained") == ("False", "PeerLost")
    assert world.going() == [WORKER]
    # Its node is gone, so nobody ends it. What it holds is not given away before it must have ended.
    world.pass_time(59)
    await world.go()
    assert world.job_pods() == [LEADER, WORKER]
    world.pass_time(1)
    assert (await world.go())["attempts"] == ONCE
    assert world.job_pods() == world.gang(2)


async def test_the_same_error_of_all_pods_is_one_error_of_the_job() -> None:
    world = await begin(retries={"user": 1})
    for name in world.gang():
        world.end_pod(name, code=1, reason="LossNotFinite", message="The loss is nan.", lastCheckpoint=CHECKPOINT)
        await world.step()
    status = await world.go()
    assert status["attempts"] == {"user": 1, "infrastructure": 0, "preemptions": 0}
    world.end_pods()
    world.pass_time(11)
    await world.go()
    assert world.job_pods() == world.gang(2)


async def test_an_end_of_the_job_keeps_the_record_of_the_pod_that_said_so() -> None:
    world = await begin()
    world.end_pod(WORKER, code=1, reason="CheckpointMismatch", message="another dataset")
    await world.go()
    world.end_pods()
    status = await world.go()
    assert (status["phase"], world.ready()) == ("Failed", ("False", "CheckpointMismatch"))
    assert world.job_pods() == [WORKER]


async def test_suspension_asks_all_and_spends_nothing() -> None:
    world = await begin()
    world.change(suspend=True)
    status = await world.go()
    assert (status["phase"], status["attempts"]["preemptions"]) == ("Suspended", 1)
    assert world.going() == world.gang()
    world.end_pod(WORKER, code=143, outcome="stopped")
    world.lose_peer(LEADER)
    await world.go()
    world.end_pods()
    assert (await world.go())["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
    world.change(suspend=False)
    await world.go()
    assert world.job_pods() == world.gang(2)


async def test_a_preemption_in_the_middle_is_one_preemption_whatever_its_pods_say() -> None:
    world = await begin()
    stop = '{"stop": {"for_id": "team-b/chat-0", "asked_s": 1, "deadline_s": 100}}'
    await world.kube.patch_metadata(PODS, LEADER, NAMESPACE, annotations={ANNOTATION_QUOTA: stop})
    world.end_pod(WORKER, code=143, outcome="stopped")
    status = await world.go()
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
    assert world.condition("Trained") == ("False", "Preempted")
    assert world.going() == [LEADER]


@pytest.mark.parametrize("written", [0, 1, 2])
async def test_a_gang_that_an_operator_was_killed_while_making_is_completed(written: int) -> None:
    world = GangWorld(nodes=3)
    await world.go()
    world.run_pod("tune-prepare-1")
    world.end_pod("tune-prepare-1", outcome="prepared", report=REPORT)
    world.kube.fail_next("apply", "Pod", Unavailable("killed"), after=written)
    with pytest.raises(Unavailable):
        await world.go()
    assert len([name for name in world.job_pods() if "-train-" in name]) == written
    for name in [each for each in world.job_pods() if "-train-" in each]:
        world.run_pod(name)
    status = await world.go()
    assert world.job_pods() == world.gang()
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 0}
    uids = {world.pod(name)["metadata"]["uid"] for name in world.gang()}
    await world.train()
    assert {world.pod(name)["metadata"]["uid"] for name in world.gang()} == uids


async def test_a_gang_that_was_begun_with_another_size_is_begun_anew() -> None:
    world = await cut_off(nodes=3)
    world.change(trainer={"accelerator": {"class": "cpu"}, "nodes": 1})
    world.nodes = 1
    await begin_anew(world)


async def test_more_nodes_are_for_the_next_attempt() -> None:
    world = await begin()
    world.change(trainer={"accelerator": {"class": "cpu"}, "nodes": 1})
    await world.go()
    assert world.job_pods() == world.gang()
    world.end_pod(LEADER, code=137)
    await world.go()
    world.end_pods()
    world.pass_time(11)
    await world.go()
    assert world.job_pods() == ["tune-train-2"]


async def test_a_gang_that_is_bound_in_part_gives_back_what_it_holds() -> None:
    world = GangWorld()
    await world.prepare()
    world.run_pod(LEADER)
    said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are free"}
    waits = [{**said, "lastTransitionTime": world.stamp()}]
    world.kube.set_status(PODS, WORKER, NAMESPACE, phase="Pending", conditions=waits)
    world.pass_time(119)
    assert (await world.go())["attempts"]["infrastructure"] == 0
    world.pass_time(2)
    assert (await world.go())["attempts"] == ONCE
    assert world.condition("Trained") == ("False", "Unschedulable")
    world.end_pods()
    assert world.job_pods() == []


@pytest.mark.parametrize("verb", ["apply", "apply_status", "delete"])
@pytest.mark.parametrize("kind", ["Pod", "Service", "FineTuneJob", "LLMModel", "PersistentVolumeClaim", "ConfigMap"])
@pytest.mark.parametrize("after", [0, 1])
async def test_an_operator_that_is_cut_off_anywhere_is_followed_by_one_that_goes_on(
    verb: str, kind: str, after: int
) -> None:
    """Every write of a kind, or each second one, fails at each step of a whole life with a loss in the middle."""
    world = GangWorld()

    async def go() -> None:
        for _ in range(6):
            world.kube.fail_next(verb, kind, Unavailable("cut off"), after=after)
            try:
                await world.step()
            except Unavailable:
                await world.step()
            world.kube._failures.clear()

    await go()
    world.run_pod("tune-prepare-1")
    await go()
    world.end_pod("tune-prepare-1", outcome="prepared", report=REPORT)
    await go()
    await world.train()
    await go()
    world.end_pod(WORKER, code=137)
    world.lose_peer(LEADER)
    await go()
    world.end_pods()
    world.pass_time(11)
    await go()
    await world.train(2)
    await go()
    world.end_pod("tune-train-2-1", outcome="finished")
    await go()
    world.complete(2)
    await go()
    status = world.status_now()
    assert (status["phase"], status["attempt"]) == ("Succeeded", 2)
    assert status["attempts"] == ONCE
    assert world.job_pods() == []
