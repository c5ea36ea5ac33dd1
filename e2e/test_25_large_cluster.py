"""Story 25: 500 simulated nodes with 4,000 GPUs, 30 tenants in 5 cohorts that create, scale, reprioritise and delete
pools, and an operator that is killed in between. No rule of the quota is broken at any moment, and when the churn stops
every guarantee is met. The figures are printed.

LLMOS_E2E_NODES, LLMOS_E2E_CHURN_S and LLMOS_E2E_SEED choose size, length and history.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from e2e.cluster import Cluster
from e2e.cluster.api import apply_ca_bundle
from e2e.cluster.node import NODE_ADDRESS
from e2e.support.api import Api, Object
from e2e.support.census import Census, Grant, describe_waits
from e2e.support.objects import KWOK_CLASS, build_model, build_namespace, build_pool, wait_ready
from e2e.support.operator import OperatorProcess, OperatorSettings
from e2e.support.removal import remove_namespace
from e2e.support.source import Source
from e2e.support.tenants import wait_until_gone
from e2e.support.waiting import eventually
from e2e.test_08_scale_kwok import have_kwok_nodes
from llmos.api.names import LABEL_POOL

pytestmark = pytest.mark.timeout(3600)

NODES = int(os.environ.get("LLMOS_E2E_NODES", "500"))
CHURN_S = float(os.environ.get("LLMOS_E2E_CHURN_S", "180"))
SEED = int(os.environ.get("LLMOS_E2E_SEED", "25"))
GPUS_PER_NODE = 8
CAPACITY = NODES * GPUS_PER_NODE
TENANTS, COHORTS = 30, 5
GUARANTEED = CAPACITY * 3 // 4 // TENANTS
"""A quarter is nobody's, and lent to whoever asks."""
BORROW_LIMIT = GUARANTEED
ACTION_EVERY_S = 0.5
SIZES = (1, 2, 4, 4, 8, 8)
POOLS_PER_TENANT = 6
PRIORITIES = {"e2e-low": 0, "e2e-high": 50}
GANG_DEADLINE_S = 120 + 60
"""The ledger withdraws what is not bound after 120 s; the rest is for a busy machine."""
GUARANTEE_WITHIN_S = 300.0
"""Drains of 5 s, the minimum run time of who goes, and starts of simulated pods, one after the other."""
COMPARE_S = 10.0
MISSED_S = 60.0
"""What was not told for so long was missed; a busy machine tells late."""


def compute_most(count: int) -> int:
    """Most replicas of a pool with `count` accelerators each: six such pools ask for more than the tenant may hold."""
    return max(1, (GUARANTEED + BORROW_LIMIT) * 3 // 2 // POOLS_PER_TENANT // count)


@dataclass
class Town:
    """The tenants and the pools that they have now."""

    api: Api
    namespaces: list[str]
    dice: random.Random
    pools: dict[tuple[str, str], Object] = field(default_factory=dict)
    made: int = 0
    actions: int = 0
    refused: list[str] = field(default_factory=list)

    async def create(self, namespace: str) -> None:
        self.made += 1
        count = self.dice.choice(SIZES)
        most = compute_most(count)
        pool = build_pool(
            namespace,
            name=f"pool-{self.made}",
            accelerator=KWOK_CLASS,
            count=count,
            replicas=self.dice.randint(-(-most // 2), most),
            priorityClassName=self.dice.choice(sorted(PRIORITIES)),
            drain={"timeoutSeconds": 5},
        )
        self.pools[namespace, f"pool-{self.made}"] = await self.api.create(pool)

    async def act(self) -> None:
        """Do one thing: whose and which the dice say."""
        self.actions += 1
        namespace = self.dice.choice(self.namespaces)
        own = [key for key in self.pools if key[0] == namespace]
        action = self.dice.choice(("create", "scale", "scale", "scale", "priority", "delete"))
        if not own or (action == "create" and len(own) < POOLS_PER_TENANT):
            await self.create(namespace)
            return
        place, name = self.dice.choice(own)
        count = self.pools[place, name]["spec"]["accelerator"]["count"]
        if action == "delete":
            del self.pools[place, name]
            await self.api.delete("InferencePool", name, place)
        elif action == "priority":
            await self._change(place, name, {"priorityClassName": self.dice.choice(sorted(PRIORITIES))})
        else:
            await self._change(place, name, {"replicas": self.dice.randint(0, compute_most(count))})

    async def _change(self, namespace: str, name: str, spec: Object) -> None:
        self.pools[namespace, name] = await self.api.patch("InferencePool", name, namespace, {"spec": spec})

    async def churn(self, duration_s: float) -> None:
        ends_s = time.monotonic() + duration_s
        while time.monotonic() < ends_s:
            next_s = time.monotonic() + ACTION_EVERY_S
            await self.act()
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))

    def demand(self) -> Counter[str]:
        """Accelerators that pools ask for, by namespace."""
        wanted: Counter[str] = Counter()
        for (namespace, _), pool in self.pools.items():
            wanted[namespace] += pool["spec"]["replicas"] * pool["spec"]["accelerator"]["count"]
        return wanted


@dataclass
class Footprint:
    """What the operators used, one after the other."""

    cpu_s: float = 0.0
    rss_mib: float = 0.0

    def add(self, pid: int) -> None:
        """Add up an operator that ends now."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{pid}/status").read_text()
        self.rss_mib = max(self.rss_mib, int(status.partition("VmHWM:")[2].split()[0]) / 1024)


@pytest.fixture
def nodes(machine: Cluster) -> Iterator[None]:
    """The simulated nodes; afterwards as many as before."""
    before = sum(node["name"].startswith("kwok-") for node in machine.status()["nodes"])
    have_kwok_nodes(NODES)
    yield
    have_kwok_nodes(before)


def build_tenant(name: str, cohort: str) -> Object:
    quota = {"class": KWOK_CLASS, "guaranteed": GUARANTEED, "borrowLimit": BORROW_LIMIT}
    isolation = {"egressAllow": [f"{NODE_ADDRESS}/32"]}
    spec = {"namespaces": [name], "cohort": cohort, "quota": [quota], "isolation": isolation}
    return {"apiVersion": "llmos.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec}


@asynccontextmanager
async def people(api: Api, kubeconfig: Path, source: Source, prefix: str) -> AsyncIterator[dict[str, Grant]]:
    """Have the tenants, each with a namespace and a model in it; afterwards none of it is left."""
    grants = {
        f"{prefix}-{number}": Grant(f"cohort-{number % COHORTS}", GUARANTEED, BORROW_LIMIT) for number in range(TENANTS)
    }
    try:
        for name, value in PRIORITIES.items():
            await api.create(
                {
                    "apiVersion": "scheduling.k8s.io/v1",
                    "kind": "PriorityClass",
                    "metadata": {"name": name},
                    "value": value,
                    "preemptionPolicy": "Never",
                }
            )
        for name in grants:
            await api.create(build_namespace(name))
            await asyncio.to_thread(apply_ca_bundle, kubeconfig, name)
            await api.create(build_model(name, f"{source.url}/tiny", size="1Gi"))
        for name in grants:
            await wait_ready(api, build_model(name, ""), timeout_s=600)
        for name, grant in grants.items():
            await api.create(build_tenant(name, grant.cohort))
        yield grants
    finally:
        await asyncio.gather(*(remove_namespace(api, name) for name in grants))
        for name in grants:
            await api.delete("Tenant", name)
        await asyncio.gather(*(wait_until_gone(api, name) for name in grants))
        for name in PRIORITIES:
            await api.delete("PriorityClass", name)


async def follow(api: Api, census: Census) -> None:
    """Count every change, in the API server's order."""
    async for event, pod in api.watch("Pod", "", LABEL_POOL):
        assert event in {"ADDED", "MODIFIED", "DELETED"}, (event, pod)
        census.see(event, pod, time.monotonic())


async def compare(api: Api, census: Census) -> None:
    """Look at what no single change shows: gangs that are not bound in time, and whether the watch missed anything."""
    differing: dict[str, float] = {}
    while True:
        await asyncio.sleep(COMPARE_S)
        half_bound = census.find_half_bound(time.monotonic(), GANG_DEADLINE_S)
        assert not half_bound, half_bound[:5]
        with contextlib.suppress(httpx.TransportError):
            # The list is newer than what was told by then: only what goes on to differ in the same way was missed.
            now_s, differs = time.monotonic(), census.compare(await api.list("Pod", "", LABEL_POOL))
            differing = {each: differing.get(each, now_s) for each in differs}
            missed = [each for each, since_s in differing.items() if now_s - since_s > MISSED_S]
            assert not missed, missed[:5]


@asynccontextmanager
async def looked_at(api: Api, census: Census) -> AsyncIterator[None]:
    """Look at everything during the block; whatever is wrong ends it."""
    async with asyncio.TaskGroup() as tasks:
        looking = [tasks.create_task(follow(api, census)), tasks.create_task(compare(api, census))]
        try:
            yield
        finally:
            for task in looking:
                task.cancel()


async def kill_later(operator: OperatorProcess, footprint: Footprint, after_s: float) -> None:
    """End the operator in the middle without a word, and start the next one."""
    await asyncio.sleep(after_s)
    footprint.add(operator.pid)
    operator.kill()
    operator.start()
    await asyncio.to_thread(operator.wait_until_ready)


async def wait_for_guarantees(census: Census, demand: Counter[str]) -> float:
    """Wait until all pods are there and nobody waits for what its guarantee covers; return how long that took."""
    began_s = time.monotonic()

    async def observe() -> list[str]:
        return census.find_denied(demand)

    await eventually(
        "every guarantee is met", observe, lambda denied: not denied, timeout_s=GUARANTEE_WITHIN_S, poll_s=1
    )
    return time.monotonic() - began_s


async def test_no_rule_is_broken_among_500_nodes_and_30_tenants_and_every_guarantee_is_met(
    api: Api, kubeconfig: Path, nodes: None, operator_process: OperatorProcess, source: Source
) -> None:
    operator_process.ensure(OperatorSettings(drain_settle_s=1, unschedulable_after_s=30, resync_s=60))
    await eventually(
        "the class of the simulated GPUs",
        lambda: api.get("AcceleratorClass", KWOK_CLASS),
        lambda found: found and found.get("status", {}).get("capacity", 0) >= CAPACITY,
    )
    footprint = Footprint()
    async with people(api, kubeconfig, source, f"e2e-large-{SEED}") as grants:
        census = Census(grants, capacity=CAPACITY, per_node=GPUS_PER_NODE)
        town = Town(api, list(grants), random.Random(SEED))  # noqa: S311 - a history that can be told again
        async with looked_at(api, census):
            began_s = time.monotonic()
            census.begin_use(began_s)
            # Half of the tenants come first and borrow; the others ask for their guarantees while the churn goes on.
            for namespace in town.namespaces[: TENANTS // 2]:
                for _ in range(POOLS_PER_TENANT):
                    await town.create(namespace)
            await asyncio.gather(town.churn(CHURN_S), kill_later(operator_process, footprint, CHURN_S / 2))
            took_s = time.monotonic() - began_s
            print(
                f"{NODES} nodes, {CAPACITY} GPUs, {TENANTS} tenants in {COHORTS} cohorts, seed {SEED}: {took_s:.0f} s, "
                f"{town.actions} actions, {town.made} pools made, at the end {len(town.pools)} that ask for "
                f"{town.demand().total()} GPUs; {census.changes} changes of pods looked at\n"
                f"{census.admissions} admissions, {census.admissions / took_s:.1f}/s; mean use "
                f"{census.end_use(time.monotonic()):.0%}, at the end {census.held} GPUs held"
            )
            calm_s = await wait_for_guarantees(census, town.demand())
        footprint.add(operator_process.pid)
        print(
            f"guaranteed: {describe_waits(census.waits.guaranteed)}\n"
            f"borrowed: {describe_waits(census.waits.borrowed)}\n"
            f"every guarantee is met {calm_s:.0f} s after the churn\n"
            f"operators: {footprint.cpu_s:.0f} s of processor time, at most {footprint.rss_mib:.0f} MiB"
        )
        assert not census.problems, census.problems
    assert not await api.list("Pod", "", LABEL_POOL)
    assert not [each for each in await api.list("Tenant") if each["metadata"]["name"] in grants]
