"""Story 18: a replica that needs two whole nodes, 16 GPUs together, beside many small ones on simulated nodes. It is
served, never in part, and the small ones go on; when it leaves, the small ones come back.

The small ones are guaranteed nothing here: nothing that a guarantee covers is moved to make a whole node, so that two
of them on two nodes could keep the large one out (docs/concepts/quota.md).
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
from llmos.api.names import LABEL_RANK

pytestmark = pytest.mark.timeout(900)

GPUS_PER_NODE = 8
NODES = 3
GPUS = NODES * GPUS_PER_NODE
GANG = 2
"""Pods of the large replica, a node for each."""
LARGE = GANG * GPUS_PER_NODE
HALF_AT_MOST = 10
"""Looks, five a second, at a gang of which only a part is released: that is one write for each pod."""
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


class Watch:
    """Looks at the pods again and again, and remembers what must never be."""

    def __init__(self, api: Api, large: str, small: str) -> None:
        self.api, self.large, self.small = api, large, small
        self.most_held = self.halves = self.most_halves = 0

    async def look(self) -> tuple[int, int]:
        """Pods of the large replica that are released, and all of them."""
        pods = await list_gpu_pods(self.api, self.large, self.small)
        self.most_held = max(self.most_held, count_gpus_held(pods))
        mine = [pod for pod in pods if pod["metadata"]["namespace"] == self.large]
        released = sum(not is_gated(pod) for pod in mine)
        self.halves = self.halves + 1 if 0 < released < len(mine) else 0
        self.most_halves = max(self.most_halves, self.halves)
        return released, len(mine)

    async def wait_until_released(self, what: str) -> list[Object]:
        """Wait for the whole gang; return its pods, leader first."""
        await eventually(what, self.look, lambda seen: seen == (GANG, GANG), timeout_s=180, poll_s=0.2)
        pods = await self.api.list("Pod", self.large)
        return sorted(pods, key=lambda pod: str(pod["metadata"]["labels"][LABEL_RANK]))


async def test_a_gang_gets_whole_nodes_and_small_ones_are_not_starved(
    api: Api, kwok_nodes: int, operator: OperatorProcess, source: Source
) -> None:
    await eventually(
        "the class of the simulated GPUs",
        lambda: api.get("AcceleratorClass", KWOK_CLASS),
        lambda found: found and found.get("status", {}).get("capacity") == GPUS,
    )
    async with tenants(api, accelerator=KWOK_CLASS, large=LARGE, small=0) as places:
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

        watch = Watch(api, places["large"], places["small"])
        await api.create(build_pool(places["large"], accelerator=KWOK_CLASS, count=LARGE, drain=drain))
        pool = await wait_for_large(api, watch, places["large"], "the gang is admitted")
        assert pool["status"]["plan"]["pods"] == GANG
        assert (pool["status"]["replicas"], pool["status"]["accelerators"]) == (1, LARGE)
        left = GPUS - LARGE
        await wait_for_tenant(api, "small", "what is left is theirs", accelerators=f"{left}/0")
        assert "small" in await wait_for_reason(api, places["small"], "QuotaExceeded", pool="small-5")

        assert watch.most_held <= GPUS
        assert watch.most_halves <= HALF_AT_MOST

        await api.patch("InferencePool", "pool", places["large"], {"spec": {"replicas": 0}})
        await wait_for_tenant(api, "small", "they come back", accelerators=f"{GPUS}/0", waiting=6)


async def wait_for_large(api: Api, watch: Watch, namespace: str, what: str) -> Object:
    """Wait until the large replica serves, with a whole node for each of its pods; return its pool."""
    await watch.wait_until_released(what)
    pool = await api.get("InferencePool", "pool", namespace)
    assert pool is not None
    pool = await wait_ready(api, pool)
    pods = await api.list("Pod", namespace)
    assert len({pod["spec"]["nodeName"] for pod in pods}) == GANG, "each has a node of its own"
    (endpoints,) = await api.list("EndpointSlice", namespace, selector="kubernetes.io/service-name=pool")
    serving = {endpoint["targetRef"]["name"] for endpoint in endpoints["endpoints"]}
    leaders = {pod["metadata"]["name"] for pod in pods if pod["metadata"]["labels"][LABEL_RANK] == "0"}
    assert serving == leaders, "only the leader takes requests"
    return pool
