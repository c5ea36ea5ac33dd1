"""A real kube-apiserver with our CRDs, shared by the tests of this folder; each test gets a namespace of its own."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.aio.client import ApiClient, ApiextensionsV1Api, CoreV1Api

from e2e.cluster.controlplane import ControlPlane
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.client import Kube
from llmos_operator.kube.config import load_configuration
from llmos_operator.kube.errors import NotFound
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    LLM_MODELS,
    NODES,
    PODS,
    TENANTS,
)
from tests.operator.fake_kube import FakeKube

CRDS = Path(__file__).parents[3] / "crds"
LOOKED_AT = (FINE_TUNE_JOBS, INFERENCE_POOLS, TENANTS, LLM_MODELS, ACCELERATOR_CLASSES, PODS, NODES)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane.start(tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def served_kinds() -> set[str]:
    """Kinds whose CRDs have been installed in this session."""
    return set()


@pytest.fixture
async def admin(control_plane: ControlPlane, served_kinds: set[str]) -> AsyncIterator[ApiClient]:
    """The official client, for what the operator itself never does."""
    async with ApiClient(await load_configuration(str(control_plane.kubeconfig))) as client:
        if not served_kinds:
            await _install_crds(client, served_kinds)
        yield client


async def _install_crds(client: ApiClient, served_kinds: set[str]) -> None:
    api = ApiextensionsV1Api(client)
    for path in sorted(CRDS.glob("*.yaml")):
        manifest = yaml.safe_load(path.read_text())
        await api.create_custom_resource_definition(manifest)
        served_kinds.add(manifest["spec"]["names"]["kind"])


@pytest.fixture
async def real_kube(control_plane: ControlPlane, admin: ApiClient) -> AsyncIterator[AioKube]:
    async with AioKube(await load_configuration(str(control_plane.kubeconfig))) as kube:
        yield kube


@pytest.fixture
async def namespace(admin: ApiClient, real_kube: AioKube) -> AsyncIterator[str]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    core = CoreV1Api(admin)
    await core.create_namespace({"metadata": {"name": name}})
    # No controller makes it here, and no pod is admitted without it.
    await core.create_namespaced_service_account(name, {"metadata": {"name": "default"}})
    yield name
    await _sweep(real_kube)


async def _sweep(kube: AioKube) -> None:
    """Leave nothing that an operator looks at: another test's would go on with it and write of it at any time.

    No controller collects garbage here, and one test runs at a time.
    """
    for resource in LOOKED_AT:
        for item in await kube.list(resource):
            name, namespace = item["metadata"]["name"], item["metadata"].get("namespace", "")
            with contextlib.suppress(NotFound):
                await kube.delete(resource, name, namespace, grace_period_s=0)
                if item["metadata"].get("finalizers"):
                    await kube.patch_metadata(resource, name, namespace, finalizers=[])


@pytest.fixture(params=["fake", "apiserver"])
def kube(request: pytest.FixtureRequest) -> Kube:
    """The same scenario against the fake and against the real thing."""
    if request.param == "fake":
        return FakeKube()
    real: Kube = request.getfixturevalue("real_kube")
    return real
