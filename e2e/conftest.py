"""What all stories share: a cluster, images, one operator, a source of models, and a namespace of their own.

A cluster that is up is used and left; one that had to be started ends with the session. LLMOS_E2E_BUILD=0 takes the
images that are loaded instead of building them from the checkout.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from e2e.cluster import Cluster, StateDir, open_cluster
from e2e.cluster.api import apply_ca_bundle
from e2e.cluster.binaries import ensure_binaries
from e2e.cluster.node import NODE_ADDRESS
from e2e.cluster.objects import Kubectl
from e2e.cluster.paths import repository_dir
from e2e.cluster.shell import run
from e2e.support.api import Api, connect
from e2e.support.gateway import SYSTEM_NAMESPACE, Gateway, build_key, install_gateway, wait_until_known
from e2e.support.jobs import read_base_model
from e2e.support.keys import Keys
from e2e.support.objects import build_namespace, is_ready
from e2e.support.operator import OperatorProcess, OperatorSettings, find_foreign_operator
from e2e.support.removal import list_remains, remove_namespace, wait_until_nothing_remains
from e2e.support.source import Source, serve_source
from e2e.support.waiting import eventually


@pytest.fixture(scope="session")
def machine() -> Iterator[Cluster]:
    """The cluster of the default state folder."""
    cluster = open_cluster(StateDir.default())
    is_ours = not cluster.status()["up"]
    if is_ours:
        cluster.up()
    yield cluster
    if is_ours:
        cluster.down()


@pytest.fixture(scope="session")
def kubeconfig(machine: Cluster) -> Path:
    """The administrator's, of a cluster that serves our kinds."""
    path = StateDir.default().kubeconfig
    Kubectl(ensure_binaries("kubectl")["kubectl"], path)(
        "apply", "--server-side", "--force-conflicts", "--field-manager=llmos-e2e", "-f", str(repository_dir() / "crds")
    )
    return path


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """kubectl, for what the API of objects cannot do: exec and the like."""
    return Kubectl(ensure_binaries("kubectl")["kubectl"], kubeconfig)


def ensure_image(machine: Cluster, target: str) -> None:
    if os.environ.get("LLMOS_E2E_BUILD", "1") != "0":
        machine.load_image(machine.build_image(repository_dir(), target))


@pytest.fixture(scope="session")
def lite_image(machine: Cluster) -> None:
    """The image of inspect, fetch and the simulator."""
    ensure_image(machine, "worker-lite")


@pytest.fixture(scope="session")
def vllm_image(machine: Cluster) -> None:
    """The image with vLLM for processors: minutes to build and about 20 GB, so only where a story needs it."""
    ensure_image(machine, "worker")


@pytest.fixture(scope="session")
def nothing_stays(kubeconfig: Path) -> Iterator[None]:
    """At the end of the session, when the operator has stopped, all namespaces of its stories go, and their volumes."""

    async def look() -> frozenset[str]:
        async with connect(kubeconfig) as api:
            return await list_remains(api)

    async def wait() -> None:
        async with connect(kubeconfig) as api:
            await wait_until_nothing_remains(api, spared)

    spared = asyncio.run(look())
    yield
    asyncio.run(wait())


@pytest.fixture(scope="session")
def operator_process(
    kubeconfig: Path, nothing_stays: None, lite_image: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The one operator of the session.

    An operator that is there already is left alone: then the stories cannot be told.
    """

    async def look() -> str:
        async with connect(kubeconfig) as api:
            return await find_foreign_operator(api)

    if foreign := asyncio.run(look()):
        pytest.exit(f"Another operator is at work in this cluster ({foreign}). Stop it first, then run e2e again.", 2)
    process = OperatorProcess(kubeconfig, tmp_path_factory.mktemp("operator") / "operator.log")
    yield process
    process.stop()


@pytest.fixture
def operator(operator_process: OperatorProcess) -> OperatorProcess:
    """An operator with the stories' usual settings."""
    operator_process.ensure(OperatorSettings())
    return operator_process


@pytest.fixture(scope="session")
def source(machine: Cluster) -> Iterator[Source]:
    """A web server that pods reach: at the node's address, or with kind at the gateway of Docker's network."""
    address = NODE_ADDRESS
    if machine.status()["provider"] == "kind":
        listed = json.loads(run("docker", "network", "inspect", "kind").stdout)[0]["IPAM"]["Config"]
        address = next(entry["Gateway"] for entry in listed if "." in entry.get("Gateway", ""))
    with serve_source(address) as server:
        yield server


@pytest.fixture
async def api(kubeconfig: Path, nothing_stays: None) -> AsyncIterator[Api]:
    """A connection to the API server."""
    async with connect(kubeconfig) as connected:
        yield connected


@pytest.fixture
async def namespace(request: pytest.FixtureRequest, api: Api, kubeconfig: Path) -> AsyncIterator[str]:
    """A namespace for one test, which is gone when the test ends."""
    story = request.path.stem.removeprefix("test_").replace("_", "-")
    name = f"e2e-{story}-{uuid.uuid4().hex[:6]}"
    await api.create(build_namespace(name))
    apply_ca_bundle(kubeconfig, name)
    yield name
    await remove_namespace(api, name)


@pytest.fixture(scope="session")
def gateway(machine: Cluster, kubectl: Kubectl) -> Iterator[Gateway]:
    """The gateway of the session: two pods behind a Service, from the chart."""
    ensure_image(machine, "gateway")
    with install_gateway(kubectl) as installed:
        yield installed


@pytest.fixture
def keys(kubeconfig: Path) -> Keys:
    """`llmos keys` for this cluster."""
    return Keys(kubeconfig)


@pytest.fixture
async def key(api: Api, gateway: Gateway, namespace: str) -> AsyncIterator[str]:
    """An API key for the test's namespace that all gateways know."""
    presented, secret = build_key(namespace, namespace)
    await api.create(secret)
    await wait_until_known(api, presented)
    yield presented
    await api.delete("Secret", namespace, SYSTEM_NAMESPACE)


@pytest.fixture
async def base_model(api: Api, vllm_image: None, operator_process: OperatorProcess, namespace: str) -> None:
    """The real model of the quick start, inspected, for jobs that change it."""
    operator_process.ensure(OperatorSettings(start_timeout_s=1200, resync_s=30))
    await api.create(read_base_model(namespace))
    await eventually(
        "the base model is known", lambda: api.get("LLMModel", "smollm2", namespace), is_ready, timeout_s=300
    )
