"""Story 26: a replica of two real pods in the closed namespace of a Tenant. The leader is ready only when the worker
has found it by name and joined it over the network; what happens to one of them happens to both.

The node pretends to have four GPUs, and a class says two to a node: so a replica of four has two pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.objects import PRETEND_CLASS, build_model, build_pool, pool_selector, read_condition, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.signals import signal_engine
from e2e.support.source import Source
from e2e.support.tenants import tenants
from e2e.support.waiting import eventually
from llmos.api.names import LABEL_RANK

pytestmark = pytest.mark.timeout(600)

CLASS = "e2e-halves"
"""Before the discovered class in the alphabet: of two classes with the same nodes it has them."""
COUNT, PODS = 4, 2


@pytest.fixture
async def halves(api: Api, operator: OperatorProcess) -> AsyncIterator[None]:
    """A class of the pretended GPUs that says two to a node."""
    found = await eventually("the discovered class", lambda: api.get("AcceleratorClass", PRETEND_CLASS), bool)
    assert found is not None
    spec = {**found["spec"], "countPerNode": COUNT // PODS}
    identity = {"apiVersion": found["apiVersion"], "kind": "AcceleratorClass", "metadata": {"name": CLASS}}
    await api.create({**identity, "spec": spec})
    yield
    await api.delete("AcceleratorClass", CLASS)


async def list_gang(api: Api, namespace: str) -> list[Object]:
    """The pods of the only replica, leader first."""
    pods = await api.list("Pod", namespace, pool_selector("pool"))
    return sorted(pods, key=lambda pod: str(pod["metadata"]["labels"][LABEL_RANK]))


async def wait_for_gang(api: Api, namespace: str, but: list[Object]) -> list[Object]:
    """Wait until a replica serves that has no pod of an earlier one; return its pods."""
    gone = {pod["metadata"]["uid"] for pod in but}

    async def observe() -> tuple[int, int]:
        pods = await list_gang(api, namespace)
        pool = await api.get("InferencePool", "pool", namespace) or {}
        fresh = sum(pod["metadata"]["uid"] not in gone for pod in pods)
        return fresh if len(pods) == fresh else -1, pool.get("status", {}).get("readyReplicas", 0)

    await eventually("a whole gang serves", observe, lambda seen: seen == (PODS, 1), timeout_s=180)
    return await list_gang(api, namespace)


async def wait_until_it_blames(api: Api, namespace: str, pod: str, reason: str) -> None:
    """Wait until the pool is not ready for a reason that this pod gave. The kubelet may tell the ends of pods that end
    together in any order, so for a moment another one may stand there."""
    await eventually(
        f"the pool says {reason} of {pod}",
        lambda: api.get("InferencePool", "pool", namespace),
        lambda pool: (
            read_condition(pool).get("reason") == reason
            and str(read_condition(pool).get("message")).startswith(f"Pod {pod}: ")
        ),
        timeout_s=90,
    )


async def test_two_real_pods_serve_break_and_go_as_one(
    api: Api, kubectl: Kubectl, halves: None, operator: OperatorProcess, source: Source
) -> None:
    async with tenants(api, accelerator=CLASS, gang=COUNT) as places:
        namespace = places["gang"]
        await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
        pool = build_pool(namespace, accelerator=CLASS, count=COUNT, drain={"timeoutSeconds": 5})
        pool = await wait_ready(api, await api.create(pool), timeout_s=180)
        assert (pool["status"]["plan"]["pods"], pool["status"]["accelerators"]) == (PODS, COUNT)
        first = await list_gang(api, namespace)
        assert len(first) == PODS
        endpoints = await api.list("EndpointSlice", namespace, "kubernetes.io/service-name=pool")
        served = {each["targetRef"]["name"] for item in endpoints for each in item["endpoints"]}
        assert served == {first[0]["metadata"]["name"]}, "only the leader takes requests"

        worker = first[1]["metadata"]["name"]
        await signal_engine(kubectl, first[1], "SIGKILL")
        await wait_until_it_blames(api, namespace, worker, "EngineCrashed")
        second = await wait_for_gang(api, namespace, but=first)

        await api.delete("Pod", second[1]["metadata"]["name"], namespace)
        third = await wait_for_gang(api, namespace, but=second)

        gone = third[1]["metadata"]["name"]
        force = ("--force", "--grace-period=0", "--wait=false")
        await asyncio.to_thread(kubectl, "delete", "pod", gone, f"--namespace={namespace}", *force)
        await wait_for_gang(api, namespace, but=third)

        await api.patch("InferencePool", "pool", namespace, {"spec": {"replicas": 0}})
        await eventually("all its pods are gone", lambda: list_gang(api, namespace), lambda pods: not pods)
