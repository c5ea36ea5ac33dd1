"""Pools whose replicas Kueue admits, in a small cluster: a stand-in lifts the gates."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api.names import (
    GATE_QUOTA,
    KUEUE_GATE,
    KUEUE_GROUP,
    KUEUE_GROUP_SIZE,
    KUEUE_MANAGED,
    KUEUE_PRIORITY,
    KUEUE_QUEUE,
)
from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, RESOURCE_QUOTAS, TENANTS
from llmos_operator.planning.quota_record import read_record
from llmos_operator.planning.settings import Admitter, Settings
from tests.operator.reconcilers.quota_world import CLASS, Cluster, accelerator, gpu_pool, node, tenant
from tests.operator.reconcilers.world import NAMESPACE, condition

KUEUE = Settings(admission=Admitter.KUEUE)
GROUP = "kueue.x-k8s.io/v1beta2"
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "localqueues.kueue.x-k8s.io"},
    "spec": {"versions": [{"name": "v1beta2", "served": True}]},
}


def queue(name: str = "default", namespace: str = NAMESPACE) -> dict[str, Any]:
    return {"apiVersion": GROUP, "kind": "LocalQueue", "metadata": {"name": name, "namespace": namespace}}


class KueueCluster(Cluster):
    """What Kueue does to pods: its webhook's label at their creation, and its gate is lifted when it admits."""

    def manage(self) -> None:
        for pod in self.pods():
            if self.waits(pod):
                pod["metadata"]["labels"][KUEUE_MANAGED] = "true"
                self.kube.put(pod)

    def admit(self, count: int = 1) -> None:
        for pod in [pod for pod in self.pods() if self.waits(pod)][:count]:
            self.kube.put({**pod, "spec": {**pod["spec"], "schedulingGates": []}})

    def stop(self, name: str) -> None:
        stopped = {"type": "TerminationTarget", "status": "True", "reason": "Preempted", "message": "for another one"}
        pod = self.kube.stored(PODS, NAMESPACE, name)
        self.kube.set_status(PODS, name, NAMESPACE, conditions=[*pod["status"]["conditions"], stopped])

    @staticmethod
    def is_gated(pod: dict[str, Any]) -> bool:
        return bool(pod["spec"].get("schedulingGates"))

    @staticmethod
    def waits(pod: dict[str, Any]) -> bool:
        return {"name": KUEUE_GATE} in pod["spec"].get("schedulingGates", [])

    async def look(self, name: str = "chat") -> dict[str, Any]:
        self.pass_time(16)
        return await self.pool(name)


async def test_replicas_wait_in_their_queue_and_nothing_lifts_their_gate() -> None:
    world = KueueCluster(tenant("a", NAMESPACE), gpu_pool("chat", replicas=2), CRD, queue(), settings=KUEUE)
    await world.settle()
    assert len(world.pods()) == 2
    for pod in world.pods():
        assert pod["spec"]["schedulingGates"] == [{"name": KUEUE_GATE}]
        assert pod["metadata"]["labels"][KUEUE_QUEUE] == "default"
    world.manage()
    told = condition(await world.look(), "Admitted")
    assert (told["status"], told["reason"]) == ("False", "WaitsForKueue")
    assert "2 replicas wait. " in told["message"]
    assert "waits for Kueue's admission in queue default" in told["message"]


async def test_what_kueue_admits_starts_and_a_second_look_writes_nothing() -> None:
    world = KueueCluster(tenant("a", NAMESPACE), gpu_pool("chat", replicas=2), CRD, queue(), settings=KUEUE)
    await world.settle()
    world.manage()
    world.admit(1)
    await world.settle(3)
    pool = await world.look()
    assert pool["status"]["accelerators"] == 1
    assert "1 replica waits" in condition(pool, "Admitted")["message"]
    world.admit(1)
    await world.settle(3)
    world.start_pods()
    pool = await world.look()
    assert condition(pool)["status"] == "True"
    assert condition(pool, "Admitted")["status"] == "True"
    assert all(read_record(pod["metadata"]).admitted_s for pod in world.pods())
    world.kube.forget_writes()
    await world.pool()
    assert world.kube.changes == []


async def test_a_replica_that_kueue_stopped_has_not_failed_and_the_next_one_waits() -> None:
    world = KueueCluster(gpu_pool("chat"), CRD, queue(), settings=KUEUE)
    await world.settle()
    world.admit()
    await world.settle(2)
    world.start_pods()
    assert condition(await world.look())["status"] == "True"
    (name,) = world.pod_names()
    world.stop(name)
    await world.kube.delete(PODS, name, NAMESPACE)
    pool = await world.look()
    replaced = [pod for pod in world.pods() if world.waits(pod)]
    assert len(replaced) == 1
    assert pool["status"]["drainingReplicas"] == 1
    world.manage()
    told = condition(await world.look(), "Admitted")
    assert told["reason"] == "WaitsForKueue"
    assert f"Kueue stopped pod {name} (Preempted: for another one)." in told["message"]
    world.finish_deletions()
    await world.look()
    assert [pod["metadata"]["annotations"]["llmos.dev/attempt"] for pod in world.pods()] == ["0"]


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ((), "KueueNotInstalled"),
        ((CRD,), "QueueNotFound"),
        ((CRD, queue("default", "team-b")), "QueueNotFound"),
        ((CRD, queue()), "NotManagedByKueue"),
    ],
)
async def test_what_is_missing_is_said_and_nothing_is_released(objects: tuple[Any, ...], reason: str) -> None:
    world = KueueCluster(tenant("a", NAMESPACE), gpu_pool("chat"), *objects, settings=KUEUE)
    await world.settle()
    pool = await world.look()
    assert condition(pool, "Admitted")["reason"] == condition(pool)["reason"] == reason
    assert all(world.waits(pod) for pod in world.pods())


async def test_a_tenant_says_who_decides_and_what_it_holds() -> None:
    world = KueueCluster(tenant("a", NAMESPACE), gpu_pool("chat", replicas=3), CRD, queue(), settings=KUEUE)
    await world.settle()
    world.admit(2)
    await world.settle()
    await world.quota()
    await world.reconcile("Tenant", "a", "")
    status = world.kube.stored(TENANTS, "", "a")["status"]
    guaranteed = condition({"status": status}, "Guaranteed")
    assert (guaranteed["status"], guaranteed["reason"]) == ("Unknown", "KueueDecides")
    assert [(each["class"], each["used"], each["waiting"]) for each in status["usage"]] == [(CLASS, 2, 1)]
    assert "guaranteed" not in status["usage"][0] or status["usage"][0]["guaranteed"] == 0


async def test_a_tenant_says_that_there_is_no_kueue() -> None:
    world = KueueCluster(tenant("a", NAMESPACE), gpu_pool("chat"), settings=KUEUE)
    await world.settle()
    await world.reconcile("Tenant", "a", "")
    ready = condition(world.kube.stored(TENANTS, "", "a"), "Guaranteed")
    assert (ready["status"], ready["reason"]) == ("False", "KueueNotInstalled")


async def test_the_backstop_of_the_ledger_does_not_bound_what_waits_for_kueue() -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    for settings, is_bounded in ((Settings(), True), (KUEUE, False)):
        world = KueueCluster(namespace, tenant("a", NAMESPACE), settings=settings)
        await world.reconcile("Tenant", "a", "")
        (made,) = world.kube.all(RESOURCE_QUOTAS)
        assert any("nvidia.com/gpu" in resource for resource in made["spec"]["hard"]) is is_bounded


async def test_replicas_that_wait_follow_their_pool_into_another_queue() -> None:
    world = KueueCluster(gpu_pool("chat"), CRD, queue(), settings=KUEUE)
    await world.settle()
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    pool["metadata"]["labels"] = {KUEUE_QUEUE: "urgent", KUEUE_PRIORITY: "high"}
    world.kube.put(pool)
    await world.look()
    (pod,) = world.pods()
    assert pod["metadata"]["labels"][KUEUE_QUEUE] == "urgent"
    assert pod["metadata"]["labels"][KUEUE_PRIORITY] == "high"


async def test_replicas_that_may_not_be_moved_are_made_anew_in_the_other_queue() -> None:
    world = KueueCluster(gpu_pool("chat"), CRD, queue(), settings=KUEUE)
    await world.settle()
    (before,) = world.pods()
    pool = world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat")
    pool["metadata"]["labels"] = {KUEUE_QUEUE: "urgent"}
    world.kube.put(pool)
    world.kube.fail_next("patch", "Pod", Forbidden("a webhook says no"))
    assert "Admitted" in {told["type"] for told in (await world.look())["status"]["conditions"]}
    await world.settle(2)
    (pod,) = world.pods()
    assert pod["metadata"]["uid"] != before["metadata"]["uid"]
    assert pod["metadata"]["labels"][KUEUE_QUEUE] == "urgent"


async def test_a_note_that_is_refused_does_not_keep_the_pool_from_telling_its_state() -> None:
    world = KueueCluster(gpu_pool("chat"), CRD, queue(), settings=KUEUE)
    await world.settle()
    world.admit()
    world.kube.fail_next("patch", "Pod", Forbidden("a webhook says no"))
    assert (await world.look())["status"]["accelerators"] == 1


@pytest.mark.parametrize(
    ("before", "after", "gate"),
    [
        (Settings(), KUEUE, KUEUE_GATE),
        (KUEUE, Settings(), GATE_QUOTA),
    ],
)
async def test_who_admits_may_change_while_replicas_wait(before: Settings, after: Settings, gate: str) -> None:
    objects = (tenant("a", NAMESPACE, guaranteed=0, borrowLimit=0), gpu_pool("chat", replicas=2), CRD, queue())
    first = KueueCluster(*objects, settings=before)
    await first.settle()
    second = KueueCluster(settings=after)
    for pod in first.pods():
        second.kube.put(pod)
    for item in (*objects, *first.kube.all(INFERENCE_POOLS)):
        second.kube.put(item)
    await second.settle()
    assert len(second.pods()) == 2
    assert all(pod["spec"]["schedulingGates"] == [{"name": gate}] for pod in second.pods())


def gang_world() -> KueueCluster:
    """A pool of one replica over two nodes of four accelerators."""
    a_class = accelerator()
    a_class["spec"]["countPerNode"] = 4
    a_class["status"] |= {"capacity": 8, "nodes": 2}
    pool = gpu_pool("chat", accelerator={"class": CLASS, "count": 8})
    return KueueCluster(node("n2"), a_class, pool, CRD, queue(), settings=KUEUE)


async def test_a_gang_is_one_pod_group() -> None:
    world = gang_world()
    await world.settle()
    assert [pod["spec"]["schedulingGates"] for pod in world.pods()] == [[{"name": KUEUE_GATE}]] * 2
    assert len({pod["metadata"]["labels"][KUEUE_GROUP] for pod in world.pods()}) == 1
    assert [pod["metadata"]["annotations"][KUEUE_GROUP_SIZE] for pod in world.pods()] == ["2", "2"]
    world.manage()
    world.admit(2)
    await world.settle(3)
    world.start_pods()
    pool = await world.look()
    assert (condition(pool)["reason"], pool["status"]["accelerators"]) == ("Ready", 8)


async def test_a_gang_that_kueue_stopped_has_not_failed_and_another_group_takes_its_place() -> None:
    world = gang_world()
    await world.settle()
    world.admit(2)
    await world.settle(2)
    world.start_pods()
    await world.look()
    (group,) = {pod["metadata"]["labels"][KUEUE_GROUP] for pod in world.pods()}
    names = world.pod_names()
    for name in names:
        world.stop(name)
    await world.look()
    for name in names:
        await world.kube.delete(PODS, name, NAMESPACE)
    world.end_pods()
    await world.look()
    pool = await world.look()
    waiting = [pod for pod in world.pods() if world.waits(pod)]
    assert [pod["metadata"]["annotations"]["llmos.dev/attempt"] for pod in waiting] == ["0", "0"]
    assert {pod["metadata"]["labels"][KUEUE_GROUP] for pod in waiting}.isdisjoint({group})
    assert condition(pool)["reason"] not in {"GangBroken", "EngineCrashed"}
