"""Story 14: under load the gateway's pods are replaced one after the other, and the API server is away for a while. No
request fails."""

from __future__ import annotations

import asyncio
import os

import pytest

from e2e.cluster import Cluster
from e2e.support.api import Api
from e2e.support.gateway import REPLICAS, Gateway, list_gateway_pods, restart_gateway_pod
from e2e.support.load import steady_load
from e2e.support.objects import build_model, build_pool, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.timeout(600)]

API_AWAY_S = float(os.environ.get("LLMOS_E2E_API_AWAY_S", "30"))
STREAMING, WHOLE = 8, 4


async def start_pool(api: Api, namespace: str, source: Source) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    pool = build_pool(namespace, replicas=2, args={"decode-step-ms": 20})
    await wait_ready(api, await api.create(pool))


async def test_gateways_that_are_replaced_one_by_one_fail_no_request(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    await start_pool(api, namespace, source)
    async with steady_load(gateway.target(namespace, key), streaming=STREAMING, whole=WHOLE) as report:
        await report.wait_for_more(STREAMING + WHOLE)
        pods = await list_gateway_pods(api)
        assert len(pods) == REPLICAS
        for pod in pods:
            await restart_gateway_pod(api, pod)
            await report.wait_for_more(STREAMING + WHOLE)
    assert not report.failures, report


async def test_gateways_serve_on_while_the_api_server_is_away(
    api: Api,
    machine: Cluster,
    operator: OperatorProcess,
    source: Source,
    namespace: str,
    gateway: Gateway,
    key: str,
) -> None:
    await start_pool(api, namespace, source)
    restarts = {pod["metadata"]["uid"] for pod in await list_gateway_pods(api)}
    async with steady_load(gateway.target(namespace, key), streaming=STREAMING, whole=WHOLE) as report:
        await report.wait_for_more(STREAMING + WHOLE)
        await asyncio.to_thread(machine.stop_component, "kube-apiserver")
        try:
            await asyncio.sleep(API_AWAY_S)
            await report.wait_for_more(STREAMING + WHOLE)
        finally:
            await asyncio.to_thread(machine.start_component, "kube-apiserver")
        await eventually(
            "the gateways are seen again",
            lambda: list_gateway_pods(api),
            lambda pods: {pod["metadata"]["uid"] for pod in pods} == restarts,
        )
        # What changes afterwards must be noticed again: a second replica goes, and requests with it, but none fails.
        await api.patch("InferencePool", "pool", namespace, {"spec": {"replicas": 1}})
        await eventually(
            "the change is made",
            lambda: api.get("InferencePool", "pool", namespace),
            lambda pool: pool and pool["status"]["readyReplicas"] == 1 and not pool["status"]["drainingReplicas"],
            timeout_s=150,
        )
        await report.wait_for_more(STREAMING + WHOLE)
    assert not report.failures, report
