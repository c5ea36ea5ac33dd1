"""FineTuneJobs on accelerators: they wait for the quota like replicas, give way, and go on, and nobody's retries are
spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from llmos.api import ClassUsage
from llmos.api.names import CONTAINER_TRAIN, KUEUE_GATE, KUEUE_GROUP, KUEUE_GROUP_SIZE, KUEUE_QUEUE
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, FINE_TUNE_JOBS, PERSISTENT_VOLUME_CLAIMS, PODS, TENANTS
from llmos_operator.planning.settings import Admitter, Settings
from tests.operator.reconcilers.job_world import CHECKPOINT, JOB, JobWorld
from tests.operator.reconcilers.quota_world import CLASS, GPU, accelerator, gpu_pool, node, tenant
from tests.operator.reconcilers.world import NAMESPACE, condition

ON_GPU = {"trainer": {"accelerator": {"class": CLASS}}}


class GpuWorld(JobWorld):
    """One node with one accelerator, unless said otherwise."""

    def __init__(self, *objects: dict[str, Any], gpus: int = 1, settings: Settings | None = None, **spec: Any) -> None:
        super().__init__(*objects, settings=settings, **{**ON_GPU, **spec})
        self.kube.put(node(gpus=gpus))

    async def turn(self) -> None:
        await self.reconcile("FineTuneJob", JOB)
        await super().turn()
        await self.reconcile("FineTuneJob", JOB)

    def bind(self) -> None:
        """The kubelet starts what was admitted; a trainer runs from the first moment."""
        before = {pod["metadata"]["name"] for pod in self.pods() if pod["spec"].get("nodeName")}
        super().bind()
        for pod in self.pods():
            name = pod["metadata"]["name"]
            if "-train-" in name and name not in before and pod["spec"].get("nodeName"):
                self.run_pod(name)

    async def prepare(self) -> None:
        await super().prepare()


async def test_an_attempt_waits_for_the_quota_and_is_admitted_to_a_node() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1))
    await world.prepare()
    pod = world.pod("tune-train-1")
    assert world.is_gated(pod)
    assert pod["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {GPU: "1"}
    assert world.status_now()["phase"] == "Queued"
    await world.settle(2)
    await world.step()
    assert world.pin(world.pod("tune-train-1")) == "n1"
    assert world.condition("Admitted") == ("True", "Admitted")
    assert world.status_now()["phase"] == "Training"


async def test_a_job_without_room_says_why_it_waits() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=0, borrowLimit=0))
    await world.prepare()
    await world.settle(2)
    assert world.condition("Admitted") == ("False", "QuotaExceeded")
    assert world.ready() == ("False", "QuotaExceeded")
    assert world.status_now()["phase"] == "Queued"


async def test_a_pool_of_another_tenant_takes_back_what_it_lent_and_the_job_goes_on_afterwards() -> None:
    lender = tenant("b", "team-b", guaranteed=1)
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=0), lender)
    await world.prepare()
    await world.settle(2)
    assert world.status_now()["phase"] == "Training"
    world.kube.put(gpu_pool("chat", "team-b"))
    await world.settle(3)
    status = world.status_now()
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
    assert world.condition("Trained") == ("False", "Preempted")
    assert "deletionTimestamp" in world.pod("tune-train-1")["metadata"], "it saves its work within its grace period"
    world.end_pod("tune-train-1", code=143, outcome="stopped", lastCheckpoint=CHECKPOINT)
    await world.step()
    world.end_pods()
    await world.settle(3)
    assert world.held("team-b")
    status = world.status_now()
    assert (status["phase"], status["attempt"]) == ("Queued", 2)
    assert status["lastCheckpoint"]["step"] == 40
    world.kube.put(gpu_pool("chat", "team-b", replicas=0))
    for _ in range(4):
        await world.settle(1)
        world.end_pods()
    await world.settle(2)
    assert world.status_now()["phase"] == "Training"
    assert world.status_now()["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}


async def test_burst_replicas_go_before_jobs() -> None:
    burst = gpu_pool("burst")
    del burst["spec"]["replicas"]
    burst["spec"]["scaling"] = {"minReplicas": 0, "maxReplicas": 1}
    burst["status"] = {"desiredReplicas": 1, "observedGeneration": 1}
    lender = tenant("b", "team-b", guaranteed=2)
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=0), lender, burst, gpus=2)
    await world.prepare()
    await world.settle(4)
    assert len([pod for pod in world.pods() if pod["spec"].get("nodeName")]) == 2
    world.kube.put(gpu_pool("chat", "team-b"))
    world.pass_time(60)
    await world.settle(3)
    assert world.status_now()["attempts"]["preemptions"] == 0
    assert world.status_now()["phase"] == "Training"


async def test_an_attempt_that_finds_no_node_in_time_is_made_anew() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1))
    await world.prepare()
    await world.turn()
    world.pass_time(130)
    await world.turn()
    await world.step()
    world.end_pods()
    status = world.status_now()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert world.condition("Trained") == ("False", "NotBoundInTime")
    world.pass_time(11)
    await world.go()
    assert world.job_pods() == ["tune-train-2"]


async def test_a_job_that_was_deleted_holds_its_accelerator_until_its_pod_is_gone() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1), gpu_pool("chat"))
    world.kube.put(gpu_pool("chat", replicas=0))
    await world.prepare()
    await world.settle(2)
    world.kube.finish_deletion(FINE_TUNE_JOBS, JOB, NAMESPACE)
    await world.quota()
    assert world.context.quota.tenant("a") is not None
    usage = world.context.quota.tenant("a").usage  # type: ignore[union-attr]
    assert [each.used for each in usage] == [1]


@pytest.mark.parametrize("is_bound", [True, False])
async def test_what_an_attempt_holds_is_not_given_away_after_its_class_is_deleted(is_bound: bool) -> None:
    """Another class takes the place of the one that was deleted: of the same nodes, and of the same accelerators."""
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1), tenant("b", "team-b", guaranteed=0))
    await world.prepare()
    await world.turn()
    if is_bound:
        world.bind()
    assert world.pin(world.pod("tune-train-1")) == "n1"
    world.kube.finish_deletion(ACCELERATOR_CLASSES, CLASS)
    world.kube.put({**accelerator(), "metadata": {"name": "hopper"}})
    other = tenant("b", "team-b")
    world.kube.put({**other, "spec": {**other["spec"], "quota": [{"class": "hopper", "guaranteed": 1}]}})
    world.kube.put(gpu_pool("chat", "team-b", accelerator={"class": "hopper", "count": 1}))
    for _ in range(3):
        await world.turn()
    assert {each.class_name: each.used for each in usage(world, "a")}[CLASS] == 1
    assert world.held("team-b") == []
    world.kube.finish_deletion(PODS, "tune-train-1", NAMESPACE)
    await world.settle(2)
    assert world.held("team-b"), "it is given away as soon as its pod is gone"


async def test_an_attempt_that_waits_for_a_class_that_was_deleted_holds_nothing() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1))
    await world.prepare()
    world.kube.finish_deletion(ACCELERATOR_CLASSES, CLASS)
    await world.quota()
    assert world.is_gated(world.pod("tune-train-1"))
    assert [each.used for each in usage(world, "a")] == [0]


def usage(world: GpuWorld, name: str) -> Sequence[ClassUsage]:
    told = world.context.quota.tenant(name)
    assert told is not None
    return told.usage


async def test_a_job_does_not_begin_what_cannot_fit() -> None:
    world = GpuWorld(
        tenant("a", NAMESPACE, guaranteed=1),
        trainer={"accelerator": {"class": CLASS}, "hyperparameters": {"maxLength": 1048576}},
        method={"tuning": "full"},
    )
    small = world.kube.stored(ACCELERATOR_CLASSES, "", CLASS)
    world.kube.put({**small, "spec": {**small["spec"], "memory": "4Gi"}})
    await world.go()
    assert world.ready() == ("False", "DoesNotFit")
    message = condition({"status": world.status_now()})["message"]
    assert "GiB on one h100" in message
    assert world.job_pods() == []


async def test_where_kueue_admits_the_pod_waits_in_its_queue() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1), settings=Settings(admission=Admitter.KUEUE))
    await world.prepare()
    pod = world.pod("tune-train-1")
    assert pod["spec"]["schedulingGates"] == [{"name": KUEUE_GATE}]
    assert pod["metadata"]["labels"][KUEUE_QUEUE] == "default"
    assert world.status_now()["phase"] == "Queued"
    assert world.ready() == ("False", "KueueNotInstalled")


async def test_a_stop_by_kueue_is_a_preemption() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1), settings=Settings(admission=Admitter.KUEUE))
    await world.prepare()
    pod = world.pod("tune-train-1")
    world.kube.put({**pod, "spec": {**pod["spec"], "schedulingGates": []}})
    world.run_pod("tune-train-1")
    stop = {"type": "TerminationTarget", "status": "True", "reason": "Preempted", "message": "m"}
    world.kube.set_status(PODS, "tune-train-1", NAMESPACE, conditions=[stop])
    assert (await world.step())["attempts"]["preemptions"] == 1


async def test_the_nodes_that_reach_the_claim_are_told_to_the_ledger() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=1))
    await world.go()
    claim = world.kube.stored(PERSISTENT_VOLUME_CLAIMS, NAMESPACE, "tune-work")
    world.kube.put({**claim, "spec": {**claim["spec"], "volumeName": "v"}})
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}
    affinity = {"required": {"nodeSelectorTerms": [term]}}
    volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {}}
    world.kube.put({**volume, "spec": {"nodeAffinity": affinity}})
    await world.prepare()
    assert world.pod("tune-train-1")["spec"]["nodeSelector"] == {"zone": "b", "gpu": "h100"}
    await world.settle(2)
    assert world.is_gated(world.pod("tune-train-1")), "the only node is in another zone"
    there = node()
    world.kube.put({**there, "metadata": {**there["metadata"], "labels": {"gpu": "h100", "zone": "b"}}})
    world.context.quota.doubt_nodes()
    await world.settle(2)
    assert not world.is_gated(world.pod("tune-train-1"))


ON_TWO: dict[str, Any] = {
    "trainer": {"accelerator": {"class": CLASS}, "nodes": 2},
    "checkpoint": {"storage": {"accessMode": "ReadWriteMany"}},
}


async def test_a_gang_waits_until_there_is_room_for_all_of_it_and_is_released_together() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=2), **ON_TWO)
    await world.prepare()
    await world.settle(2)
    assert world.job_pods() == ["tune-train-1", "tune-train-1-1"]
    assert world.held(NAMESPACE) == [], "one of two accelerators is of no use"
    assert world.ready()[1] in {"WaitsForRoom", "Fragmented"}
    assert world.status_now()["phase"] == "Queued"
    world.kube.put(node("n2", gpus=1))
    world.context.quota.doubt_nodes()
    await world.settle(2)
    await world.step()
    assert {world.pin(world.pod(name)) for name in world.job_pods()} == {"n1", "n2"}
    assert world.status_now()["phase"] == "Training"
    usage = world.context.quota.tenant("a").usage  # type: ignore[union-attr]
    assert [each.used for each in usage] == [2]


async def test_a_gang_gives_way_as_one_and_is_one_preemption() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=0), tenant("b", "team-b", guaranteed=2), **ON_TWO)
    world.kube.put(node("n2", gpus=1))
    await world.prepare()
    await world.settle(3)
    assert world.status_now()["phase"] == "Training"
    world.kube.put(gpu_pool("chat", "team-b"))
    await world.settle(3)
    pods = [world.pod(name) for name in world.job_pods()]
    assert len(pods) == 2
    assert all("deletionTimestamp" in pod["metadata"] for pod in pods)
    world.end_pod("tune-train-1-1", code=143, outcome="stopped")
    await world.step()
    world.end_pod("tune-train-1", code=143, outcome="stopped", lastCheckpoint=CHECKPOINT)
    await world.step()
    world.end_pods()
    await world.settle(3)
    assert world.held("team-b")
    status = world.status_now()
    assert status["attempts"] == {"user": 0, "infrastructure": 0, "preemptions": 1}
    assert (status["phase"], status["attempt"]) == ("Queued", 2)
    assert world.held(NAMESPACE) == []


async def test_of_a_gang_that_one_pod_has_left_the_ledger_gives_nothing_away_before_all_have_ended() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=2), gpu_pool("chat", replicas=0), **ON_TWO)
    world.kube.put(node("n2", gpus=1))
    await world.prepare()
    await world.settle(3)
    world.end_pod("tune-train-1-1", code=137)
    await world.step()
    world.kube.put(gpu_pool("chat", replicas=2))
    await world.settle(2)
    usage = world.context.quota.tenant("a").usage  # type: ignore[union-attr]
    assert sum(each.used for each in usage) <= 2
    assert "deletionTimestamp" in world.pod("tune-train-1")["metadata"]
    assert world.status_now()["attempts"]["infrastructure"] == 1


async def test_kueue_sees_the_pods_of_an_attempt_as_one_group() -> None:
    world = GpuWorld(tenant("a", NAMESPACE, guaranteed=2), settings=Settings(admission=Admitter.KUEUE), **ON_TWO)
    await world.prepare()
    labels = [world.pod(name)["metadata"]["labels"] for name in world.job_pods()]
    assert len({each[KUEUE_GROUP] for each in labels}) == 1
    annotations = [world.pod(name)["metadata"]["annotations"] for name in world.job_pods()]
    assert {each[KUEUE_GROUP_SIZE] for each in annotations} == {"2"}


async def test_without_tenants_nothing_waits() -> None:
    world = GpuWorld()
    await world.prepare()
    assert not world.is_gated(world.pod("tune-train-1"))
    assert not world.kube.all(TENANTS)
    assert world.pod("tune-train-1")["spec"]["containers"][0]["name"] == CONTAINER_TRAIN
