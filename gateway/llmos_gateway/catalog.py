"""What the gateway knows: pools, the replicas that may get requests, keys and tenants. Values and look-ups, no I/O.

`cluster` writes what it watches piece by piece, requests read it between two awaits; everything runs on one event loop
and every value is frozen, so that nothing needs a lock. When the API server is away the catalog simply stays as it is.

A caller names a pool by `pool`, by `namespace/pool`, or by the LLMModel that it serves. A name that fits several pools
the caller may see is no name; what the caller may not see (`tenants`) does not exist for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from llmos.api.tenant import Tenant
from llmos_gateway.keys import ANONYMOUS, ApiKey, KeyRing
from llmos_gateway.tenants import Sealed, TenantAccess, TenantBook

__all__ = ["ANONYMOUS", "ApiKey", "Catalog", "Endpoint", "HoldLimits", "Pool"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica that may get requests."""

    address: str
    """host:port of the engine."""
    control: str
    """host:port of its control port."""
    replica: str
    """Name of its pod."""


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """How long and how many requests are held while no replica can take them."""

    timeout_s: float = 600.0
    max_requests: int = 1000
    max_requests_per_key: int = 200


@dataclass(frozen=True, slots=True)
class Pool:
    """One InferencePool as a request needs it."""

    namespace: str
    name: str
    model: str
    """The name under which its engines serve the model."""
    policy: str = "auto"
    """How a replica is chosen."""
    hold: HoldLimits = HoldLimits()
    endpoints: tuple[Endpoint, ...] = ()
    """Replicas that are ready, and neither drain nor end."""
    desired: int = 0
    """Replicas that there should be, as the operator says."""
    is_scaled: bool = False
    """Whether its replicas follow the load, so that it may wake from zero."""
    problem: str = ""
    """Why no replica can come, in the operator's words."""
    is_hopeless: bool = False
    """Whether only a change of some object can bring a replica: such requests are refused at once."""
    start_s: float = 0.0
    """Measured time from a replica's creation to its readiness; 0 = unknown."""
    created_s: int = 0
    """Unix time."""
    context_length: int = 0
    """Longest prompt plus answer in tokens; 0 = unknown."""
    max_sequences: int = 0
    """Sequences that an engine runs at most, where the pool says it; 0 = unknown."""

    @property
    def id(self) -> str:
        """Return the pool's name in the whole cluster."""
        return f"{self.namespace}/{self.name}"


class Catalog:
    """Everything that is known now."""

    def __init__(self) -> None:
        self.keys = KeyRing()
        self.is_synced = False
        """Whether everything has been read once, so that what is not here does not exist."""
        self._tenants = TenantBook()
        self._pools: dict[str, Pool] = {}
        self._endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self._by_name: dict[str, set[str]] = {}
        self._by_model: dict[str, set[str]] = {}
        self._shared: dict[str, frozenset[str]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def authenticate(self, presented: str, now_s: float) -> ApiKey | None:
        """Return the caller who presents this key, None if it is unknown, wrong, revoked or expired."""
        return self.keys.authenticate(presented, now_s)

    def get_tenant(self, name: str) -> TenantAccess | None:
        """Return a tenant by its name, None if it does not exist."""
        return self._tenants.get(name)

    def put_tenant(self, tenant: Tenant | Sealed) -> None:
        """Add or replace a tenant."""
        self._tenants.put(tenant)

    def remove_tenant(self, name: str) -> None:
        """Forget a tenant: its keys open nothing any more."""
        self._tenants.remove(name)

    def replace_tenants(self, tenants: Iterable[Tenant | Sealed]) -> None:
        """Make these all the tenants there are."""
        self._tenants.replace(tenants)

    def put_sharing(self, model_id: str, tenants: frozenset[str]) -> None:
        """Say whom the owner of a model, `namespace/name`, shares it with; nobody if that is empty."""
        if tenants:
            self._shared[model_id] = tenants
        else:
            self._shared.pop(model_id, None)

    def replace_sharing(self, shared: Mapping[str, frozenset[str]]) -> None:
        """Make these all the models that are shared."""
        self._shared = {model_id: tenants for model_id, tenants in shared.items() if tenants}

    def get_pool(self, pool_id: str) -> Pool | None:
        """Return a pool by its id, None if it does not exist."""
        return self._pools.get(pool_id)

    def get_pools(self) -> tuple[Pool, ...]:
        """Return all pools."""
        return tuple(self._pools.values())

    def find_pool(self, key: ApiKey, model: str) -> Pool | None:
        """Return the one pool that the caller may see and means by `model`; None if there is none, or several."""
        if "/" in model:
            pool = self._pools.get(model)
            return pool if pool is not None and self._may_see(key, pool) else None
        visible = self._see(key, self._by_name.get(model, ())) or self._see(key, self._by_model.get(model, ()))
        return visible[0] if len(visible) == 1 else None

    def list_visible(self, key: ApiKey) -> tuple[tuple[str, Pool], ...]:
        """Return every pool that the caller may see with the shortest name that finds it, in order."""
        visible = self._see(key, self._pools)
        count: dict[str, int] = {}
        for pool in visible:
            count[pool.name] = count.get(pool.name, 0) + 1
        named = ((pool.name if count[pool.name] == 1 else pool.id, pool) for pool in visible)
        return tuple(sorted(named, key=lambda pair: pair[0]))

    def subscribe(self, on_change: Callable[[str], None]) -> None:
        """Have `on_change` told the id of every pool that comes, goes or changes, its endpoints included."""
        self._listeners.append(on_change)

    def put_pool(self, pool: Pool) -> None:
        """Add or replace a pool; its endpoints are those that `put_endpoints` says."""
        pool = replace(pool, endpoints=self._endpoints.get(pool.id, ()))
        before = self._pools.get(pool.id)
        if before == pool:
            return
        if before is not None:
            self._unlist(before)
        self._pools[pool.id] = pool
        self._by_name.setdefault(pool.name, set()).add(pool.id)
        self._by_model.setdefault(pool.model, set()).add(pool.id)
        self._tell(pool.id)

    def remove_pool(self, pool_id: str) -> None:
        """Forget a pool."""
        pool = self._pools.pop(pool_id, None)
        if pool is not None:
            self._unlist(pool)
            self._tell(pool_id)

    def replace_pools(self, pools: Iterable[Pool]) -> None:
        """Make these all the pools there are."""
        present = {pool.id: pool for pool in pools}
        for pool_id in self._pools.keys() - present.keys():
            self.remove_pool(pool_id)
        for pool in present.values():
            self.put_pool(pool)

    def put_endpoints(self, pool_id: str, endpoints: tuple[Endpoint, ...]) -> None:
        """Say which replicas of a pool may get requests. They may come before the pool."""
        if self._endpoints.get(pool_id, ()) == endpoints:
            return
        if endpoints:
            self._endpoints[pool_id] = endpoints
        else:
            self._endpoints.pop(pool_id, None)
        pool = self._pools.get(pool_id)
        if pool is not None:
            self._pools[pool_id] = replace(pool, endpoints=endpoints)
            self._tell(pool_id)

    def replace_endpoints(self, endpoints: dict[str, tuple[Endpoint, ...]]) -> None:
        """Make these all the endpoints there are, by pool id."""
        for pool_id in self._endpoints.keys() - endpoints.keys():
            self.put_endpoints(pool_id, ())
        for pool_id, present in endpoints.items():
            self.put_endpoints(pool_id, present)

    def _see(self, key: ApiKey, pool_ids: Iterable[str]) -> list[Pool]:
        pools = [self._pools[pool_id] for pool_id in pool_ids]
        return [pool for pool in pools if self._may_see(key, pool)]

    def _may_see(self, key: ApiKey, pool: Pool) -> bool:
        shared_with = self._shared.get(f"{pool.namespace}/{pool.model}", frozenset())
        return key.may_see(pool.namespace, pool.name) and self._tenants.may_see(
            key.tenant, pool.namespace, pool.model, shared_with
        )

    def _unlist(self, pool: Pool) -> None:
        for index, name in ((self._by_name, pool.name), (self._by_model, pool.model)):
            index[name].discard(pool.id)
            if not index[name]:
                del index[name]

    def _tell(self, pool_id: str) -> None:
        for listener in self._listeners:
            listener(pool_id)
