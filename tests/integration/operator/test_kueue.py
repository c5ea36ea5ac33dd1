"""Kueue's admission followed by a whole operator process, against a real kube-apiserver.

Kueue itself is not run: a stand-in does to pods what Kueue's code does (pkg/controller/jobs/pod of release 0.19). Its
webhook's label and finalizer come a moment after the pod here; a Workload stands for each pod; the gates are lifted in
the order of creation, as many as there is quota; a pod that is stopped gets TerminationTarget and is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.controlplane import ControlPlane
from llmos.api.names import KUEUE_GATE, KUEUE_JOB_UID, KUEUE_MANAGED, KUEUE_QUEUE, KUEUE_STOPPED
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.errors import KubeError
from llmos_operator.kube.resources import (
    CUSTOM_RESOURCE_DEFINITIONS,
    INFERENCE_POOLS,
    LOCAL_QUEUES,
    PODS,
    TENANTS,
    WORKLOADS,
)
from llmos_operator.planning.quota_record import read_record
from tests.integration.operator.process import run_operator, wait_until
from tests.integration.operator.test_quota import Cluster, assert_a_second_look_writes_nothing

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(900)]

QUEUE = "research"
FOLLOW = ("--no-leader-election", "--resync-s", "1", "--admission", "kueue")


def build_crd(plural: str, kind: str) -> dict[str, Any]:
    """A kind of Kueue's, without its schema."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": "v1beta2", "served": True, "storage": True, "schema": schema, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # The group is protected: without the annotation only approved definitions are taken.
        "metadata": {
            "name": f"{plural}.{LOCAL_QUEUES.group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in of a test"},
        },
        "spec": {
            "group": LOCAL_QUEUES.group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


CRDS = (build_crd("localqueues", "LocalQueue"), build_crd("workloads", "Workload"))


class StandIn:
    """What Kueue does to the pods of one namespace."""

    def __init__(self, kube: AioKube, namespace: str, quota: int) -> None:
        self.kube, self.namespace, self.quota = kube, namespace, quota

    async def install(self) -> None:
        for crd in CRDS:
            await self.kube.create(crd)

        async def are_served() -> bool:
            with contextlib.suppress(KubeError):
                await self.kube.list(LOCAL_QUEUES)
                await self.kube.list(WORKLOADS)
                return True
            return False

        await wait_until(are_served)

    async def remove(self) -> None:
        for crd in CRDS:
            await self.kube.delete(CUSTOM_RESOURCE_DEFINITIONS, crd["metadata"]["name"])

    async def run(self) -> None:
        while True:
            with contextlib.suppress(KubeError):
                await self.step()
            await asyncio.sleep(0.1)

    async def step(self) -> None:
        pods = await self.kube.list(PODS, namespace=self.namespace, label_selector=KUEUE_QUEUE)
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"]:
                await self._finalize(pod)
            elif pod["metadata"]["labels"].get(KUEUE_MANAGED) != "true":
                await self._manage(pod)
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        admitted = sum(not is_gated(pod) for pod in alive)
        waiting = sorted(filter(is_gated, alive), key=lambda p: (p["metadata"]["creationTimestamp"], name_of(p)))
        for pod in waiting[: max(0, self.quota - admitted)]:
            await self.kube.merge(PODS, name_of(pod), self.namespace, {"spec": {"schedulingGates": []}})

    async def _manage(self, pod: dict[str, Any]) -> None:
        metadata = {"labels": {KUEUE_MANAGED: "true"}, "finalizers": [KUEUE_MANAGED]}
        await self.kube.merge(PODS, name_of(pod), self.namespace, {"metadata": metadata})
        labels = {KUEUE_JOB_UID: pod["metadata"]["uid"]}
        workload = {
            "apiVersion": WORKLOADS.api_version,
            "kind": "Workload",
            "metadata": {"name": f"pod-{pod['metadata']['uid']}", "namespace": self.namespace, "labels": labels},
        }
        await self.kube.create(workload)
        message = "couldn't assign flavors to pod set main: insufficient unused quota"
        await self.kube.apply_status(
            {**workload, "status": {"conditions": [{"type": "QuotaReserved", "status": "False", "message": message}]}}
        )

    async def _finalize(self, pod: dict[str, Any]) -> None:
        await self.kube.merge(PODS, name_of(pod), self.namespace, {"metadata": {"finalizers": None}})

    async def stop(self, pod: dict[str, Any]) -> None:
        identity = {"apiVersion": "v1", "kind": "Pod"}
        metadata = {"name": name_of(pod), "namespace": self.namespace}
        condition = {"type": KUEUE_STOPPED, "status": "True", "reason": "Preempted", "message": "for another workload"}
        await self.kube.apply_status({**identity, "metadata": metadata, "status": {"conditions": [condition]}})
        await self.kube.delete(PODS, name_of(pod), self.namespace)


def is_gated(pod: dict[str, Any]) -> bool:
    return {"name": KUEUE_GATE} in pod["spec"].get("schedulingGates", [])


def name_of(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["name"])


class KueueCluster(Cluster):
    """The words of the quota's tests, with Kueue's gate."""

    async def has(self, *, admitted: int, waiting: int) -> bool:
        pods = await self.pods()
        gated = sum(map(is_gated, pods))
        return (len(pods) - gated, gated) == (admitted, waiting)

    async def says(self, reason: str, words: str = "") -> bool:
        told = await self.condition("Admitted")
        return told.get("reason") == reason and words in told.get("message", "")

    async def tenant_says(self, reason: str) -> bool:
        found = await self.kube.get(TENANTS, self.namespace) or {}
        conditions = found.get("status", {}).get("conditions", ())
        return any(each["type"] == "Guaranteed" and each["reason"] == reason for each in conditions)

    async def has_noted(self) -> bool:
        return all(read_record(pod["metadata"]).admitted_s for pod in await self.admitted())

    async def admitted(self) -> list[dict[str, Any]]:
        return [pod for pod in await self.pods() if not is_gated(pod)]


@pytest.fixture
async def cluster(real_kube: AioKube, namespace: str) -> AsyncIterator[KueueCluster]:
    cluster = KueueCluster(real_kube, namespace)
    counting = asyncio.create_task(cluster.count_quota())
    yield cluster
    cluster.is_over = True
    await counting
    await cluster.remove()


async def test_replicas_wait_for_kueue_start_in_its_order_and_come_back_after_it_stopped_one(
    control_plane: ControlPlane, cluster: KueueCluster, namespace: str, tmp_path: Path
) -> None:
    await cluster.prepare()
    spec = {"namespaces": [namespace], "kueue": {"queueName": QUEUE}}
    await cluster.write("Tenant", namespace, spec)
    await cluster.write_pool(3)
    kueue = StandIn(cluster.kube, namespace, quota=2)
    async with run_operator(control_plane, namespace, tmp_path, *FOLLOW) as operator:
        await wait_until(lambda: cluster.says("KueueNotInstalled", "Install Kueue"))
        await wait_until(lambda: cluster.tenant_says("KueueNotInstalled"))
        await kueue.install()
        try:
            await wait_until(lambda: cluster.says("QueueNotFound", f"no LocalQueue {QUEUE}"))
            assert await cluster.has(admitted=0, waiting=3)
            metadata = {"name": QUEUE, "namespace": namespace}
            await cluster.kube.create(
                {"apiVersion": LOCAL_QUEUES.api_version, "kind": "LocalQueue", "metadata": metadata}
            )
            await wait_until(lambda: cluster.says("NotManagedByKueue"))
            playing = asyncio.create_task(kueue.run())
            await wait_until(lambda: cluster.has(admitted=2, waiting=1))
            await wait_until(lambda: cluster.says("WaitsForKueue", f"admission in queue {QUEUE}"))
            await wait_until(lambda: cluster.says("WaitsForKueue", "Kueue says: couldn't assign flavors"))
            await wait_until(lambda: cluster.tenant_says("KueueDecides"))
            await wait_until(cluster.has_noted)
            assert all(pod["metadata"]["labels"][KUEUE_QUEUE] == QUEUE for pod in await cluster.pods())

            await assert_a_second_look_writes_nothing(operator, cluster)

            before = {name_of(pod) for pod in await cluster.pods()}
            victim = (await cluster.admitted())[0]
            await kueue.stop(victim)

            async def has_next_one() -> bool:
                pods = await cluster.pods()
                uids = {pod["metadata"]["uid"] for pod in pods}
                return victim["metadata"]["uid"] not in uids and await cluster.has(admitted=2, waiting=1)

            await wait_until(has_next_one)
            assert all(pod["metadata"]["annotations"]["llmos.dev/attempt"] == "0" for pod in await cluster.pods())
            promoted = {name_of(pod) for pod in await cluster.admitted()}
            assert promoted == before - {name_of(victim)}

            async def has_two_accelerators() -> bool:
                pool = await cluster.kube.get(INFERENCE_POOLS, "chat", namespace) or {}
                return bool(pool["status"]["accelerators"] == 2)

            await wait_until(has_two_accelerators)

            kueue.quota = 3
            await wait_until(lambda: cluster.has(admitted=3, waiting=0))
            await wait_until(lambda: cluster.says("Admitted"))
            assert await operator.end() == 0
            await cluster.kube.delete(INFERENCE_POOLS, "chat", namespace)
            for pod in await cluster.pods():
                await cluster.kube.delete(PODS, name_of(pod), namespace)
            await wait_until(lambda: cluster.has(admitted=0, waiting=0))
            playing.cancel()
        finally:
            await kueue.remove()
