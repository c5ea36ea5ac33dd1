"""The life of a FineTuneJob against a real kube-apiserver: it takes every object, and a second pass writes nothing.

There are no kubelet and no scheduler here: what they would report, the tests write.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS, GATE_QUOTA
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.errors import Invalid
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    CONFIG_MAPS,
    FINE_TUNE_JOBS,
    LLM_MODELS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SERVICES,
    TENANTS,
    Resource,
)
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.base import Context, Key
from llmos_operator.reconcilers.finetune import reconcile_finetune
from llmos_operator.reconcilers.quota import reconcile_quota
from llmos_operator.reconcilers.quota_board import QUOTA
from tests.operator.reconcilers.job_world import CHECKPOINT, METRIC, REPORT, build_base, build_job

pytestmark = pytest.mark.apiserver

JOB = "tune"
CLASS = "finetune-test-gpu"
OTHER = "finetune-test-other"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class Cluster:
    """One job in a namespace of its own."""

    def __init__(self, kube: AioKube, namespace: str) -> None:
        self.kube, self.namespace = kube, namespace
        self.context = Context(kube=kube, settings=Settings(), now=lambda: datetime.now(UTC))

    async def begin(self, **spec: Any) -> None:
        base = build_base()
        identity = {"name": base["metadata"]["name"], "namespace": self.namespace}
        await self.kube.apply({**base, "metadata": identity, "status": {}}, field_manager="user")
        await self.kube.apply_status(
            {key: base[key] for key in ("apiVersion", "kind", "status")} | {"metadata": identity}
        )
        await self.write(**spec)

    async def write(self, **spec: Any) -> None:
        job = build_job(**spec)
        await self.kube.apply({**job, "metadata": {"name": JOB, "namespace": self.namespace}}, field_manager="user")

    async def go(self, passes: int = 3) -> dict[str, Any]:
        for _ in range(passes):
            await reconcile_finetune(self.context, Key(FINE_TUNE_JOBS.kind, self.namespace, JOB))
        status: dict[str, Any] = (await self.get(FINE_TUNE_JOBS, JOB)).get("status", {})
        return status

    async def get(self, resource: Resource, name: str) -> dict[str, Any]:
        found = await self.kube.get(resource, name, self.namespace)
        assert found is not None, f"{resource.kind} {name} is not there"
        return found

    async def names(self, resource: Resource) -> list[str]:
        return [item["metadata"]["name"] for item in await self.kube.list(resource, namespace=self.namespace)]

    async def report(self, pod: str, phase: str, **state: Any) -> None:
        container = next((name for name in ("prepare", "tidy") if f"-{name}" in pod), "train")
        shared = {"image": "i", "imageID": "", "ready": False, "restartCount": 0}
        status = {"phase": phase, "containerStatuses": [{"name": container, "state": state, **shared}]}
        identity = {"name": pod, "namespace": self.namespace}
        await self.kube.apply_status({"apiVersion": "v1", "kind": "Pod", "metadata": identity, "status": status})

    async def end(self, pod: str, code: int = 0, **message: Any) -> None:
        terminated = {"exitCode": code, "message": json.dumps(message) if message else "", "reason": "Ended"}
        await self.report(pod, "Failed" if code else "Succeeded", terminated=terminated)

    async def prepare(self) -> None:
        await self.go()
        await self.report("tune-prepare-1", "Running", running={})
        await self.go(1)
        await self.end("tune-prepare-1", outcome="prepared", report=REPORT)
        await self.go()

    async def complete(self, pod: str) -> None:
        await self.end(
            pod,
            outcome="complete",
            evaluation={"metrics": [METRIC]},
            output={"digest": "sha256:out", "kind": "adapter"},
            lastCheckpoint=CHECKPOINT,
            progress={"step": 100, "totalSteps": 100},
        )

    async def versions(self) -> dict[str, str]:
        kinds = (FINE_TUNE_JOBS, PODS, CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, LLM_MODELS)
        items = [item for kind in kinds for item in await self.kube.list(kind, namespace=self.namespace)]
        return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in items}

    async def is_quiet(self) -> bool:
        before = await self.versions()
        await self.go(2)
        return before == await self.versions()


@pytest.fixture
def cluster(real_kube: AioKube, namespace: str) -> Cluster:
    return Cluster(real_kube, namespace)


async def test_a_whole_life_and_a_second_pass_that_writes_nothing(cluster: Cluster) -> None:
    await cluster.begin()
    status = await cluster.go()
    assert status["phase"] == "Preparing"
    assert await cluster.is_quiet()
    await cluster.prepare()
    assert await cluster.names(PODS) == ["tune-train-1"]
    await cluster.report("tune-train-1", "Running", running={})
    assert (await cluster.go(1))["phase"] == "Training"
    assert await cluster.is_quiet()
    await cluster.complete("tune-train-1")
    status = await cluster.go()
    assert (status["phase"], status["output"]["modelRef"]) == ("Succeeded", {"name": "support"})
    assert await cluster.names(PODS) == []
    assert await cluster.is_quiet()
    claim = await cluster.get(PERSISTENT_VOLUME_CLAIMS, "tune-work")
    assert [owner["kind"] for owner in claim["metadata"]["ownerReferences"]] == ["FineTuneJob", "LLMModel"]
    model = await cluster.get(LLM_MODELS, "support")
    assert model["spec"]["source"]["uri"] == "pvc://tune-work/output"


async def test_a_lost_pod_a_suspension_and_a_gate(cluster: Cluster) -> None:
    gate = {"evaluate": {"gates": [{"metric": "eval_loss", "max": 0.5}]}}
    await cluster.begin(**gate)
    await cluster.prepare()
    await cluster.report("tune-train-1", "Running", running={})
    await cluster.go(1)
    await cluster.write(**gate, suspend=True)
    status = await cluster.go()
    assert (status["phase"], status["attempts"]["preemptions"]) == ("Suspended", 1)
    assert await cluster.names(PODS) == []
    assert await cluster.is_quiet()
    await cluster.write(**gate, suspend=False)
    await cluster.go()
    assert await cluster.names(PODS) == ["tune-train-2"]
    await cluster.kube.delete(PODS, "tune-train-2", cluster.namespace, grace_period_s=0)
    status = await cluster.go()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 1}
    assert await cluster.is_quiet()
    cluster.context = Context(kube=cluster.kube, settings=Settings(), now=lambda: datetime(2100, 1, 1, tzinfo=UTC))
    await cluster.go()
    await cluster.complete("tune-train-3")
    status = await cluster.go()
    assert status["phase"] == "Failed"
    assert status["evaluation"]["gates"][0]["passed"] is False
    assert await cluster.names(LLM_MODELS) == ["smollm2"]
    assert await cluster.is_quiet()


async def test_two_nodes_are_two_pods_and_a_service_and_one_attempt(cluster: Cluster) -> None:
    two = {
        "trainer": {"accelerator": {"class": "cpu"}, "nodes": 2},
        "checkpoint": {"storage": {"accessMode": "ReadWriteMany"}},
    }
    await cluster.begin(**two)
    await cluster.prepare()
    assert await cluster.names(PODS) == ["tune-train-1", "tune-train-1-1"]
    service = await cluster.get(SERVICES, "tune-train")
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    for pod in ("tune-train-1", "tune-train-1-1"):
        await cluster.report(pod, "Running", running={})
    assert (await cluster.go(1))["phase"] == "Training"
    assert await cluster.is_quiet()
    await cluster.kube.delete(PODS, "tune-train-1-1", cluster.namespace, grace_period_s=0)
    status = await cluster.go()
    assert status["attempts"] == {"user": 0, "infrastructure": 1, "preemptions": 0}
    assert await cluster.names(PODS) == []
    assert await cluster.is_quiet()
    cluster.context = Context(kube=cluster.kube, settings=Settings(), now=lambda: datetime(2100, 1, 1, tzinfo=UTC))
    await cluster.go()
    assert await cluster.names(PODS) == ["tune-train-2", "tune-train-2-1"]
    await cluster.end("tune-train-2-1", outcome="finished")
    await cluster.complete("tune-train-2")
    assert (await cluster.go())["phase"] == "Succeeded"
    assert await cluster.names(PODS) == []
    assert await cluster.is_quiet()


async def test_the_quota_sees_an_attempt_that_waits_behind_its_gate(cluster: Cluster) -> None:
    kube, name = cluster.kube, cluster.namespace
    kind = {"apiVersion": "llmos.dev/v1alpha1"}
    quota = [{"class": CLASS, "guaranteed": 1, "borrowLimit": 0}]
    spec = {"memory": "80Gi", "nodeSelector": {"gpu": CLASS}}
    tenant = {**kind, "kind": "Tenant", "metadata": {"name": name}, "spec": {"namespaces": [name], "quota": quota}}
    try:
        await kube.apply(
            {**kind, "kind": "AcceleratorClass", "metadata": {"name": CLASS}, "spec": spec}, field_manager="user"
        )
        await kube.apply(tenant, field_manager="user")
        await cluster.begin(trainer={"accelerator": {"class": CLASS}})
        await cluster.prepare()
        pod = await cluster.kube.list(PODS, namespace=name)
        assert pod[0]["spec"]["schedulingGates"] == [{"name": GATE_QUOTA}]
        assert pod[0]["metadata"]["annotations"][ANNOTATION_ACCELERATOR_CLASS] == CLASS
        await reconcile_quota(cluster.context, QUOTA)
        status = await cluster.go()
        assert status["phase"] == "Queued"
        admitted = next(each for each in status["conditions"] if each["type"] == "Admitted")
        assert (admitted["status"], admitted["reason"]) == ("False", "WaitsForRoom")
        assert await cluster.is_quiet()
    finally:
        await kube.delete(TENANTS, name)
        await kube.delete(ACCELERATOR_CLASSES, CLASS)


async def test_an_attempt_moves_to_the_class_that_has_room_and_is_bound_to_a_node_of_it(cluster: Cluster) -> None:
    """The server takes the pods for both classes, the mark that keeps the room, and what releases a gated pod."""
    kube, name = cluster.kube, cluster.namespace
    kind = {"apiVersion": "llmos.dev/v1alpha1"}
    classes = {CLASS: "nvidia.com/gpu", OTHER: "example.com/gpu"}
    quota = [{"class": each, "guaranteed": 1, "borrowLimit": 0} for each in classes]
    tenant = {**kind, "kind": "Tenant", "metadata": {"name": name}, "spec": {"namespaces": [name], "quota": quota}}
    try:
        for each, resource in classes.items():
            spec = {"memory": "80Gi", "resourceName": resource, "nodeSelector": {"gpu": each}}
            manifest = {**kind, "kind": "AcceleratorClass", "metadata": {"name": each}, "spec": spec}
            await kube.apply(manifest, field_manager="user")
        await _make_node(kube, name, OTHER, classes[OTHER])
        await kube.apply(tenant, field_manager="user")
        await cluster.begin(trainer={"accelerator": {"class": CLASS, "alternatives": [OTHER]}})
        await cluster.prepare()
        assert (await cluster.get(PODS, "tune-train-1"))["spec"]["nodeSelector"] == {"gpu": CLASS}
        await reconcile_quota(cluster.context, QUOTA)
        marked = await cluster.get(PODS, "tune-train-1")
        assert marked["spec"]["schedulingGates"] == [{"name": GATE_QUOTA}]
        await cluster.go()
        assert await cluster.names(PODS) == ["tune-train-2"]
        cluster.context.quota.next_pass = None
        await reconcile_quota(cluster.context, QUOTA)
        pod = await cluster.get(PODS, "tune-train-2")
        assert "schedulingGates" not in pod["spec"]
        assert pod["spec"]["nodeSelector"] == {"gpu": OTHER}
        assert pod["spec"]["containers"][0]["resources"]["limits"] == {classes[OTHER]: "1"}
        [term] = pod["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
        assert term["matchFields"][0]["values"] == [name]
        status = await cluster.go()
        assert (status["acceleratorClass"], status["attempts"]["moves"]) == (OTHER, 1)
        assert await cluster.is_quiet()
    finally:
        await kube.delete(TENANTS, name)
        await kube.delete(NODES, name)
        for each in classes:
            await kube.delete(ACCELERATOR_CLASSES, each)


async def _make_node(kube: AioKube, name: str, of_class: str, resource: str) -> None:
    identity = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"gpu": of_class}}}
    await kube.apply(identity, field_manager="kubelet")
    has = {resource: "1", "pods": "110"}
    await kube.apply_status({**identity, "metadata": {"name": name}, "status": {"allocatable": has, "capacity": has}})
    await kube.apply({**identity, "spec": {"taints": []}}, field_manager="kubelet")


async def test_what_the_checkpoints_rest_on_cannot_be_changed(cluster: Cluster) -> None:
    await cluster.begin()
    await cluster.write(suspend=True)
    with pytest.raises(Invalid, match="make a new FineTuneJob"):
        await cluster.write(baseModelRef={"name": "another"})


async def test_a_job_without_a_claim_keeps_everything_in_its_object_store(cluster: Cluster) -> None:
    storage = {"uri": "s3://bucket/ml", "secretRef": {"name": "store"}}
    await cluster.begin(checkpoint={"storage": storage})
    await cluster.go()
    assert await cluster.names(PERSISTENT_VOLUME_CLAIMS) == []
    spec = (await cluster.get(PODS, "tune-prepare-1"))["spec"]
    assert [each["name"] for each in spec["initContainers"]][-1] == "prepare"
    assert [each["name"] for each in spec["containers"]] == ["keep"]
    await cluster.prepare()
    await cluster.go()
    spec = (await cluster.get(PODS, "tune-train-1"))["spec"]
    assert spec["initContainers"][-1]["name"] == "restore"
    await cluster.end(
        "tune-train-1",
        outcome="complete",
        evaluation={"metrics": [METRIC]},
        output={"digest": "sha256:out", "kind": "adapter"},
        lastCheckpoint={**CHECKPOINT, "uri": "s3://bucket/ml/a/tune/checkpoints/step-00000040.1"},
    )
    status = await cluster.go()
    place = f"s3://bucket/ml/{cluster.namespace}/tune"
    assert (status["phase"], status["output"]["uri"]) == ("Succeeded", f"{place}/output")
    source = (await cluster.get(LLM_MODELS, "support"))["spec"]["source"]
    assert source == {"uri": f"{place}/output", "secretRef": {"name": "store"}}
