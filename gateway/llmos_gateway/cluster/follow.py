"""Keeps the catalog up to date with the cluster, by five watches:

    InferencePools      all namespaces
    EndpointSlices      all namespaces, those of pools' and gateways' Services (a slice inherits its Service's labels)
    Secrets             the gateway's own namespace, only those labelled as API keys
    Tenants             all
    LLMModels           all namespaces, for whom they are shared with

The operator is not needed for any of them: while it is down pools keep their last status, and the endpoints, which
Kubernetes itself maintains, go on changing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from llmos.api.apikeys import SECRET_SELECTOR, InvalidKeySecret
from llmos.api.names import COMPONENT_GATEWAY, COMPONENT_SERVICE, GROUP, LABEL_COMPONENT, VERSION
from llmos.api.tenant import Tenant
from llmos_gateway.catalog import Catalog, Endpoint, Pool
from llmos_gateway.cluster.objects import (
    Slice,
    merge_slices,
    parse_key,
    parse_pool,
    parse_sharing,
    parse_slice,
    parse_tenant,
)
from llmos_gateway.cluster.source import Object, Source
from llmos_gateway.cluster.watcher import Name, Subject, Watcher
from llmos_gateway.keys import ApiKey
from llmos_gateway.tenants import Sealed

_POOLS: Final = Subject("InferencePools", f"/apis/{GROUP}/{VERSION}/inferencepools", "", parse_pool)
_TENANTS: Final = Subject("Tenants", f"/apis/{GROUP}/{VERSION}/tenants", "", parse_tenant)
_MODELS: Final = Subject("LLMModels", f"/apis/{GROUP}/{VERSION}/llmmodels", "", parse_sharing)
_SLICES: Final = Subject(
    "EndpointSlices",
    "/apis/discovery.k8s.io/v1/endpointslices",
    f"{LABEL_COMPONENT} in ({COMPONENT_SERVICE},{COMPONENT_GATEWAY})",
    parse_slice,
)

_logger = logging.getLogger(__name__)


class ClusterWatch:
    """The catalog's writer.

    Args:
        catalog: what is kept up to date; it is synced once all lists have been read.
        source: the API server.
        namespace: the gateway's own, where the keys are.
        gateway: the name of its own pod, which is no peer of itself.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        catalog: Catalog,
        source: Source,
        *,
        namespace: str,
        gateway: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._slices = _SliceSink(catalog, namespace, gateway)
        keys = Subject("Secrets of API keys", f"/api/v1/namespaces/{namespace}/secrets", SECRET_SELECTOR, _read_key)
        self._watchers: tuple[Watcher[Any], ...] = (
            Watcher(source, _POOLS, _PoolSink(catalog), clock=clock),
            Watcher(source, _SLICES, self._slices, clock=clock),
            Watcher(source, keys, _KeySink(catalog), clock=clock),
            Watcher(source, _TENANTS, _TenantSink(catalog), clock=clock),
            Watcher(source, _MODELS, _SharingSink(catalog), clock=clock),
        )

    async def run(self) -> None:
        """Follow until cancelled; a mistake in one of them ends all."""
        async with asyncio.TaskGroup() as tasks:
            for watcher in self._watchers:
                tasks.create_task(watcher.run())
            for watcher in self._watchers:
                await watcher.is_listed.wait()
            self._catalog.is_synced = True
            _logger.info("Everything has been read: %d pools", len(self._catalog.get_pools()))

    def peers(self) -> list[str]:
        """Return the admin addresses of the other gateways."""
        return self._slices.peers()

    def last_contact_s(self) -> float:
        """Return when the API server last said something on the quietest of the watches, by the clock."""
        return min(watcher.last_contact_s for watcher in self._watchers)


class _PoolSink:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def replace(self, things: Mapping[Name, Pool]) -> None:
        self._catalog.replace_pools(things.values())

    def put(self, name: Name, thing: Pool) -> None:
        self._catalog.put_pool(thing)

    def remove(self, name: Name) -> None:
        self._catalog.remove_pool("/".join(name))


class _KeySink:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def replace(self, things: Mapping[Name, ApiKey | None]) -> None:
        self._catalog.keys.replace(key for key in things.values() if key is not None)

    def put(self, name: Name, thing: ApiKey | None) -> None:
        if thing is None:
            self.remove(name)
        else:
            self._catalog.keys.put(thing)

    def remove(self, name: Name) -> None:
        self._catalog.keys.remove(name[1])


class _TenantSink:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def replace(self, things: Mapping[Name, Tenant | Sealed]) -> None:
        self._catalog.replace_tenants(things.values())

    def put(self, name: Name, thing: Tenant | Sealed) -> None:
        self._catalog.put_tenant(thing)

    def remove(self, name: Name) -> None:
        self._catalog.remove_tenant(name[1])


class _SharingSink:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def replace(self, things: Mapping[Name, frozenset[str]]) -> None:
        self._catalog.replace_sharing({"/".join(name): tenants for name, tenants in things.items()})

    def put(self, name: Name, thing: frozenset[str]) -> None:
        self._catalog.put_sharing("/".join(name), thing)

    def remove(self, name: Name) -> None:
        self._catalog.put_sharing("/".join(name), frozenset())


class _SliceSink:
    """Joins the slices of each pool."""

    def __init__(self, catalog: Catalog, namespace: str, gateway: str) -> None:
        self._catalog = catalog
        self._namespace = namespace
        self._gateway = gateway
        self._slices: dict[Name, Slice] = {}
        self._by_pool: dict[str, set[Name]] = {}

    def replace(self, things: Mapping[Name, Slice]) -> None:
        self._slices, self._by_pool = {}, {}
        for name, thing in things.items():
            self._add(name, thing)
        self._catalog.replace_endpoints({pool_id: self._merge(pool_id) for pool_id in self._by_pool if pool_id})

    def put(self, name: Name, thing: Slice) -> None:
        before = self._drop(name)
        self._add(name, thing)
        self._tell({thing.pool_id, before})

    def remove(self, name: Name) -> None:
        self._tell({self._drop(name)})

    def peers(self) -> list[str]:
        ours = [s for s in map(self._slices.__getitem__, self._by_pool.get("", ())) if s.namespace == self._namespace]
        return [endpoint.address for endpoint in merge_slices(ours) if endpoint.replica != self._gateway]

    def _add(self, name: Name, thing: Slice) -> None:
        self._slices[name] = thing
        self._by_pool.setdefault(thing.pool_id, set()).add(name)

    def _drop(self, name: Name) -> str:
        """Forget a slice and return whose it was."""
        thing = self._slices.pop(name, None)
        if thing is None:
            return ""
        names = self._by_pool[thing.pool_id]
        names.discard(name)
        if not names:
            del self._by_pool[thing.pool_id]
        return thing.pool_id

    def _tell(self, pool_ids: set[str]) -> None:
        for pool_id in pool_ids - {""}:
            self._catalog.put_endpoints(pool_id, self._merge(pool_id))

    def _merge(self, pool_id: str) -> tuple[Endpoint, ...]:
        return merge_slices(self._slices[name] for name in self._by_pool.get(pool_id, ()))


def _read_key(item: Object) -> ApiKey | None:
    """Return whom a Secret lets in. One that cannot be read lets nobody in any more, whatever it said before."""
    try:
        return parse_key(item)
    except InvalidKeySecret as error:
        _logger.error("Secret %s holds no usable API key: %s", item["metadata"]["name"], error)
        return None
