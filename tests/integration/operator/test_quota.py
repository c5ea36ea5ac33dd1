"""The quota ledger in whole operator processes against a real kube-apiserver, which says what may become of gated pods.

There is no scheduler here: a pod without a gate is all that an operator can bring about.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.controlplane import ControlPlane
from llmos.api.names import ANNOTATION_QUOTA, GATE_QUOTA, LABEL_POOL, LABEL_RANK
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.errors import KubeError, NotFound
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    INFERENCE_POOLS,
    NODES,
    PODS,
    RESOURCE_QUOTAS,
    SERVICES,
    TENANTS,
)
from llmos_operator.planning.quota_record import read_record
from tests.integration.operator.process import (
    LOOKS,
    OperatorProcess,
    count_writes,
    run_operator,
    wait_for_looks,
    wait_for_rest,
    wait_until,
)

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(900)]

GPUS = 8
CLASS = "quota-test-gpu"


class Cluster:
    """What the API server has, in the words of these tests."""

    def __init__(self, kube: AioKube, namespace: str) -> None:
        self.kube, self.namespace = kube, namespace
        self.most_admitted = 0
        self.is_over = False

    async def prepare(self, nodes: int = 1) -> None:
        """Nodes with GPUs, their class, and a model that the simulator needs to exist only."""
        for number in range(nodes):
            identity = {"apiVersion": "v1", "kind": "Node"}
            name = f"{self.namespace}-{number}"
            await self.kube.apply(
                {**identity, "metadata": {"name": name, "labels": {"gpu": CLASS}}}, field_manager="kubelet"
            )
            resources = {"nvidia.com/gpu": str(GPUS), "pods": "110"}
            status = {"allocatable": resources, "capacity": resources}
            await self.kube.apply_status({**identity, "metadata": {"name": name}, "status": status})
            await self.kube.apply(
                {**identity, "metadata": {"name": name, "labels": {"gpu": CLASS}}, "spec": {"taints": []}},
                field_manager="kubelet",
            )
        await self.write("AcceleratorClass", CLASS, {"memory": "80Gi", "nodeSelector": {"gpu": CLASS}})
        await self.write("LLMModel", "m", {"source": {"uri": "hf://org/name"}})

    async def write(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        metadata = {"name": name} | ({} if kind in {"Tenant", "AcceleratorClass"} else {"namespace": self.namespace})
        manifest = {"apiVersion": "llmos.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
        await self.kube.apply(manifest, field_manager="user")

    async def write_tenant(self, guaranteed: int, *, borrow_limit: int = 0) -> None:
        quota = {"class": CLASS, "guaranteed": guaranteed, "borrowLimit": borrow_limit}
        await self.write("Tenant", self.namespace, {"namespaces": [self.namespace], "quota": [quota]})

    async def write_pool(self, replicas: int, *, count: int = 1) -> None:
        accelerator = {"class": CLASS, "count": count}
        spec = {"modelRef": {"name": "m"}, "engine": {"name": "simulator"}, "accelerator": accelerator}
        await self.write("InferencePool", "chat", {**spec, "replicas": replicas, "rollout": {"maxSurge": 1}})

    async def pods(self) -> list[dict[str, Any]]:
        return await self.kube.list(PODS, namespace=self.namespace, label_selector=f"{LABEL_POOL}=chat")

    async def admitted(self) -> list[dict[str, Any]]:
        found = [pod for pod in await self.pods() if not is_gated(pod)]
        self.most_admitted = max(self.most_admitted, len(found))
        return found

    async def has(self, *, admitted: int, waiting: int) -> bool:
        pods = await self.pods()
        gated = sum(map(is_gated, pods))
        self.most_admitted = max(self.most_admitted, len(pods) - gated)
        return (len(pods) - gated, gated) == (admitted, waiting)

    async def condition(self, kind: str) -> dict[str, Any]:
        pool = await self.kube.get(INFERENCE_POOLS, "chat", self.namespace) or {}
        return next((c for c in pool.get("status", {}).get("conditions", ()) if c["type"] == kind), {})

    async def versions(self) -> set[str]:
        pools = await self.kube.list(INFERENCE_POOLS, namespace=self.namespace)
        return {item["metadata"]["resourceVersion"] for item in (*await self.pods(), *pools)}

    async def told(self) -> dict[str, Any]:
        """What the Tenant's status says, but for the seconds for which it holds accelerators."""
        tenant = await self.kube.get(TENANTS, self.namespace) or {}
        status = tenant.get("status", {})
        told = {key: value for key, value in status.items() if key not in {"thisMonth", "conditions"}}
        return told | {each["type"]: (each["reason"], each["message"]) for each in status.get("conditions", ())}

    async def is_counted(self) -> bool:
        reason, _ = (await self.told()).get("QuotaCounted", ("", ""))
        return bool(reason == "QuotaCounted")

    async def count_quota(self) -> None:
        """Play the controller of ResourceQuotas, of which there is none here: without it they refuse everything."""
        while not self.is_over:
            # As a controller does: what fails now is tried again.
            with contextlib.suppress(KubeError):
                await self._count_quota_once()
            await asyncio.sleep(0.1)

    async def _count_quota_once(self) -> None:
        for quota in await self.kube.list(RESOURCE_QUOTAS, namespace=self.namespace):
            hard, status = quota["spec"]["hard"], quota.get("status", {})
            if status.get("hard") != hard:
                used = {resource: status.get("used", {}).get(resource, "0") for resource in hard}
                metadata = {"name": quota["metadata"]["name"], "namespace": self.namespace}
                manifest = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata}
                await self.kube.apply_status({**manifest, "status": {"hard": hard, "used": used}})

    async def remove_tenant(self) -> None:
        """Let it go at once, whatever is left of it."""
        await self.kube.delete(TENANTS, self.namespace)
        with contextlib.suppress(NotFound):
            await self.kube.patch_metadata(TENANTS, self.namespace, finalizers=[])

    async def remove(self) -> None:
        await self.remove_tenant()
        await self.kube.delete(INFERENCE_POOLS, "chat", self.namespace)
        for node in await self.kube.list(NODES, label_selector=f"gpu={CLASS}"):
            await self.kube.delete(NODES, node["metadata"]["name"])
        await self.kube.delete(ACCELERATOR_CLASSES, CLASS)


def is_gated(pod: dict[str, Any]) -> bool:
    return {"name": GATE_QUOTA} in pod["spec"].get("schedulingGates", [])


def pinned_to(pod: dict[str, Any]) -> str:
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    ((field,),) = (term["matchFields"] for term in required["nodeSelectorTerms"])
    assert (field["key"], field["operator"]) == ("metadata.name", "In")
    return str(field["values"][0])


@pytest.fixture
async def cluster(real_kube: AioKube, namespace: str) -> AsyncIterator[Cluster]:
    cluster = Cluster(real_kube, namespace)
    counting = asyncio.create_task(cluster.count_quota())
    yield cluster
    cluster.is_over = True
    await counting
    await cluster.remove()


async def assert_a_second_look_writes_nothing(operator: OperatorProcess, cluster: Cluster) -> set[str]:
    """Return the versions of pools and pods that stay as they are.

    Now and then a Tenant that holds accelerators is told for how long, whatever else happens: not at each look.
    """
    # What the controller of ResourceQuotas counts by then, the Tenant's next look finds.
    await wait_until(cluster.is_counted)
    await wait_for_looks(operator)
    writes, versions, told = await wait_for_rest(operator), await cluster.versions(), await cluster.told()
    await wait_for_looks(operator)
    now_told = await cluster.told()
    assert {key: (told.get(key), value) for key, value in now_told.items() if value != told.get(key)} == {}
    assert await cluster.versions() == versions
    more = {name: count - writes.get(name, 0) for name, count in (await count_writes(operator)).items()}
    assert sum(number for name, number in more.items() if 'kind="Tenant"' in name) < LOOKS, more
    assert not any(number for name, number in more.items() if 'kind="Tenant"' not in name), more
    return versions


async def test_gates_are_lifted_within_the_quota_and_a_second_look_and_a_new_operator_write_nothing(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    await cluster.prepare()
    await cluster.write_tenant(2)
    arguments = ("--no-leader-election", "--resync-s", "1")
    async with run_operator(control_plane, namespace, tmp_path, *arguments) as operator:
        await cluster.write_pool(3)
        await wait_until(lambda: cluster.has(admitted=2, waiting=1))
        assert {pinned_to(pod) for pod in await cluster.admitted()} == {f"{namespace}-0"}
        assert all(read_record(pod["metadata"]).placement for pod in await cluster.admitted())

        async def is_told() -> bool:
            return (await cluster.condition("Admitted")).get("reason") == "QuotaExceeded"

        await wait_until(is_told)
        message = (await cluster.condition("Ready"))["message"]
        assert f"Tenant {namespace} holds 2 of at most 2 {CLASS}; this needs 1" in message
        assert "llmos_operator_tenant_accelerators_waiting" in (await operator.ask("/metrics"))[1]
        assert any(text.startswith("admit ") for text in operator.messages())

        versions = await assert_a_second_look_writes_nothing(operator, cluster)
        operator.process.kill()

    async with run_operator(control_plane, namespace, tmp_path, *arguments) as operator:
        await wait_until(operator.is_ready)
        await wait_for_looks(operator)
        assert await cluster.versions() == versions

        await cluster.write_tenant(3)
        await wait_until(lambda: cluster.has(admitted=3, waiting=0))
        await cluster.write_tenant(3)
        await cluster.write_pool(5)
        await wait_until(lambda: cluster.has(admitted=3, waiting=2))
        await cluster.kube.delete(TENANTS, namespace)

        async def is_closed() -> bool:
            return (await cluster.condition("Admitted")).get("reason") == "TenantClosed"

        await wait_until(is_closed)
        assert await cluster.has(admitted=3, waiting=2)
        await cluster.remove_tenant()
        await wait_until(lambda: cluster.has(admitted=5, waiting=0))
        lifted = [pod for pod in await cluster.pods() if ANNOTATION_QUOTA not in pod["metadata"]["annotations"]]
        assert len(lifted) == 2
        assert await operator.end() == 0


async def test_operators_that_are_killed_while_they_give_out_never_give_out_more_than_there_is(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    nodes = 3
    await cluster.prepare(nodes)
    await cluster.write_tenant(nodes * GPUS, borrow_limit=100)
    await cluster.write_pool(nodes * GPUS + 6)
    for wanted in (1, 8, 16):
        async with run_operator(control_plane, namespace, tmp_path, "--no-leader-election") as operator:

            async def has_given(least: int = wanted) -> bool:
                return len(await cluster.admitted()) >= least

            await wait_until(has_given)
            operator.process.kill()
    async with run_operator(control_plane, namespace, tmp_path, "--no-leader-election", "--resync-s", "1") as operator:
        await wait_until(lambda: cluster.has(admitted=nodes * GPUS, waiting=6))
        await wait_for_looks(operator)
        assert await cluster.has(admitted=nodes * GPUS, waiting=6)
        assert await operator.end() == 0
    assert cluster.most_admitted == nodes * GPUS
    places = [pinned_to(pod) for pod in await cluster.admitted()]
    assert {places.count(name) for name in set(places)} == {GPUS}


async def test_a_gang_over_two_nodes_is_released_as_a_whole_each_pod_to_a_node_of_its_own(
    control_plane: ControlPlane, cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    await cluster.prepare(nodes=2)
    await cluster.write_tenant(2 * GPUS)
    await cluster.write_pool(1, count=2 * GPUS)
    async with run_operator(control_plane, namespace, tmp_path, "--no-leader-election", "--resync-s", "1"):
        await wait_until(lambda: cluster.has(admitted=2, waiting=0))
        pods = await cluster.pods()
        assert {pinned_to(pod) for pod in pods} == {f"{namespace}-0", f"{namespace}-1"}
        for pod in pods:
            assert "podAffinity" in pod["spec"]["affinity"], "what was there beside the pin stays"
            assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(GPUS)
        services = {item["metadata"]["name"]: item for item in await cluster.kube.list(SERVICES, namespace=namespace)}
        assert services["chat-leaders"]["spec"]["clusterIP"] == "None"
        # One pod of it is deleted: nobody keeps the other.
        before = {pod["metadata"]["uid"] for pod in pods}
        worker = next(pod for pod in pods if pod["metadata"]["labels"][LABEL_RANK] == "1")
        await cluster.kube.delete(PODS, worker["metadata"]["name"], namespace)

        async def is_renewed() -> bool:
            now = {pod["metadata"]["uid"] for pod in await cluster.admitted()}
            return len(now) == 2 and now.isdisjoint(before)

        await wait_until(is_renewed)
    assert cluster.most_admitted <= 2
