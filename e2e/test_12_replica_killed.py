"""Story 12: a replica's engine is killed under load. Only streams that it had begun fail, each with a clear error; what
it had not yet answered is asked of another replica, and its callers notice nothing."""

from __future__ import annotations

import pytest

from e2e.cluster.objects import Kubectl
from e2e.support.api import Api
from e2e.support.gateway import Gateway, read_gateway_metric
from e2e.support.load import Report, steady_load
from e2e.support.objects import build_model, build_pool, is_ready, pool_selector, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.signals import signal_engine
from e2e.support.source import Source
from e2e.support.waiting import eventually

pytestmark = [pytest.mark.timeout(600)]

AT_ONCE = 4
"""Requests that an engine works on; the others wait in it and have no byte of an answer."""
STREAMING, WHOLE = 10, 6


async def test_only_streams_that_had_begun_on_a_killed_replica_fail(
    api: Api,
    kubectl: Kubectl,
    operator: OperatorProcess,
    source: Source,
    namespace: str,
    gateway: Gateway,
    key: str,
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    args = {"max-num-seqs": AT_ONCE, "decode-step-ms": 30}
    await wait_ready(api, await api.create(build_pool(namespace, replicas=2, args=args)))
    victim = (await api.list("Pod", namespace, pool_selector("pool")))[0]
    retried = await read_gateway_metric(api, "llmos_gateway_retries_total")
    async with steady_load(gateway.target(namespace, key), streaming=STREAMING, whole=WHOLE) as report:
        await report.wait_for_more(STREAMING)
        await signal_engine(kubectl, victim, "SIGKILL")
        await report.wait_for_more(STREAMING + WHOLE)
        await eventually(
            "the replica is replaced",
            lambda: api.get("InferencePool", "pool", namespace),
            lambda pool: is_ready(pool) and pool and pool["status"]["readyReplicas"] == 2,
            timeout_s=120,
        )
        await report.wait_for_more(STREAMING + WHOLE)
    assert report.completed > 2 * (STREAMING + WHOLE)
    assert await read_gateway_metric(api, "llmos_gateway_retries_total") > retried
    judge(report)


def judge(report: Report) -> None:
    """At least one stream was on the replica; all that failed had begun, and say so."""
    assert 0 < len(report.failures) <= AT_ONCE, report
    for failure in report.failures:
        assert failure.is_stream, report
        assert failure.tokens > 0, report
        assert failure.error.get("code") == "replica_lost", report
        assert failure.error.get("message"), report
