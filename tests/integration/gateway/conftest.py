"""The real API server with our kinds, a namespace for each test, and a gateway's eyes on it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest
from kubernetes.aio.client import ApiClient, CoreV1Api

from e2e.cluster.controlplane import ControlPlane
from llmos.kubeconfig import load_configuration
from llmos_gateway.catalog import Catalog
from llmos_gateway.cluster import AioSource, ClusterWatch

PATIENCE_S = 20.0

Kubectl = Callable[..., str]


@pytest.fixture
async def admin(control_plane: ControlPlane, our_kinds: None) -> AsyncIterator[ApiClient]:
    async with ApiClient(await load_configuration(str(control_plane.kubeconfig))) as client:
        yield client


@pytest.fixture
async def namespace(admin: ApiClient) -> str:
    name = f"gw-{uuid.uuid4().hex[:8]}"
    await CoreV1Api(admin).create_namespace({"metadata": {"name": name}})
    return name


@pytest.fixture
async def catalog(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Catalog]:
    """What a gateway in this namespace knows."""
    catalog = Catalog()
    configuration = await load_configuration(str(control_plane.kubeconfig))
    async with AioSource(configuration) as source:
        following = asyncio.create_task(ClusterWatch(catalog, source, namespace=namespace).run())
        await until(lambda: catalog.is_synced)
        yield catalog
        assert not following.done()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def until(is_so: Callable[[], object]) -> None:
    """Wait for what another program brings about."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - the API server is another program
            await asyncio.sleep(0.02)
