"""`llmos chat`, `status` and `wait` through a real API server, whose proxy leads to a real engine (the simulator).

There is no node, so the Service's endpoint is written by hand: the engine listens on an address of this machine that is
not loopback, because the API server refuses loopback addresses as endpoints.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner, Result

from e2e.cluster.controlplane import ControlPlane
from llmos.api import Accelerator, InferencePool, InferencePoolSpec, LocalReference, Metadata
from llmos.cli.app import app
from llmos.client import AsyncClient, ChatMessage, Client, OverloadedError
from tests.sdk.cli.simulator import is_idle_soon, run_simulator

SetReady = Callable[..., None]
Kubectl = Callable[..., str]
Json = dict[str, Any]
HELLO = [ChatMessage(role="user", content="Hello")]


def find_own_address() -> str:
    interfaces = (found for name, found in psutil.net_if_addrs().items() if name != "lo")
    addresses = (each for found in interfaces for each in found if each.family == socket.AF_INET)
    return next(each.address for each in addresses if not each.address.startswith(("127.", "169.254.")))


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with run_simulator(find_own_address()) as url:
        yield url


@pytest.fixture
def pool(client: Client, set_ready: SetReady) -> str:
    accelerator = Accelerator(class_name="cpu")
    spec = InferencePoolSpec(model_ref=LocalReference(name="sim"), accelerator=accelerator, replicas=1)
    client.pools.apply(InferencePool(metadata=Metadata(name="smol"), spec=spec))
    set_ready("smol", "True", "Ready", replicas=1, readyReplicas=1, desiredReplicas=1)
    return "smol"


@pytest.fixture
def served(pool: str, engine: str, namespace: str, kubectl: Kubectl) -> str:
    """The pool with a Service like the operator's and the engine behind it, as the pod that its endpoint must name."""
    host, port = engine.removeprefix("http://").split(":")
    kubectl("create", "serviceaccount", "default", "-n", namespace)
    for kind, body in build_service(pool, namespace, host, int(port)).items():
        manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": pool}, **body}
        kubectl("create", "-n", namespace, "-f", "-", given=json.dumps(manifest))
    status = {"status": {"phase": "Running", "podIP": host, "podIPs": [{"ip": host}]}}
    kubectl("patch", "pod", pool, "-n", namespace, "--subresource=status", "-p", json.dumps(status))
    return pool


def build_service(name: str, namespace: str, host: str, port: int) -> dict[str, Json]:
    address = {"ip": host, "targetRef": {"kind": "Pod", "name": name, "namespace": namespace}}
    return {
        "Service": {"spec": {"ports": [{"name": "http", "port": 80, "targetPort": port}]}},
        "Pod": {"spec": {"containers": [{"name": "engine", "image": "simulator"}]}},
        "Endpoints": {"subsets": [{"addresses": [address], "ports": [{"name": "http", "port": port}]}]},
    }


@pytest.fixture
def llmos(control_plane: ControlPlane, namespace: str) -> Callable[..., Result]:
    target = ["--kubeconfig", str(control_plane.kubeconfig), "-n", namespace]
    return lambda *arguments: CliRunner().invoke(app, [*arguments, *target])


def test_an_answer_streams_through_the_api_server(served: str, client: Client) -> None:
    chunks = list(client.pools.chat(served, HELLO, max_tokens=20))
    assert len(chunks) > 10
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 20


def test_to_leave_early_frees_the_engine(served: str, client: Client, engine: str) -> None:
    chunks = client.pools.chat(served, HELLO, max_tokens=4000)
    assert len(list(islice(chunks, 3))) == 3
    chunks.close()
    assert is_idle_soon(engine)


async def test_the_asynchronous_client_streams_too(served: str, control_plane: ControlPlane, namespace: str) -> None:
    async with AsyncClient(kubeconfig=str(control_plane.kubeconfig), namespace=namespace) as client:
        texts = [chunk.text async for chunk in await client.pools.chat(served, HELLO, max_tokens=8)]
        whole = await client.pools.chat(served, HELLO, max_tokens=8, stream=False)
        assert "".join(texts) == whole.text


def test_the_command_line_talks_to_the_pool(served: str, llmos: Callable[..., Result]) -> None:
    result = llmos("chat", served, "Hello", "--max-tokens", "8", "--json", "--wait")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["usage"]["completionTokens"] == 8


def test_a_pool_whose_service_has_no_endpoint_cannot_be_reached_now(pool: str, client: Client) -> None:
    with pytest.raises(OverloadedError, match="cannot be reached now"):
        client.pools.chat(pool, HELLO, stream=False)


def test_status_shows_what_the_real_server_holds(
    pool: str, llmos: Callable[..., Result], set_ready: SetReady, kubectl: Kubectl
) -> None:
    # Classes have no namespace: those of other tests on this server would be told as problems too.
    kubectl("delete", "acceleratorclasses.llmos.dev", "--all")
    result = llmos("status")
    assert (result.exit_code, "● Ready" in result.stdout) == (0, True), result.output
    set_ready(pool, "False", "DoesNotFit", "Needs 40 GiB on 1 x 24 GiB: use count 2.")
    result = llmos("status")
    assert (result.exit_code, "use count 2" in result.stdout) == (1, True)


def test_wait_and_missing_objects_have_their_exit_codes(
    pool: str, llmos: Callable[..., Result], set_ready: SetReady
) -> None:
    assert llmos("wait", "pool", pool).exit_code == 0
    assert llmos("wait", "pool", "none").exit_code == 3
    set_ready(pool, "False", "Starting")
    assert llmos("wait", "pool", pool, "--timeout", "0.2").exit_code == 4
    assert llmos("chat", "none", "Hello").exit_code == 3
