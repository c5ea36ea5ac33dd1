"""What the gateway knows: pools, the replicas that may get requests, keys and tenants. Values and look-ups, no I/O.

`cluster` writes what it watches piece by piece, requests read it between two awaits; everything runs on one event loop
and every value is frozen, so that nothing needs a lock. When the API server is away the catalog simply stays as it is.

What a caller's word means, of what it may see (`tenants`); what it may not see does not exist for it:

    word                        first            else                     else
    name                        pool             LLMModel of a pool       adapter: LLMModel of an adapter
    namespace/name              pool             adapter
    namespace/pool/adapter      adapter

An adapter may have a share of another one's name (`splits`): who may use the name gets what stands behind it.
Pools go first, so that attaching an adapter never changes what a word means that meant something before. A word that
fits several of the first kind that it fits at all is no name; the longest one always is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from llmos.api.tenancy import read_account
from llmos.api.tenant import Tenant
from llmos_gateway.keys import ANONYMOUS, ApiKey, KeyRing
from llmos_gateway.pools import Adapter, Endpoint, HoldLimits, Pool
from llmos_gateway.splits import Split, build_splits, build_views, choose_arm
from llmos_gateway.tenants import Sealed, TenantAccess, TenantBook

__all__ = ["ANONYMOUS", "Adapter", "ApiKey", "Catalog", "Endpoint", "HoldLimits", "Pool"]


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
        self._by_adapter: dict[str, set[str]] = {}
        self._views: dict[str, dict[str, Pool]] = {}
        """Of pools by their id: how requests for each adapter see them."""
        self._splits: dict[str, dict[str, Split]] = {}
        """Of the same: names that several adapters answer."""
        self._shared: dict[str, frozenset[str]] = {}
        self._listeners: list[Callable[[str], None]] = []

    def authenticate(self, presented: str, now_s: float) -> ApiKey | None:
        """Return the caller who presents this key, None if it is unknown, wrong, revoked or expired."""
        return self.keys.authenticate(presented, now_s)

    def get_tenant(self, name: str) -> TenantAccess | None:
        """Return a tenant by its name, None if it does not exist."""
        return self._tenants.get(name)

    def is_current(self, account: str) -> bool:
        """Return whether this is the account of a tenant that exists, and not of an older one of its name."""
        return self._tenants.is_current(account)

    def is_gone(self, account: str) -> bool:
        """Return whether no key can open anything for the tenant of an account any more: another one of its name is in
        its place, or it is gone or on its way, and without keys.

        A Tenant with keys is not gone because it is absent: nothing of it could be read, perhaps, and may be again.
        """
        name = read_account(account)
        if not self.is_synced:
            return False
        if self._tenants.has(name) and not self._tenants.is_current(account):
            return True
        return self._tenants.is_ending(name) and not self.keys.has_tenant(name)

    def find_gone(self, accounts: Iterable[str]) -> tuple[str, ...]:
        """Return which of these accounts, and of those of tenants that left lately, are gone."""
        return tuple(account for account in {*accounts, *self._tenants.find_leaving()} if self.is_gone(account))

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

    def get_pool(self, pool_id: str, adapter: str = "") -> Pool | None:
        """Return a pool by its id, as requests for an adapter see it if one is named; None if it does not exist."""
        return self._views.get(pool_id, {}).get(adapter) if adapter else self._pools.get(pool_id)

    def get_split(self, pool: Pool) -> Split:
        """Return who answers the name by which a pool was found; nobody in particular if that is empty."""
        return self._splits.get(pool.id, {}).get(pool.short_name, ()) if pool.adapter is not None else ()

    def deal_out(self, pool: Pool, draw: float) -> Pool:
        """Return the adapter that answers a request for one that was found; `draw` is from 0 to below 100."""
        split = self.get_split(pool)
        return (choose_arm(split, draw) if split else None) or pool

    def get_pools(self) -> tuple[Pool, ...]:
        """Return all pools."""
        return tuple(self._pools.values())

    def find_pool(self, key: ApiKey, model: str) -> Pool | None:
        """Return the one pool or adapter that the caller may see and means; None if there is none, or several."""
        meant = self.find_meant(key, model)
        return meant[0] if len(meant) == 1 else None

    def find_meant(self, key: ApiKey, model: str) -> tuple[Pool, ...]:
        """Return all that the caller may see and may mean by `model`, in order."""
        for pools in self._list_meanings(model):
            if visible := tuple(pool for pool in pools if self._may_see(key, pool)):
                return visible if len(visible) == 1 else tuple(sorted(visible, key=lambda pool: pool.full_name))
        return ()

    def find_base(self, key: ApiKey, pool: Pool) -> str | None:
        """Return the model that an adapter changes, if it is one and the caller may see that model."""
        base = self._pools.get(pool.id) if pool.adapter is not None else None
        return base.model if base is not None and self._may_see(key, base) else None

    def list_visible(self, key: ApiKey) -> tuple[tuple[str, Pool], ...]:
        """Return every pool and adapter that the caller may see with the shortest name that finds it, in order."""
        views = (view for pool_id in self._pools for view in self._views[pool_id].values())
        visible = [pool for pool in (*self._pools.values(), *views) if self._may_see(key, pool)]
        return tuple(sorted(((self._find_shortest(key, pool), pool) for pool in visible), key=lambda pair: pair[0]))

    def find_clashes(self, pool_id: str) -> tuple[tuple[str, str], ...]:
        """Return adapters that bear the name of a pool of their namespace: whose adapter it is, and the pool.

        Of all of them those that a change of this pool may have made.
        """
        own = ((view.full_name, f"{view.namespace}/{name}") for name, view in self._views.get(pool_id, {}).items())
        namespace, _, name = pool_id.partition("/")
        others = ((f"{other}/{name}", pool_id) for other in self._by_adapter.get(name, ()))
        found = (*own, *(pair for pair in others if pair[0].startswith(f"{namespace}/")))
        return tuple(sorted({pair for pair in found if pair[1] in self._pools}))

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
        self._set(pool)
        for index, name in self._list_entries(pool):
            index.setdefault(name, set()).add(pool.id)
        self._tell(pool.id)

    def remove_pool(self, pool_id: str) -> None:
        """Forget a pool."""
        pool = self._pools.pop(pool_id, None)
        if pool is not None:
            del self._views[pool_id], self._splits[pool_id]
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
            self._set(replace(pool, endpoints=endpoints))
            self._tell(pool_id)

    def replace_endpoints(self, endpoints: dict[str, tuple[Endpoint, ...]]) -> None:
        """Make these all the endpoints there are, by pool id."""
        for pool_id in self._endpoints.keys() - endpoints.keys():
            self.put_endpoints(pool_id, ())
        for pool_id, present in endpoints.items():
            self.put_endpoints(pool_id, present)

    def _list_meanings(self, word: str) -> Iterator[Iterable[Pool]]:
        """Yield what a word fits, kind after kind."""
        parts = word.split("/")
        if len(parts) == 1:
            yield (self._pools[pool_id] for pool_id in self._by_name.get(word, ()))
            yield (self._pools[pool_id] for pool_id in self._by_model.get(word, ()))
            yield (self._views[pool_id][word] for pool_id in self._by_adapter.get(word, ()))
        elif len(parts) == 2:
            namespace, name = parts
            yield (self._pools[word],) if word in self._pools else ()
            views = (self._views[pool_id][name] for pool_id in self._by_adapter.get(name, ()))
            yield (view for view in views if view.namespace == namespace)
        elif len(parts) == 3:
            view = self.get_pool(f"{parts[0]}/{parts[1]}", parts[2])
            yield (view,) if view is not None else ()

    def _find_shortest(self, key: ApiKey, pool: Pool) -> str:
        for name in (pool.short_name, f"{pool.namespace}/{pool.short_name}"):
            if self.find_pool(key, name) is pool:
                return name
        return pool.full_name

    def _may_see(self, key: ApiKey, pool: Pool) -> bool:
        # An adapter is shared, allowed and in a key's scope by its own name: that its base is says nothing of it.
        shared_with = self._shared.get(f"{pool.namespace}/{pool.model}", frozenset())
        return key.may_see(pool.namespace, pool.short_name) and self._tenants.may_see(
            key.tenant, pool.namespace, pool.model, shared_with
        )

    def _set(self, pool: Pool) -> None:
        self._pools[pool.id] = pool
        self._views[pool.id] = build_views(pool)
        self._splits[pool.id] = build_splits(pool, self._views[pool.id])

    def _unlist(self, pool: Pool) -> None:
        for index, name in self._list_entries(pool):
            index[name].discard(pool.id)
            if not index[name]:
                del index[name]

    def _list_entries(self, pool: Pool) -> Iterator[tuple[dict[str, set[str]], str]]:
        yield self._by_name, pool.name
        yield self._by_model, pool.model
        for name in build_views(pool):
            yield self._by_adapter, name

    def _tell(self, pool_id: str) -> None:
        for listener in self._listeners:
            listener(pool_id)
