"""Story 4: a replica's engine dies, another hangs, a pod is deleted by hand, the API server is away. The pool recovers
each time, and its status tells meanwhile."""

from __future__ import annotations

import asyncio
import os

import pytest

from e2e.cluster import Cluster
from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.asking import Target
from e2e.support.load import find_service_url, steady_load
from e2e.support.objects import build_model, build_pool, is_ready, pool_selector, read_condition, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.pods import follow_pods
from e2e.support.signals import signal_engine
from e2e.support.source import Source
from e2e.support.waiting import eventually
from llmos.api import Reason

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]

API_AWAY_S = float(os.environ.get("LLMOS_E2E_API_AWAY_S", "30"))
HANG_TIMEOUT_S = 240.0
"""The watchdog's 30 s, three failed liveness probes of 10 s, and a start, on a busy machine."""


async def start_pool(api: Api, namespace: str, source: Source, replicas: int = 2) -> Object:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    return await wait_ready(
        api, await api.create(build_pool(namespace, replicas=replicas, drain={"timeoutSeconds": 30}))
    )


async def read_reasons(api: Api, namespace: str) -> list[str]:
    """Reasons of the pool's Events, each as often as it was told."""
    events = await api.list("Event", namespace)
    return [event["reason"] for event in events if event["regarding"]["kind"] == "InferencePool"]


async def wait_until_replaced(api: Api, namespace: str, lost: Object, *, timeout_s: float) -> None:
    """Wait until the pool is ready again without a certain pod."""

    async def observe() -> tuple[Object | None, set[str]]:
        pods = await api.list("Pod", namespace, pool_selector("pool"))
        return await api.get("InferencePool", "pool", namespace), {pod["metadata"]["uid"] for pod in pods}

    await eventually(
        "the replica is replaced",
        observe,
        lambda seen: is_ready(seen[0]) and len(seen[1]) == 2 and lost["metadata"]["uid"] not in seen[1],
        timeout_s=timeout_s,
    )


@pytest.mark.parametrize(
    ("engine_signal", "reason", "timeout_s"),
    [
        pytest.param("SIGKILL", Reason.EngineCrashed, 120.0, id="dies"),
        pytest.param("SIGSTOP", Reason.EngineHung, HANG_TIMEOUT_S, id="hangs"),
    ],
)
async def test_a_replica_whose_engine_dies_or_hangs_is_replaced(
    api: Api,
    kubectl: Kubectl,
    operator: OperatorProcess,
    source: Source,
    namespace: str,
    engine_signal: str,
    reason: Reason,
    timeout_s: float,
) -> None:
    await start_pool(api, namespace, source)
    victim = (await api.list("Pod", namespace, pool_selector("pool")))[0]
    await signal_engine(kubectl, victim, engine_signal)

    told = await eventually(
        f"the status tells {reason}",
        lambda: api.get("InferencePool", "pool", namespace),
        lambda pool: read_condition(pool).get("reason") == reason,
        timeout_s=timeout_s,
        poll_s=0.2,
    )
    assert "Meanwhile 1 replicas answer" in read_condition(told)["message"]
    assert read_condition(told, "Available")["status"] == "True"
    await wait_until_replaced(api, namespace, victim, timeout_s=timeout_s)
    assert (await read_reasons(api, namespace)).count(reason) == 1


async def test_a_pod_that_is_deleted_by_hand_is_replaced_and_finishes_its_requests(
    api: Api, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await start_pool(api, namespace, source)
    victim = (await api.list("Pod", namespace, pool_selector("pool")))[0]
    url = await find_service_url(api, namespace)
    async with steady_load(Target(url, "tiny")) as report, follow_pods(api, namespace) as pods:
        await report.wait_for_more(5)
        deletion = pods.mark()
        await api.delete("Pod", victim["metadata"]["name"], namespace)
        await wait_until_replaced(api, namespace, victim, timeout_s=120)
        await report.wait_for_more(5)
    assert pods.fewest_serving(deletion) == 1
    assert not report.failures, report


async def test_while_the_api_server_is_away_requests_are_answered_and_afterwards_changes_are_made(
    api: Api, machine: Cluster, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await start_pool(api, namespace, source)
    pid = operator.pid
    before = {pod["metadata"]["uid"] for pod in await api.list("Pod", namespace, pool_selector("pool"))}
    async with steady_load(Target(await find_service_url(api, namespace), "tiny")) as report:
        await asyncio.to_thread(machine.stop_component, "kube-apiserver")
        try:
            await asyncio.sleep(API_AWAY_S)
        finally:
            await asyncio.to_thread(machine.start_component, "kube-apiserver")
        await report.wait_for_more(5)

        async def observe() -> Object | None:
            return await api.get("InferencePool", "pool", namespace)

        # The change is the first thing that the operator must notice by a watch of its own again.
        await eventually("the API server answers", observe, lambda pool: pool)
        await api.patch("InferencePool", "pool", namespace, {"spec": {"replicas": 3}})
        scaled = await eventually(
            "the change is made",
            observe,
            lambda pool: is_ready(pool) and pool and pool["status"]["readyReplicas"] == 3,
            timeout_s=150,
        )
    assert scaled is not None
    assert not report.failures, report
    after = {pod["metadata"]["uid"] for pod in await api.list("Pod", namespace, pool_selector("pool"))}
    assert before < after, "no replica was lost to the outage"
    assert operator.pid == pid, "the operator lived through it"
