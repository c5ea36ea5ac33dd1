"""What all scenarios run on: a real control plane, simulated nodes, and the operator as a process of its own.

with start_stage(folder) as stage:          # etcd, kube-apiserver, controllers, scheduler, kwok
    async with stage.connect() as cluster:  # the client that makes the load
        async with cluster.operator() as operator:  # `python -m llmos_operator.main run`
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import yaml
from kubernetes.aio.client import ApiClient, ApiextensionsV1Api, CoreV1Api

from bench.operator.figures import is_idle, parse_metrics
from bench.operator.objects import NODES, Object, build_accelerator, build_model, build_namespace, build_nodes
from bench.operator.waiting import wait_until
from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.controlplane import ControlPlane, find_free_ports
from e2e.cluster.node import build_kwok
from e2e.cluster.objects import is_node_ready
from e2e.cluster.processes import Component, Processes
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.client import Resource
from llmos_operator.kube.config import Configuration, load_configuration
from llmos_operator.kube.errors import NotFound
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, INFERENCE_POOLS, LLM_MODELS, PODS, SERVICES
from llmos_operator.kube.resources import NODES as NODE_KIND

POSTS_AT_ONCE = 16
OPERATOR_NAMESPACE = "llmos-system"
_CRDS = Path(__file__).parents[2] / "crds"
_READY_TIMEOUT_S = 120.0
_CLEAN_TIMEOUT_S = 300.0
_QUIET_LOOKS = 5


@dataclass(frozen=True)
class Usage:
    """What a process has used: CPU time so far, memory now."""

    cpu_s: float
    rss_bytes: int


class Operator:
    """The running operator, seen from outside."""

    def __init__(self, processes: Processes, metrics_url: str, session: aiohttp.ClientSession) -> None:
        pid = processes.pid("operator")
        assert pid is not None
        self._processes = processes
        self._process = psutil.Process(pid)
        self._metrics_url = metrics_url
        self._session = session

    def usage(self) -> Usage:
        """CPU and memory of the process; it has no children."""
        times = self._process.cpu_times()
        return Usage(times.user + times.system, self._process.memory_info().rss)

    async def metrics(self) -> dict[str, float]:
        """Its Prometheus metrics, summed over labels."""
        async with self._session.get(self._metrics_url) as response:
            return parse_metrics(await response.text())

    async def wait_until_idle(self, *, reconciled: int = 0) -> None:
        """Wait until it leads, has reconciled at least so many keys, and had nothing to do for a second."""
        quiet = 0

        async def is_quiet() -> bool:
            nonlocal quiet
            self._processes.ensure_alive("operator")
            quiet = quiet + 1 if is_idle(await self._try_metrics(), max(1, reconciled)) else 0
            return quiet == _QUIET_LOOKS

        await wait_until(is_quiet, what="That the operator comes to rest", timeout_s=_CLEAN_TIMEOUT_S, poll_s=0.2)

    async def _try_metrics(self) -> dict[str, float]:
        try:
            return await self.metrics()
        except aiohttp.ClientError:
            return {}  # Its server is not up yet.


@dataclass(frozen=True)
class Cluster:
    """The client of a scenario."""

    stage: Stage
    kube: AioKube
    configuration: Configuration
    core: CoreV1Api

    async def add_namespace(self, name: str) -> str:
        """Create a namespace with the model that its pools refer to."""
        await self.core.create_namespace(build_namespace(name))
        model, status = build_model(name)
        await self.kube.create(model)
        await self.kube.apply_status(status)
        return name

    async def create_all(self, manifests: Iterable[Object]) -> float:
        """POST all, 16 at a time; return when the first one was sent."""
        began_s = time.perf_counter()
        await run_all(self.kube.create, manifests, POSTS_AT_ONCE)
        return began_s

    async def clean(self, namespace: str) -> None:
        """Delete the pools of a namespace and wait until their children are gone too."""

        async def is_empty() -> bool:
            kinds = (INFERENCE_POOLS, SERVICES, PODS)
            return not any([await self.kube.list(kind, namespace=namespace) for kind in kinds])

        for kind in (INFERENCE_POOLS, SERVICES):
            await self._delete_all(kind, namespace)
        await wait_until(is_empty, what=f"That namespace {namespace} is empty", timeout_s=_CLEAN_TIMEOUT_S, poll_s=1.0)

    def cpu_s(self) -> dict[str, float]:
        """CPU time that each process has used so far: control plane, operator, and this one, which makes the load."""
        processes = self.stage.plane.processes
        pids = {name: pid for name in processes.names() if (pid := processes.pid(name)) is not None}
        used = {name: psutil.Process(pid).cpu_times() for name, pid in {**pids, "load": os.getpid()}.items()}
        return {name: times.user + times.system for name, times in used.items()}

    async def are_nodes_ready(self) -> bool:
        """Whether all simulated nodes are."""
        return sum(map(is_node_ready, await self.kube.list(NODE_KIND))) == NODES

    async def are_kinds_served(self) -> bool:
        """Whether the CRDs that were just created can be used."""
        try:
            for kind in (INFERENCE_POOLS, LLM_MODELS, ACCELERATOR_CLASSES):
                await self.kube.list(kind)
        except NotFound:
            return False
        return True

    async def _delete_all(self, kind: Resource, namespace: str) -> None:
        async def delete(item: Object) -> None:
            await self.kube.delete(kind, item["metadata"]["name"], namespace)

        await run_all(delete, await self.kube.list(kind, namespace=namespace), POSTS_AT_ONCE)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Operator]:
        """Run the operator with the settings it is shipped with, and wait until it has nothing to do."""
        processes = self.stage.plane.processes
        (port,) = find_free_ports(1)
        command = (sys.executable, "-m", "llmos_operator.main", "run", f"--metrics-port={port}")
        env = {"KUBECONFIG": str(self.stage.plane.kubeconfig), "LLMOS_NAMESPACE": OPERATOR_NAMESPACE}
        processes.start(Component("operator", command, env=env))
        try:
            async with aiohttp.ClientSession() as session:
                operator = Operator(processes, f"http://127.0.0.1:{port}/metrics", session)
                await operator.wait_until_idle()
                yield operator
        finally:
            processes.stop("operator", grace_s=30.0)


@dataclass(frozen=True)
class Stage:
    """A control plane with simulated nodes."""

    plane: ControlPlane
    kubectl: Path

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Cluster]:
        """A client with more connections than any scenario has requests in flight."""
        configuration = await load_configuration(str(self.plane.kubeconfig), connections=128)
        async with AioKube(configuration) as kube, ApiClient(configuration) as client:
            yield Cluster(self, kube, configuration, CoreV1Api(client))

    async def prepare(self) -> None:
        """Install CRDs, simulated nodes and their accelerator class."""
        async with self.connect() as cluster, ApiClient(cluster.configuration) as client:
            definitions = ApiextensionsV1Api(client)
            for path in sorted(_CRDS.glob("*.yaml")):
                await definitions.create_custom_resource_definition(yaml.safe_load(path.read_text()))
            await cluster.core.create_namespace(build_namespace(OPERATOR_NAMESPACE))
            for node in build_nodes():
                await cluster.core.create_node(node)
            await wait_until(cluster.are_nodes_ready, what="That all nodes are ready", timeout_s=_READY_TIMEOUT_S)
            await wait_until(cluster.are_kinds_served, what="That CRDs are served", timeout_s=_READY_TIMEOUT_S)
            await cluster.kube.create(build_accelerator())


async def run_all(action: Callable[[Object], Awaitable[object]], items: Iterable[Object], at_once: int) -> None:
    """Run an action for every item, so many at a time."""
    rest = iter(items)

    async def work() -> None:
        for item in rest:
            await action(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())


@contextmanager
def start_stage(folder: Path) -> Iterator[Stage]:
    """Start everything but the operator; end it with the block."""
    paths = ensure_binaries("kwok", "kubectl")
    with ControlPlane.start(folder, with_controllers=True) as plane:
        (port,) = find_free_ports(1)
        plane.processes.start(build_kwok(paths["kwok"], plane.kubeconfig, port, "127.0.0.1"))
        yield Stage(plane, paths["kubectl"])


_rounds = itertools.count()


def build_namespace_name(scenario: str) -> str:
    """A name that no earlier round used."""
    return f"{scenario}-{next(_rounds)}"
