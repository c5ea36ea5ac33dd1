"""The catalog follows a real API server: what is written there is known here, and stays known while it is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient

from e2e.cluster.controlplane import ControlPlane
from llmos.kubeconfig import load_configuration
from llmos_gateway.catalog import Catalog
from llmos_gateway.cluster import AioSource, ClusterWatch
from tests.gateway.values import api_key, key_text
from tests.integration.gateway.cluster import (
    create_key,
    create_model,
    create_pool,
    create_slice,
    create_tenant,
    delete_key,
    delete_pool,
    delete_tenant,
    patch_pool_status,
    replace_slice,
    share_model,
)
from tests.integration.gateway.conftest import until

pytestmark = pytest.mark.apiserver


def addresses(catalog: Catalog, namespace: str) -> list[str]:
    pool = catalog.get_pool(f"{namespace}/chat")
    return [endpoint.address for endpoint in pool.endpoints] if pool else []


def reads(catalog: Catalog, namespace: str, **wanted: Any) -> Callable[[], bool]:
    def is_so() -> bool:
        pool = catalog.get_pool(f"{namespace}/chat")
        return pool is not None and replace(pool, **wanted) == pool

    return is_so


async def test_pools_endpoints_and_their_changes_are_followed(
    admin: ApiClient, namespace: str, catalog: Catalog
) -> None:
    await create_pool(admin, namespace, routing={"policy": "prefix"})
    await until(reads(catalog, namespace, model="qwen", policy="prefix", endpoints=()))
    await create_slice(admin, namespace, "10.9.0.1", "10.9.0.2")
    await until(lambda: addresses(catalog, namespace) == ["10.9.0.1:8000", "10.9.0.2:8000"])
    await replace_slice(admin, namespace, "10.9.0.2")
    await until(lambda: addresses(catalog, namespace) == ["10.9.0.2:8000"])
    refusal = {"type": "Ready", "status": "False", "reason": "DoesNotFit", "message": "Too big."}
    refusal |= {"observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}  # type: ignore[dict-item]
    await patch_pool_status(admin, namespace, {"desiredReplicas": 2, "conditions": [refusal]})
    await until(reads(catalog, namespace, desired=2, problem="Too big.", is_hopeless=True))
    await delete_pool(admin, namespace)
    await until(lambda: catalog.get_pool(f"{namespace}/chat") is None)


async def test_an_adapter_is_served_by_the_pods_that_the_status_names(
    admin: ApiClient, namespace: str, catalog: Catalog
) -> None:
    def serves(*wanted: str) -> Callable[[], bool]:
        def is_so() -> bool:
            seen = catalog.get_pool(f"{namespace}/chat", "support")
            return seen is not None and [endpoint.address for endpoint in seen.endpoints] == [*wanted]

        return is_so

    await create_pool(admin, namespace, adapters={"models": [{"name": "support"}]})
    await create_slice(admin, namespace, "10.9.0.1", "10.9.0.2")
    entry = {"name": "support", "digest": "sha256:a", "replicas": [], "reason": "Loading"}
    await patch_pool_status(admin, namespace, {"adapters": [entry]})
    await until(serves())
    await patch_pool_status(admin, namespace, {"adapters": [{**entry, "replicas": ["p-10.9.0.2"], "reason": "Loaded"}]})
    await until(serves("10.9.0.2:8000"))
    await replace_slice(admin, namespace, "10.9.0.1")
    await until(serves())
    await patch_pool_status(admin, namespace, {"adapters": []})
    await until(lambda: catalog.get_pool(f"{namespace}/chat", "support") is None)


async def test_a_key_lets_in_as_soon_as_it_is_there_and_nobody_once_it_is_revoked(
    admin: ApiClient, namespace: str, catalog: Catalog
) -> None:
    # Without an event of the watch nothing would change for `WATCH_S`, which is longer than the test waits.
    assert catalog.authenticate(key_text(), 0) is None
    await create_key(admin, namespace)
    await until(lambda: catalog.authenticate(key_text(), 0))
    await delete_key(admin, namespace)
    await until(lambda: catalog.authenticate(key_text(), 0) is None)


async def test_keys_of_other_namespaces_are_not_looked_at(admin: ApiClient, namespace: str, catalog: Catalog) -> None:
    await create_key(admin, "default", 7)
    await create_key(admin, namespace, 8)
    await until(lambda: catalog.authenticate(key_text(8), 0))
    assert catalog.authenticate(key_text(7), 0) is None


async def test_the_last_state_is_kept_while_the_api_server_is_away_and_followed_when_it_is_back(
    control_plane: ControlPlane, admin: ApiClient, namespace: str, catalog: Catalog
) -> None:
    await create_pool(admin, namespace)
    await create_slice(admin, namespace, "10.9.0.1")
    await create_key(admin, namespace)
    await until(lambda: addresses(catalog, namespace) and catalog.authenticate(key_text(), 0))
    control_plane.stop_apiserver()
    try:
        await asyncio.sleep(2)
        assert addresses(catalog, namespace) == ["10.9.0.1:8000"]
        assert catalog.authenticate(key_text(), 0)
    finally:
        control_plane.start_apiserver()
    await delete_key(admin, namespace)
    await replace_slice(admin, namespace, "10.9.0.5")
    await until(lambda: addresses(catalog, namespace) == ["10.9.0.5:8000"])
    await until(lambda: catalog.authenticate(key_text(), 0) is None)


class Wire:
    """A TCP connection to the API server that can go dead without anybody being told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_dead: list[asyncio.Event] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.sleep(0)  # One that was accepted just before begins to be joined.
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # A task that was cancelled before it began has closed nothing.
            for writer in self._writers:
                writer.transport.abort()
            await asyncio.sleep(0)  # What was aborted is closed in the loop's next round.

    def kill_silently(self) -> int:
        """Let nothing through any more on the connections there are; return how many."""
        for dead in self._is_dead:
            dead.set()
        return len(self._is_dead)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dead = asyncio.Event()
        self._is_dead.append(dead)
        self._writers.append(writer)
        if (joining := asyncio.current_task()) is not None:
            self._tasks.add(joining)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(far_writer)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, target, dead))
            self._tasks.add(task)

    @staticmethod
    async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, dead: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                if not dead.is_set():
                    target.write(data)
                    await target.drain()
        except ConnectionError:
            pass
        finally:
            target.transport.abort()


async def test_a_watch_that_died_silently_is_noticed(
    control_plane: ControlPlane, admin: ApiClient, namespace: str
) -> None:
    configuration = await load_configuration(str(control_plane.kubeconfig))
    wire, catalog = Wire(control_plane.spec.api_port), Catalog()
    async with wire.open() as port:
        configuration.host = f"https://127.0.0.1:{port}"
        async with AioSource(configuration, watch_s=2, grace_s=1) as source:
            following = asyncio.create_task(ClusterWatch(catalog, source, namespace=namespace).run())
            await until(lambda: catalog.is_synced)
            assert wire.kill_silently() >= 3
            await create_key(admin, namespace)
            await until(lambda: catalog.authenticate(key_text(), 0))
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def test_tenants_and_whom_models_are_shared_with_are_followed(
    admin: ApiClient, namespace: str, catalog: Catalog
) -> None:
    name, key = f"t-{namespace}", api_key(tenant=f"t-{namespace}")
    pool_id = f"{namespace}/chat"
    await create_pool(admin, namespace)
    await create_model(admin, namespace)
    await until(lambda: catalog.get_pool(pool_id) is not None)
    assert catalog.find_pool(key, pool_id) is None
    await create_tenant(admin, name, ["elsewhere"], [f"{namespace}/qwen"])
    try:
        await until(lambda: catalog.get_tenant(name) is not None)
        assert catalog.find_pool(key, pool_id) is None
        await share_model(admin, namespace, name)
        await until(lambda: catalog.find_pool(key, pool_id) is not None)
        await share_model(admin, namespace)
        await until(lambda: catalog.find_pool(key, pool_id) is None)
    finally:
        await delete_tenant(admin, name)
    await until(lambda: catalog.get_tenant(name) is None)
