"""Story 18: replicas that need a whole node each, 16 GPUs together, beside many small ones on simulated nodes. The
large ones are served, never in part, and the small ones go on; when the large ones leave, the small ones come back.

A replica is one pod, so that 16 GPUs are two replicas of eight. Gangs of several pods, which the ledger places as a
whole, are not made by pools yet; tests/operator/planning/quota tells about them. The small ones are guaranteed nothing
here: nothing that a guarantee covers is moved to make a whole node, so that four of them on three nodes could keep a
large one out (docs/concepts/quota.md).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.support.api import Api, Object
from e2e.support.objects import KWOK_CLASS, build_model, build_pool, count_gpus_held, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.tenants import is_gated, tenants, wait_for_reason, wait_for_tenant
from e2e.support.waiting import eventually

pytestmark = pytest.mark.timeout(900)

GPUS_PER_NODE = 8
NODES = 3
GPUS = NODES * GPUS_PER_NODE
LARGE = 2
SMALL_POOLS = 6
SMALL_EACH = 5
"""30 small replicas for 24 GPUs: some always wait."""


@pytest.fixture
def kwok_nodes(machine: Cluster) -> Iterator[int]:
    """Three simulated nodes; afterwards as many as before."""
    before = sum(node["name"].startswith("kwok-") for node in machine.status()["nodes"])
    for count in (NODES, before):
        command = [sys.executable, "-m", "e2e.cluster", "up", f"--kwok-nodes={count}"]
        subprocess.run(command, check=True, timeout=600, capture_output=True)
        if count == NODES:
            yield NODES


async def list_gpu_pods(api: Api, *namespaces: str) -> list[Object]:
    return [pod for namespace in namespaces for pod in await api.list("Pod", namespace)]


async def test_large_replicas_get_whole_nodes_and_small_ones_are_not_starved(
    api: Api, kwok_nodes: int, operator: OperatorProcess, source: Source
) -> None:
    await eventually(
        "the class of the simulated GPUs",
        lambda: api.get("AcceleratorClass", KWOK_CLASS),
        lambda found: found and found.get("status", {}).get("capacity") == GPUS,
    )
    async with tenants(api, accelerator=KWOK_CLASS, large=LARGE * GPUS_PER_NODE, small=0) as places:
        for place in places.values():
            await wait_ready(api, await api.create(build_model(place, f"{source.url}/tiny")))
        drain = {"timeoutSeconds": 10}
        for number in range(SMALL_POOLS):
            await api.create(
                build_pool(
                    places["small"],
                    name=f"small-{number}",
                    accelerator=KWOK_CLASS,
                    replicas=SMALL_EACH,
                    drain=drain,
                )
            )
        await wait_for_tenant(api, "small", "it fills the nodes", accelerators=f"{GPUS}/0", waiting=6)

        large = build_pool(places["large"], accelerator=KWOK_CLASS, count=GPUS_PER_NODE, replicas=LARGE, drain=drain)
        most_held = 0

        async def observe() -> tuple[int, int]:
            nonlocal most_held
            pods = await list_gpu_pods(api, *places.values())
            most_held = max(most_held, count_gpus_held(pods))
            mine = [pod for pod in pods if pod["metadata"]["namespace"] == places["large"]]
            return sum(not is_gated(pod) for pod in mine), len(mine)

        await api.create(large)
        await eventually(
            "the large ones are admitted", observe, lambda seen: seen == (LARGE, LARGE), timeout_s=180, poll_s=0.2
        )
        pool = await api.get("InferencePool", "pool", places["large"])
        assert pool is not None
        await wait_ready(api, pool)
        pods = await list_gpu_pods(api, *places.values())
        nodes = {pod["spec"]["nodeName"] for pod in pods if pod["metadata"]["namespace"] == places["large"]}
        assert len(nodes) == LARGE, "each has a node of its own"
        assert most_held <= GPUS
        left = GPUS - LARGE * GPUS_PER_NODE
        await wait_for_tenant(api, "small", "what is left is theirs", accelerators=f"{left}/0")
        assert "small" in await wait_for_reason(api, places["small"], "QuotaExceeded", pool="small-5")

        await api.patch("InferencePool", "pool", places["large"], {"spec": {"replicas": 0}})
        await wait_for_tenant(api, "small", "they come back", accelerators=f"{GPUS}/0", waiting=6)
