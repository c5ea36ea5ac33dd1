"""Story 8: very many pools on simulated nodes. Each gets its first status and its replica; then, while everything is
looked at again and again, nothing is written.

LLMOS_E2E_POOLS and LLMOS_E2E_QUIET_S choose the size. By default 200 pools and one quiet minute; with LLMOS_E2E_ALL=1
(`make e2e-all`) 1,000 pools and ten minutes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.support.api import Api
from e2e.support.objects import KWOK_CLASS, build_model, build_pool, wait_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.source import Source
from e2e.support.waiting import eventually

pytestmark = pytest.mark.timeout(3600)

IS_WHOLE = os.environ.get("LLMOS_E2E_ALL") == "1"
POOLS = int(os.environ.get("LLMOS_E2E_POOLS", "1000" if IS_WHOLE else "200"))
QUIET_S = float(os.environ.get("LLMOS_E2E_QUIET_S", "600" if IS_WHOLE else "60"))
RESYNCS = 3
"""How often each object is looked at, at least, while nothing may be written."""
GPUS_PER_NODE = 8
AT_A_TIME = 16
WRITES = "llmos_operator_writes_total"
RECONCILES = "llmos_operator_reconcile_seconds_count"


def have_kwok_nodes(count: int) -> None:
    """By the command line, which lets one command at a time change the cluster."""
    command = [sys.executable, "-m", "e2e.cluster", "up", f"--kwok-nodes={count}"]
    subprocess.run(command, check=True, timeout=600, capture_output=True)


@pytest.fixture
def kwok_nodes(machine: Cluster) -> Iterator[int]:
    """One simulated GPU for each pool; afterwards as many nodes as before."""
    before = sum(node["name"].startswith("kwok-") for node in machine.status()["nodes"])
    needed = max(before, -(-POOLS // GPUS_PER_NODE))
    have_kwok_nodes(needed)
    yield needed
    have_kwok_nodes(before)


async def read_versions(api: Api, namespace: str) -> dict[str, str]:
    """Resource versions of all that the operator could have written."""
    things = [
        thing for kind in ("InferencePool", "LLMModel", "Pod", "Service") for thing in await api.list(kind, namespace)
    ]
    return {thing["metadata"]["uid"]: thing["metadata"]["resourceVersion"] for thing in things}


async def test_many_pools_get_their_status_and_then_there_is_silence(
    api: Api, kwok_nodes: int, operator_process: OperatorProcess, source: Source, namespace: str
) -> None:
    operator_process.ensure(OperatorSettings(resync_s=QUIET_S / RESYNCS))
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    await eventually(
        "the class of the simulated GPUs",
        lambda: api.get("AcceleratorClass", KWOK_CLASS),
        lambda found: found and found.get("status", {}).get("capacity", 0) >= POOLS,
    )
    places = asyncio.Semaphore(AT_A_TIME)

    async def create(number: int) -> None:
        async with places:
            await api.create(build_pool(namespace, name=f"pool-{number}", accelerator=KWOK_CLASS))

    async with asyncio.TaskGroup() as creations:
        for number in range(POOLS):
            creations.create_task(create(number))

    async def count(field: str) -> int:
        pools = await api.list("InferencePool", namespace)
        return sum(bool(pool.get("status", {}).get(field)) for pool in pools)

    patience_s = 60 + POOLS
    await eventually(
        "each pool has a status", lambda: count("conditions"), lambda n: n == POOLS, timeout_s=patience_s, poll_s=2
    )
    await eventually(
        "each replica is ready", lambda: count("readyReplicas"), lambda n: n == POOLS, timeout_s=patience_s, poll_s=2
    )
    await wait_until_silent(operator_process)

    versions, writes = await read_versions(api, namespace), operator_process.read_metric(WRITES)
    reconciles = operator_process.read_metric(RECONCILES)
    await asyncio.sleep(QUIET_S)
    assert operator_process.read_metric(RECONCILES) - reconciles >= (RESYNCS - 1) * POOLS
    assert operator_process.read_metric(WRITES) == writes
    assert await read_versions(api, namespace) == versions


async def wait_until_silent(operator: OperatorProcess) -> None:
    """Wait until the last consequences of the start are written."""
    last = operator.read_metric(WRITES)

    async def has_rested() -> bool:
        nonlocal last
        await asyncio.sleep(5)
        before, last = last, operator.read_metric(WRITES)
        return before == last

    await eventually("the writes end", has_rested, bool, timeout_s=180)
