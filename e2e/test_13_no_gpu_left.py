"""Story 13: the GPUs are all taken. A pool that would grow says so, serves with what it has, does not order again and
again, and grows when a GPU is free. Who asks a pool that cannot wake is told why."""

from __future__ import annotations

import asyncio

import pytest

from e2e.cluster.node import PRETEND_GPUS
from e2e.support.api import Api, Object
from e2e.support.asking import ask, open_session
from e2e.support.gateway import Gateway
from e2e.support.load import steady_load
from e2e.support.objects import GPU_RESOURCE, PRETEND_CLASS, build_model, build_pool, pool_selector, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.pods import follow_pods
from e2e.support.source import Source
from e2e.support.waiting import eventually
from llmos.api import Reason

pytestmark = pytest.mark.timeout(600)

WATCHED_S = 15.0
"""Long enough that orders which are given again and again would show."""
HOLD_S = 20
"""Longer than it takes to find out that there is no place."""
TRIES = 3
"""Pods that may come while it is watched: a try now and then is how a free GPU is found."""


async def take_gpus(api: Api, namespace: str, count: int) -> None:
    """Another pool that holds so many GPUs."""
    hog = build_pool(namespace, name="hog", accelerator=PRETEND_CLASS, replicas=count, drain={"timeoutSeconds": 5})
    await wait_ready(api, await api.create(hog))


async def free_gpus(api: Api, namespace: str, *, left: int) -> None:
    """Let the other pool hold only so many."""
    await api.patch("InferencePool", "hog", namespace, {"spec": {"replicas": left}})


async def wait_for_status(api: Api, namespace: str, what: str, **wanted: int | str) -> Object:
    """Wait until fields of the status, or of status.scaling, have these values."""

    async def observe() -> dict[str, object]:
        pool = await api.get("InferencePool", "pool", namespace) or {}
        status = pool.get("status", {})
        return {**status.get("scaling", {}), **status}

    return await eventually(
        what, observe, lambda seen: {field: seen.get(field) for field in wanted} == wanted, timeout_s=120
    )


async def test_a_pool_that_cannot_grow_says_so_serves_on_and_grows_when_a_gpu_is_free(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    await take_gpus(api, namespace, PRETEND_GPUS - 2)
    scaling = {"minReplicas": 1, "maxReplicas": 8, "target": {"queueDepth": 2}, "scaleDownDelaySeconds": 5}
    pool = build_pool(
        namespace,
        accelerator=PRETEND_CLASS,
        scaling=scaling,
        args={"decode-step-ms": 20},
        drain={"timeoutSeconds": 30},
    )
    await wait_ready(api, await api.create(pool))
    async with (
        follow_pods(api, namespace) as pods,
        steady_load(gateway.target(namespace, key), streaming=8, whole=4) as report,
    ):
        told = await wait_for_status(api, namespace, "it says so", boundedBy="unschedulable", readyReplicas=2)
        assert "found no place. Add accelerators" in told["message"]
        assert told["desired"] < told["raw"]
        events = [event for event in await api.list("Event", namespace) if event["regarding"]["name"] == "pool"]
        notes = [event["note"] for event in events if event["reason"] == Reason.Unschedulable]
        assert len(notes) == 1
        assert GPU_RESOURCE in notes[0]
        await eventually(
            "the surplus is withdrawn",
            lambda: api.list("Pod", namespace, pool_selector("pool")),
            lambda listed: len(listed) == 2,
        )
        before = len(pods.seen)
        await asyncio.sleep(WATCHED_S)
        assert len(pods.seen) - before <= TRIES
        await report.wait_for_more(12)
        assert not report.failures, report

        await free_gpus(api, namespace, left=0)
        await wait_for_status(api, namespace, "it grows", readyReplicas=PRETEND_GPUS)
        await report.wait_for_more(12)
    assert not report.failures, report


@pytest.mark.core
async def test_who_asks_a_pool_that_cannot_wake_is_told_why(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    await take_gpus(api, namespace, PRETEND_GPUS)
    scaling = {"minReplicas": 0, "maxReplicas": 2, "target": {"queueDepth": 4}, "scaleToZeroAfterSeconds": 5}
    await api.create(build_pool(namespace, accelerator=PRETEND_CLASS, scaling=scaling, hold={"timeoutSeconds": HOLD_S}))
    await wait_for_status(api, namespace, "it sleeps", desiredReplicas=0, observedGeneration=1)
    target = gateway.target(namespace, key)
    async with open_session() as session:
        whole, stream = await asyncio.gather(*(ask(session, target, 5, stream=kind) for kind in (False, True)))
        assert whole.status == 503
        assert int(whole.retry_after) > 0
        for answer in (whole, stream):
            assert GPU_RESOURCE in answer.error["message"], answer

        await free_gpus(api, namespace, left=0)
        await eventually(
            "it wakes", lambda: ask(session, target, 5, stream=False), lambda answer: not answer.problem, timeout_s=120
        )
