"""A pool of two accelerator classes in a whole operator process against a real kube-apiserver: what becomes of pods
that were made for one class and are admitted to another."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2e.cluster.controlplane import ControlPlane
from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, INFERENCE_POOLS, NODES
from tests.integration.operator.process import run_operator, wait_until
from tests.integration.operator.test_quota import (
    CLASS,
    Cluster,
    assert_a_second_look_writes_nothing,
    cluster,
    is_gated,
    pinned_to,
)

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(900)]

__all__ = ["cluster"]

OTHER, OTHER_GPU = "quota-test-other", "example.com/gpu"


@pytest.fixture
async def other_class(real_kube: AioKube, namespace: str) -> AsyncIterator[str]:
    """A second class, and a node that has one of it; returns the node's name."""
    name = f"{namespace}-other"
    identity = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"gpu": OTHER}}}
    await real_kube.apply(identity, field_manager="kubelet")
    has = {OTHER_GPU: "1", "pods": "110"}
    status = {"allocatable": has, "capacity": has}
    await real_kube.apply_status({**identity, "metadata": {"name": name}, "status": status})
    await real_kube.apply({**identity, "spec": {"taints": []}}, field_manager="kubelet")
    spec = {"memory": "48Gi", "resourceName": OTHER_GPU, "nodeSelector": {"gpu": OTHER}}
    made = {"apiVersion": "llmos.dev/v1alpha1", "kind": "AcceleratorClass", "metadata": {"name": OTHER}, "spec": spec}
    await real_kube.apply(made, field_manager="user")
    yield name
    await real_kube.delete(NODES, name)
    await real_kube.delete(ACCELERATOR_CLASSES, OTHER)


async def write_pool(cluster: Cluster, replicas: int) -> None:
    accelerator = {"class": CLASS, "count": 1, "alternatives": [OTHER]}
    spec = {"modelRef": {"name": "m"}, "engine": {"name": "simulator"}, "accelerator": accelerator}
    await cluster.write("InferencePool", "chat", {**spec, "replicas": replicas})


async def test_a_replica_that_is_admitted_to_another_class_is_made_for_it(
    control_plane: ControlPlane, cluster: Cluster, other_class: str, namespace: str, tmp_path: Path
) -> None:
    await cluster.prepare()
    quota = [{"class": name, "guaranteed": 1, "borrowLimit": 0} for name in (CLASS, OTHER)]
    await cluster.write("Tenant", namespace, {"namespaces": [namespace], "quota": quota})
    async with run_operator(control_plane, namespace, tmp_path, "--no-leader-election", "--resync-s", "1") as operator:
        await write_pool(cluster, 3)
        await wait_until(lambda: cluster.has(admitted=2, waiting=1))
        found = {}
        for pod in await cluster.admitted():
            made_for = pod["metadata"]["annotations"][ANNOTATION_ACCELERATOR_CLASS]
            found[made_for] = pinned_to(pod)
            resource = OTHER_GPU if made_for == OTHER else "nvidia.com/gpu"
            assert pod["spec"]["containers"][0]["resources"]["requests"][resource] == "1"
            assert pod["spec"]["nodeSelector"] == {"gpu": made_for}
        assert found == {CLASS: f"{namespace}-0", OTHER: other_class}
        assert any(text.startswith("move ") for text in operator.messages())

        async def is_told() -> bool:
            pool = await cluster.kube.get(INFERENCE_POOLS, "chat", namespace) or {}
            told = pool.get("status", {}).get("acceleratorClasses", ())
            return {each["class"]: each["replicas"] for each in told} == {CLASS: 2, OTHER: 1}

        await wait_until(is_told)
        message = (await cluster.condition("Ready"))["message"]
        assert f"at most 1 {CLASS}" in message
        assert f"at most 1 {OTHER}" in message
        waiting = [pod for pod in await cluster.pods() if is_gated(pod)]
        assert len(waiting) == 1
        await assert_a_second_look_writes_nothing(operator, cluster)
        assert await operator.end() == 0
