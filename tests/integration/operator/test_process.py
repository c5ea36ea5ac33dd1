"""Whole operator processes against a real kube-apiserver: they watch, one of them writes, and they end in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from e2e.cluster.controlplane import ControlPlane, find_free_ports
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.resources import INFERENCE_POOLS, LEASES
from llmos_operator.runtime.app import LEASE_NAME

pytestmark = pytest.mark.apiserver

WAIT_S = 60.0
Start = Callable[[], AbstractAsyncContextManager["OperatorProcess"]]


class OperatorProcess:
    """One `llmos-operator run` with its log."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    async def ask(self, path: str) -> tuple[int, str]:
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(f"http://localhost:{self.port}{path}") as answer:
                return answer.status, await answer.text()
        return 0, ""

    async def is_ready(self) -> bool:
        return (await self.ask("/readyz"))[0] == 200

    async def is_leader(self) -> bool:
        return "llmos_operator_is_leader 1.0" in (await self.ask("/metrics"))[1]

    def messages(self) -> list[str]:
        return [json.loads(line)["message"] for line in self._log.read_text().splitlines()]

    async def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), WAIT_S)


async def wait_until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await is_so():  # noqa: ASYNC110 - the state is in another process
            await asyncio.sleep(0.1)


@pytest.fixture
def start(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Start:
    """Starts operators that share one Lease."""

    @contextlib.asynccontextmanager
    async def run() -> AsyncIterator[OperatorProcess]:
        (port,) = find_free_ports(1)
        log = tmp_path / f"{port}.log"
        arguments = ["--namespace", namespace, "--metrics-port", str(port), "--resync-s", "3600"]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "llmos_operator.main", "run", *arguments),
                *("--kubeconfig", str(control_plane.kubeconfig)),
                stderr=output,
            )
        try:
            yield OperatorProcess(process, port, log)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return run


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
            await asyncio.to_thread(control_plane.start_apiserver)
        await real_kube.apply(pool(namespace))
        await wait_until(has_status)
        assert await operator.end() == 0
