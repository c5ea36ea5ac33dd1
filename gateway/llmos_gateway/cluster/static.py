"""Pools, endpoints, keys and tenants from a YAML or JSON file, without a cluster: for tests, benchmarks, one machine.

    pools:
      - namespace: default          # default
        name: chat
        model: qwen                 # the pool's name
        policy: auto                # auto
        hold: {timeoutSeconds: 60, maxRequests: 1000, maxRequestsPerKey: 200}
        adapters: [support, {name: legal, replicas: [127.0.0.1:8000], digest: v2}]   # on all endpoints
        endpoints: [127.0.0.1:8000, {address: 127.0.0.1:8010, control: 127.0.0.1:8011}]
    keys:
      - key: sk-llmos-...           # or sha256: the hash of the whole key, and id
        namespaces: [default]       # all
        models: ["chat*"]           # all
        tenant: search              # none
    tenants:
      - name: search                # and what a Tenant has in its spec
        namespaces: [default]
    models:
      - {namespace: shared, name: qwen, sharedWith: [search]}
    peers: [127.0.0.1:8081]

The file is read again when it changes. One that cannot be read is refused at the start; later it is logged, and what
was known stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmos.api.apikeys import compute_digest, find_key_id
from llmos.api.inferencepool import Hold, Routing
from llmos.api.names import CONTROL_PORT
from llmos.api.tenant import Tenant
from llmos_gateway.catalog import Adapter, Catalog, Endpoint, HoldLimits, Pool
from llmos_gateway.keys import ApiKey

POLL_S: Final = 0.5
MAX_BYTES: Final = 16 * 1024 * 1024

_logger = logging.getLogger(__name__)


class StaticError(Exception):
    """The file cannot be used; the text says why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Endpoint(_Part):
    address: str = Field(pattern=r"^.+:\d+$")
    control: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read_word(cls, value: Any) -> Any:
        return {"address": value} if isinstance(value, str) else value

    def build(self) -> Endpoint:
        host = self.address.rpartition(":")[0]
        return Endpoint(self.address, self.control or f"{host}:{CONTROL_PORT}", self.address)


class _Adapter(_Part):
    name: str
    digest: str = ""
    replicas: tuple[str, ...] | None = None
    problem: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read_word(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def build(self, endpoints: Iterable[str]) -> Adapter:
        replicas = endpoints if self.replicas is None else self.replicas
        return Adapter(self.name, self.digest, frozenset(replicas), self.problem)


class _Pool(_Part):
    name: str
    namespace: str = "default"
    model: str = ""
    policy: str = Routing().policy
    hold: Hold = Hold()
    endpoints: tuple[_Endpoint, ...] = ()
    problem: str = ""
    hopeless: bool = False
    adapters: tuple[_Adapter, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> _Pool:
        names = [self.model or self.name, *(adapter.name for adapter in self.adapters)]
        if len(set(names)) < len(names):
            raise ValueError("the model and the adapters of a pool must have different names")
        return self

    def build(self) -> Pool:
        hold = HoldLimits(float(self.hold.timeout_seconds), self.hold.max_requests, self.hold.max_requests_per_key)
        return Pool(
            self.namespace,
            self.name,
            self.model or self.name,
            policy=self.policy,
            hold=hold,
            desired=len(self.endpoints),
            problem=self.problem,
            is_hopeless=self.hopeless,
            adapters=tuple(adapter.build(e.address for e in self.endpoints) for adapter in self.adapters),
        )


class _Key(_Part):
    key: str = ""
    id: str = ""
    sha256: str = ""
    namespaces: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    tenant: str = ""

    @model_validator(mode="after")
    def _check(self) -> _Key:
        if self.key and find_key_id(self.key) is None:
            raise ValueError("key is not of the form sk-llmos-ID-SECRET: 12 and then 43 letters and digits")
        if not self.key and not (self.id and self.sha256):
            raise ValueError("give key, or id and sha256")
        return self

    def build(self) -> ApiKey:
        key_id = find_key_id(self.key) or self.id
        return ApiKey(
            id=key_id,
            name=key_id,
            digest=compute_digest(self.key) if self.key else bytes.fromhex(self.sha256),
            namespaces=frozenset(self.namespaces),
            models=self.models,
            endpoints=self.endpoints,
            tenant=self.tenant,
        )


class _Tenant(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    def build(self) -> Tenant:
        return Tenant.model_validate({"metadata": {"name": self.name}, "spec": self.model_extra})


class _Model(_Part):
    name: str
    namespace: str = "default"
    shared_with: tuple[str, ...] = Field(default=(), alias="sharedWith")


class _File(_Part):
    pools: tuple[_Pool, ...] = ()
    keys: tuple[_Key, ...] = ()
    tenants: tuple[_Tenant, ...] = ()
    models: tuple[_Model, ...] = ()
    peers: tuple[str, ...] = ()


class StaticWatch:
    """The catalog's writer when there is no cluster; the same methods as `ClusterWatch`."""

    def __init__(self, catalog: Catalog, path: Path) -> None:
        self._catalog = catalog
        self._path = path
        self._peers: tuple[str, ...] = ()
        self._seen: tuple[int, int] | None = None

    def load(self) -> None:
        """Read the file.

        Raises:
            StaticError: it cannot be used.
        """
        try:
            stat = self._path.stat()
            self._seen = (stat.st_mtime_ns, stat.st_size)
            if stat.st_size > MAX_BYTES:
                raise StaticError(f"{self._path} is larger than {MAX_BYTES} bytes.")
            content = yaml.safe_load(self._path.read_text())
            file = _File.model_validate(content if isinstance(content, Mapping) else {"pools": content})
            self._put(file)
        except (OSError, ValueError, yaml.YAMLError, ValidationError) as error:
            raise StaticError(f"{self._path} cannot be used: {error}") from error

    async def run(self) -> None:
        """Read the file now and whenever it changes, until cancelled."""
        self.load()
        while True:
            await asyncio.sleep(POLL_S)
            if not self._has_changed():
                continue
            try:
                self.load()
            except StaticError as error:
                _logger.error("Going on with what is known: %s", error)

    def peers(self) -> list[str]:
        """Return the admin addresses of the other gateways."""
        return list(self._peers)

    def _has_changed(self) -> bool:
        try:
            stat = self._path.stat()
        except OSError:
            return False
        return (stat.st_mtime_ns, stat.st_size) != self._seen

    def _put(self, file: _File) -> None:
        pools = {
            pool.id: (pool, tuple(e.build() for e in part.endpoints)) for part in file.pools for pool in [part.build()]
        }
        keys = [key.build() for key in file.keys]
        tenants = [tenant.build() for tenant in file.tenants]
        self._catalog.replace_endpoints({pool_id: endpoints for pool_id, (_, endpoints) in pools.items() if endpoints})
        self._catalog.replace_pools(pool for pool, _ in pools.values())
        self._catalog.replace_tenants(tenants)
        self._catalog.replace_sharing({f"{m.namespace}/{m.name}": frozenset(m.shared_with) for m in file.models})
        self._catalog.keys.replace(keys)
        self._peers = file.peers
        self._catalog.is_synced = True
