"""Story 17: one team lends its idle GPUs and asks for them back. The borrower's burst replicas drain without a failed
request, the owner is served within the drain time, and both are told how they stand."""

from __future__ import annotations

import time

import pytest

from e2e.cluster.node import PRETEND_GPUS
from e2e.support.api import Api, Object
from e2e.support.gateway import Gateway
from e2e.support.load import steady_load
from e2e.support.objects import PRETEND_CLASS, build_model, build_pool, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.tenants import is_gated, tenants, wait_for_reason, wait_for_tenant
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]

HALF = PRETEND_GPUS // 2
DRAIN_S = 30
START_S = 30
"""A simulator starts in a few seconds; the machine may be busy."""
LOAD = {"streaming": 10, "whole": 4}


async def wait_for_replicas(api: Api, namespace: str, what: str, **wanted: int | str) -> Object:
    """Wait until the status of the pool, or its status.scaling, has these values."""

    async def observe() -> Object:
        status = (await api.get("InferencePool", "pool", namespace) or {}).get("status", {})
        return {**status.get("scaling", {}), **status}

    return await eventually(
        what, observe, lambda seen: {name: seen.get(name) for name in wanted} == wanted, timeout_s=120
    )


async def test_idle_gpus_are_lent_and_come_back_by_draining(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    async with tenants(api, owner=HALF, borrower=HALF, within={"borrower": namespace}) as places:
        for place in places.values():
            await wait_ready(api, await api.create(build_model(place, f"{source.url}/tiny")))
        scaling = {"minReplicas": 1, "maxReplicas": 8, "target": {"queueDepth": 2}, "scaleDownDelaySeconds": 600}
        args, drain = {"decode-step-ms": 20}, {"timeoutSeconds": DRAIN_S}
        burst = build_pool(namespace, accelerator=PRETEND_CLASS, scaling=scaling, args=args, drain=drain)
        await wait_ready(api, await api.create(burst))
        async with steady_load(gateway.target(namespace, key), **LOAD) as report:
            told = await wait_for_replicas(
                api, namespace, "it borrows what is idle", readyReplicas=PRETEND_GPUS, boundedBy="quota"
            )
            assert told["desired"] == PRETEND_GPUS + 1, "one more than was admitted waits for the next place"
            assert "Condition Admitted says why" in told["message"]
            message = await wait_for_reason(api, namespace, "QuotaExceeded")
            assert "others leave fewer idle" in message
            await wait_for_tenant(api, "borrower", "it borrows", borrowed=HALF, accelerators=f"{PRETEND_GPUS}/{HALF}")
            await wait_for_tenant(api, "owner", "it lends", lent=HALF, accelerators=f"0/{HALF}")

            asked_s = time.monotonic()
            own = build_pool(places["owner"], accelerator=PRETEND_CLASS, replicas=HALF, drain=drain)
            await wait_ready(api, await api.create(own), timeout_s=DRAIN_S + START_S)
            took_s = time.monotonic() - asked_s
            await wait_for_tenant(api, "owner", "it has its own", lent=0, accelerators=f"{HALF}/{HALF}")
            await wait_for_replicas(api, namespace, "the borrower keeps its guarantee", readyReplicas=HALF)
            await report.wait_for_more(20)
            assert not report.failures, report

            pods = await api.list("Pod", namespace)
            assert sum(map(is_gated, pods)) == 1
            await api.patch("InferencePool", "pool", places["owner"], {"spec": {"replicas": 0}})
            await wait_for_replicas(api, namespace, "it borrows again", readyReplicas=PRETEND_GPUS)
            await report.wait_for_more(20)
        assert not report.failures, report
        print(f"The owner was served {took_s:.1f} s after it asked; {report.completed} requests, none failed.")
