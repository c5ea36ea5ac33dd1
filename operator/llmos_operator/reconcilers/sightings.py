"""What was found in the namespaces of tenants, for the pools in them: written by the one who looked, read by others.

All of it is in one event loop, and all of it can be lost: then nobody has looked yet, and the next look fills it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from llmos.api.isolation import Finding
from llmos_operator.planning.quota_counted import Uncounted


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
    changed: Mapping[str, datetime] = field(default_factory=dict)
    """By namespace: when one of its NetworkPolicies was last made or put back."""
    written: Mapping[str, datetime] = field(default_factory=dict)
    """By namespace: when its ResourceQuota was last made or changed."""
    uncounted: tuple[Uncounted, ...] = ()
    """ResourceQuotas of which not everything is counted."""

    @property
    def is_settling(self) -> bool:
        """Return whether something has to be looked at again soon, as policies are new."""
        return any(finding.is_settling for found in self.namespaces.values() for finding in found)

    @property
    def findings(self) -> Iterable[tuple[str, tuple[Finding, ...]]]:
        """Findings by namespace, those about the whole cluster last."""
        return (*self.namespaces.items(), ("", self.shared))


class Sightings:
    """The last look at each tenant; there are as many as there are Tenants."""

    def __init__(self) -> None:
        self._by_tenant: dict[str, Sighting] = {}
        self._leaving: dict[str, set[str]] = {}
        """By tenant: uids of what was taken away in the last look."""

    def get(self, tenant: str) -> Sighting | None:
        """Return the last look at a tenant."""
        return self._by_tenant.get(tenant)

    def put(self, tenant: str, sighting: Sighting) -> None:
        """Remember a look."""
        self._by_tenant[tenant] = sighting

    def note_leaving(self, tenant: str, uids: set[str]) -> set[str]:
        """Say what of a tenant is taken away in this look; return what was in the last one."""
        before = self._leaving.get(tenant, set())
        self._leaving[tenant] = uids
        return before

    def forget(self, tenant: str) -> None:
        """The Tenant is gone."""
        self._by_tenant.pop(tenant, None)
        self._leaving.pop(tenant, None)
