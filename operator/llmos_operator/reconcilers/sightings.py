"""What was found in the namespaces of tenants, for the pools in them: written by the one who looked, read by others.

All of it is in one event loop, and all of it can be lost: then nobody has looked yet, and the next look fills it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from llmos.api.isolation import Finding


@dataclass(frozen=True)
class Sighting:
    """One look at all namespaces of a tenant."""

    at: datetime
    inputs: str
    """What the look depended on; another text asks for another look."""
    is_strict: bool
    namespaces: Mapping[str, tuple[Finding, ...]]
    shared: tuple[Finding, ...] = ()
    """About the whole cluster."""

    @property
    def findings(self) -> Iterable[tuple[str, tuple[Finding, ...]]]:
        """Findings by namespace, those about the whole cluster last."""
        return (*self.namespaces.items(), ("", self.shared))


class Sightings:
    """The last look at each tenant; there are as many as there are Tenants."""

    def __init__(self) -> None:
        self._by_tenant: dict[str, Sighting] = {}

    def get(self, tenant: str) -> Sighting | None:
        """Return the last look at a tenant."""
        return self._by_tenant.get(tenant)

    def put(self, tenant: str, sighting: Sighting) -> None:
        """Remember a look."""
        self._by_tenant[tenant] = sighting

    def forget(self, tenant: str) -> None:
        """The Tenant is gone."""
        self._by_tenant.pop(tenant, None)
