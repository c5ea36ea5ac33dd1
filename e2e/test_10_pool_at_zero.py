"""Story 10: a pool sleeps. Ten requests at once wake it, all are held and answered by one replica, and when nobody asks
any more it sleeps again. Status and Events tell why, and nothing is ordered twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from e2e.support.api import Api, Object
from e2e.support.asking import ask, open_session
from e2e.support.decisions import follow_decisions
from e2e.support.gateway import Gateway
from e2e.support.objects import build_model, build_pool, pool_selector, read_condition, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.pods import follow_pods
from e2e.support.source import Source
from e2e.support.waiting import eventually
from llmos.api import Reason

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]

REQUESTS = 10
SCALING = {"minReplicas": 0, "maxReplicas": 8, "scaleDownDelaySeconds": 3, "scaleToZeroAfterSeconds": 6}


async def wait_until_it_sleeps(api: Api, namespace: str) -> Object:
    async def observe() -> tuple[Object | None, list[Object]]:
        pods = await api.list("Pod", namespace, pool_selector("pool"))
        return await api.get("InferencePool", "pool", namespace), pods

    def is_asleep(seen: tuple[Object | None, list[Object]]) -> bool:
        return read_condition(seen[0]).get("reason") == Reason.ScaledToZero and not seen[1]

    pool, _ = await eventually("the pool sleeps", observe, is_asleep)
    assert pool is not None
    return pool


@pytest.mark.parametrize("target", [{}, {"queueDepth": 16}], ids=["nothing-set", "queue-depth"])
async def test_ten_requests_wake_a_pool_that_sleeps_and_it_sleeps_again(
    api: Api,
    operator: OperatorProcess,
    source: Source,
    namespace: str,
    gateway: Gateway,
    key: str,
    target: dict[str, Any],
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    await api.create(build_pool(namespace, scaling={**SCALING, "target": target}, drain={"timeoutSeconds": 30}))
    await wait_until_it_sleeps(api, namespace)
    asked = gateway.target(namespace, key)
    async with (
        follow_pods(api, namespace) as pods,
        follow_decisions(api, namespace) as decisions,
        open_session() as session,
    ):
        asks = (ask(session, asked, 40, stream=number % 2 == 0) for number in range(REQUESTS))
        answers = await asyncio.gather(*asks)
        assert not [answer for answer in answers if answer.problem]
        asleep = await wait_until_it_sleeps(api, namespace)

    assert len(pods.seen) == 1, "one replica was enough"
    assert [decision.desired for decision in decisions.changes()] == [1, 0]
    assert all(decision.message for decision in decisions.changes())
    assert asleep["status"]["scaling"]["message"]
    told = [event for event in await api.list("Event", namespace) if event["regarding"]["kind"] == "InferencePool"]
    notes = [event["note"] for event in told]
    for change in decisions.changes():
        assert any(change.message in note for note in notes), f"no Event tells of: {change}. There are {notes}"
