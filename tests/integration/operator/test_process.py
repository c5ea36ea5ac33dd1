"""Whole operator processes against a real kube-apiserver: they watch, one of them writes, and they end in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.controlplane import ControlPlane
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.resources import INFERENCE_POOLS, LEASES
from llmos_operator.runtime.app import LEASE_NAME
from tests.integration.operator.process import OperatorProcess, run_operator, wait_until

pytestmark = pytest.mark.apiserver

Start = Callable[[], AbstractAsyncContextManager[OperatorProcess]]


@pytest.fixture
def start(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Start:
    """Starts operators that share one Lease."""
    return lambda: run_operator(control_plane, namespace, tmp_path)


def pool(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {"modelRef": {"name": "absent"}, "accelerator": {"class": "cpu"}, "replicas": 1},
    }


async def test_a_pool_gets_a_status_and_the_process_ends_in_order(
    start: Start, real_kube: AioKube, namespace: str
) -> None:
    async def has_status() -> bool:
        found = await real_kube.get(INFERENCE_POOLS, "p", namespace)
        return bool(found and found.get("status", {}).get("conditions"))

    async with start() as operator:
        await wait_until(operator.is_ready)
        assert await operator.ask("/healthz") == (200, "ok")
        await real_kube.apply(pool(namespace))
        await wait_until(has_status)
        assert await operator.end() == 0
        lease = await real_kube.get(LEASES, LEASE_NAME, namespace)
        assert lease is not None
        assert lease["spec"].get("holderIdentity", "") == ""
        assert operator.messages()[-1] == "Stopped."


async def test_a_standby_takes_over_at_once_when_the_leader_ends(start: Start) -> None:
    async with start() as leader, start() as standby:
        await wait_until(leader.is_ready)
        await wait_until(standby.is_ready)
        await asyncio.sleep(0.5)
        if await standby.is_leader():
            leader, standby = standby, leader  # noqa: PLW2901 - which one was first is a matter of chance
        assert await leader.is_leader()
        assert not await standby.is_leader()
        assert await leader.end() == 0
        async with asyncio.timeout(6):  # Far less than the 15 s after which a lease expires.
            await wait_until(standby.is_leader)


async def test_a_leader_that_loses_the_api_server_comes_back(
    start: Start, control_plane: ControlPlane, real_kube: AioKube, namespace: str
) -> None:
    async def has_status() -> bool:
        found = await real_kube.get(INFERENCE_POOLS, "p", namespace)
        return bool(found and found.get("status", {}).get("conditions"))

    async def is_no_leader() -> bool:
        return not await operator.is_leader()

    async with start() as operator:
        await wait_until(operator.is_ready)
        await wait_until(operator.is_leader)
        control_plane.stop_apiserver()
        try:
            await wait_until(is_no_leader)
            assert (await operator.ask("/healthz"))[0] == 200
        finally:
            # Not in a thread: the process would be ended with the thread that started it.
            control_plane.start_apiserver()
        await real_kube.apply(pool(namespace))
        await wait_until(has_status)
        assert await operator.end() == 0
