"""Story 15: there is no operator for a minute. Requests are answered all the time, those of new callers included, and
when it is back it takes up the number of replicas that there is: it does not take silence for idleness."""

from __future__ import annotations

import asyncio
import os

import pytest

from e2e.support.api import Api
from e2e.support.asking import ask, open_session
from e2e.support.decisions import follow_decisions
from e2e.support.gateway import SYSTEM_NAMESPACE, Gateway, build_key, wait_until_known
from e2e.support.load import steady_load
from e2e.support.objects import build_model, build_pool, pool_selector, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.core, pytest.mark.timeout(600)]

AWAY_S = float(os.environ.get("LLMOS_E2E_OPERATOR_AWAY_S", "60"))
SCALING = {"minReplicas": 1, "maxReplicas": 4, "target": {"queueDepth": 4}, "scaleDownDelaySeconds": 1}
STREAMING, WHOLE = 6, 2
"""Eight requests at a time: two replicas' worth."""
SETTLED_S = 12.0


async def test_without_an_operator_requests_are_answered_and_afterwards_nothing_is_forgotten(
    api: Api, operator: OperatorProcess, source: Source, namespace: str, gateway: Gateway, key: str
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    args = {"decode-step-ms": 20, "decode-step-ms-per-seq": 0}
    await wait_ready(api, await api.create(build_pool(namespace, scaling=SCALING, args=args)))
    target = gateway.target(namespace, key)
    async with steady_load(target, streaming=STREAMING, whole=WHOLE) as report:
        await eventually(
            "two replicas",
            lambda: api.get("InferencePool", "pool", namespace),
            lambda pool: pool and pool["status"]["readyReplicas"] == 2,
        )
        before = {pod["metadata"]["uid"] for pod in await api.list("Pod", namespace, pool_selector("pool"))}
        async with follow_decisions(api, namespace) as decisions:
            await asyncio.to_thread(operator.kill)
            await meet_a_new_caller(api, gateway, namespace)
            await asyncio.sleep(AWAY_S)
            await report.wait_for_more(STREAMING + WHOLE)
            await asyncio.to_thread(operator.start)
            await asyncio.to_thread(operator.wait_until_ready)
            await asyncio.sleep(SETTLED_S)
        after = {pod["metadata"]["uid"] for pod in await api.list("Pod", namespace, pool_selector("pool"))}
    assert not report.failures, report
    assert (decisions.lowest(), decisions.highest()) == (2, 2), decisions.changes()
    assert before == after


async def meet_a_new_caller(api: Api, gateway: Gateway, namespace: str) -> None:
    """A key that was made while nobody but the gateways looked."""
    name = f"{namespace}-new"
    key, secret = build_key(name, namespace)
    await api.create(secret)
    try:
        await wait_until_known(api, key)
        async with open_session() as session:
            answer = await ask(session, gateway.target(namespace, key), 10, stream=True)
        assert not answer.problem, answer
    finally:
        await api.delete("Secret", name, SYSTEM_NAMESPACE)
