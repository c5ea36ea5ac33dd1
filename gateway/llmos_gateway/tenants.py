"""Whom a key stands for: a tenant, with what is its own, what it may call of others, and how much. No I/O.

A tenant comes from the key alone. A key that names a Tenant which does not exist opens nothing: whatever limits that
Tenant had, none of them would hold. Which namespaces are a tenant's is decided over all of them together
(`llmos.api.tenancy`), so every change of one is a change of the whole book.

Whom a pool exists for, by the tenant of the key and the tenant whose namespace the pool is in:

    its own tenant                          yes
    owner has dedicatedPools                nobody else
    key without a tenant                    yes, as far as its scopes reach
    tenant has dedicatedPools               no
    another tenant                          where its spec.models.allow names the model, and the model's spec.sharedWith
                                            names the tenant: the administrator grants, and the owner consents

The scopes of a key only take away from that.

A Tenant that cannot be read, because a newer version wrote it, is sealed: its namespaces stay its own and are shown to
nobody, and its keys open nothing. Were it left out, what it shuts would be open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

from llmos.api.tenancy import build_account, find_owners, find_seniority, parse_tokens, read_account
from llmos.api.tenant import Tenant, TenantSpec, TokenBudget, TokenCost

EVERYBODY: Final = "*"
MOST_DEPARTED: Final = 1024
"""Tenants that are gone whose accounts are remembered, so that what is kept of them is taken away."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens, weighted by cost, and requests that a tenant's keys may use together; None = no limit."""

    per_minute_tokens: int | None = None
    """In a minute (UTC)."""
    per_day_tokens: int | None = None
    """In a day (UTC)."""
    per_month_tokens: int | None = None
    """In a calendar month (UTC)."""
    max_concurrency: int | None = None
    """Requests at the same time."""
    cost: TokenCost = field(default_factory=TokenCost)
    """What a token counts."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """shadow counts and refuses nothing."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A Tenant of which only the claim is known: a name, an age and namespaces."""

    claim: Tenant


@dataclass(frozen=True, slots=True)
class TenantAccess:
    """One tenant, as a request needs it."""

    name: str
    account: str = ""
    """Under which its tokens are counted."""
    namespaces: frozenset[str] = frozenset()
    """Those that are its own: named by it, and by no older tenant."""
    models: tuple[str, ...] = ()
    """Patterns of `namespace/model` that it may call elsewhere, where the owner shares them."""
    weight: int = 1
    """Its share of what is busy, relative to others."""
    budget: Budget = field(default_factory=Budget)
    dedicated_pools: bool = False
    """Whether it shares no pool with anybody: its requests go to its own namespaces, and only its requests do."""
    profile: Literal["strict", "standard"] = "standard"

    def may_borrow(self, model: str, shared_with: Iterable[str]) -> bool:
        """Return whether it may call `namespace/model` of somebody who shares it with these."""
        is_granted = not self.dedicated_pools and any(fnmatchcase(model, pattern) for pattern in self.models)
        return is_granted and any(name in (self.name, EVERYBODY) for name in shared_with)


def build_access(tenant: Tenant, namespaces: Iterable[str]) -> TenantAccess:
    """Return what a Tenant grants in the namespaces that are its own."""
    spec = tenant.spec
    return TenantAccess(
        name=tenant.metadata.name,
        account=_get_account(tenant),
        namespaces=frozenset(namespaces),
        models=spec.models.allow,
        weight=spec.weight,
        budget=build_budget(spec.tokens),
        dedicated_pools=spec.isolation.dedicated_pools or spec.isolation.profile == "strict",
        profile=spec.isolation.profile,
    )


def build_budget(tokens: TokenBudget) -> Budget:
    """Return a tenant's limits in numbers."""
    return Budget(
        per_minute_tokens=_count(tokens.per_minute),
        per_day_tokens=_count(tokens.per_day),
        per_month_tokens=_count(tokens.per_month),
        max_concurrency=tokens.max_concurrency,
        cost=tokens.cost,
        mode=tokens.mode,
    )


def _count(quantity: str | None) -> int | None:
    return None if quantity is None else parse_tokens(quantity)


def _get_claim(tenant: Tenant | Sealed) -> Tenant:
    return tenant.claim if isinstance(tenant, Sealed) else tenant


def _get_account(tenant: Tenant | Sealed) -> str:
    metadata = _get_claim(tenant).metadata
    return build_account(metadata.name, metadata.uid)


def _build_identity(tenant: Tenant | Sealed) -> tuple[bool, TenantSpec, str, tuple[float, str]]:
    claim = _get_claim(tenant)
    return isinstance(tenant, Sealed), claim.spec, _get_account(claim), find_seniority(claim)


class TenantBook:
    """The tenants there are now, by name and by namespace."""

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant | Sealed] = {}
        self._access: dict[str, TenantAccess] = {}
        self._owners: dict[str, TenantAccess] = {}
        self._departed: dict[str, None] = {}
        """Accounts of Tenants that are gone; who went last stands at the end."""

    def get(self, name: str) -> TenantAccess | None:
        """Return a tenant, None if it does not exist."""
        return self._access.get(name)

    def has(self, name: str) -> bool:
        """Return whether there is a tenant of this name, though it may be sealed."""
        return name in self._tenants

    def is_ending(self, name: str) -> bool:
        """Return whether a tenant does not exist, or is being deleted."""
        known = self._tenants.get(name)
        return known is None or _get_claim(known).metadata.deletion_timestamp is not None

    def is_current(self, account: str) -> bool:
        """Return whether this is the account of a tenant that exists, and not of an older one of its name."""
        known = self._tenants.get(read_account(account))
        return known is not None and _get_account(known) == account

    def find_leaving(self) -> tuple[str, ...]:
        """Return the accounts of tenants that are being deleted, or are gone since this process began."""
        ending = (_get_account(tenant) for name, tenant in self._tenants.items() if self.is_ending(name))
        return (*ending, *self._departed)

    def find_owner(self, namespace: str) -> TenantAccess | None:
        """Return the tenant whose namespace this is, None if it is nobody's."""
        return self._owners.get(namespace)

    def may_see(self, name: str, namespace: str, model: str, shared_with: Iterable[str]) -> bool:
        """Return whether a pool exists for the keys of a tenant, or with an empty name for keys without one.

        Args:
            name: of the tenant.
            namespace: of the pool.
            model: that it serves, of the same namespace; or the adapter.
            shared_with: what that model's owner consents to.
        """
        owner = self._owners.get(namespace)
        if owner is not None and (owner.name == name or owner.dedicated_pools):
            return owner.name == name and name in self._access
        if not name:
            return True
        tenant = self._access.get(name)
        return tenant is not None and tenant.may_borrow(f"{namespace}/{model}", shared_with)

    def put(self, tenant: Tenant | Sealed) -> None:
        """Add or replace a tenant."""
        name = _get_claim(tenant).metadata.name
        before = self._tenants.get(name)
        self._tenants[name] = tenant
        self._note_departed((before,) if before is not None else ())
        # What the operator writes into the status changes nothing here.
        if before is None or _build_identity(before) != _build_identity(tenant):
            self._rebuild()

    def remove(self, name: str) -> None:
        """Forget a tenant."""
        if (gone := self._tenants.pop(name, None)) is not None:
            self._note_departed((gone,))
            self._rebuild()

    def replace(self, tenants: Iterable[Tenant | Sealed]) -> None:
        """Make these all the tenants there are."""
        before = tuple(self._tenants.values())
        self._tenants = {_get_claim(tenant).metadata.name: tenant for tenant in tenants}
        self._note_departed(before)
        self._rebuild()

    def _note_departed(self, before: Iterable[Tenant | Sealed]) -> None:
        self._departed |= {account: None for account in map(_get_account, before) if not self.is_current(account)}
        while len(self._departed) > MOST_DEPARTED:
            del self._departed[next(iter(self._departed))]

    def _rebuild(self) -> None:
        owned: dict[str, list[str]] = {}
        claims = {name: _get_claim(tenant) for name, tenant in self._tenants.items()}
        owners = find_owners(claims.values()).by_namespace
        for namespace, name in owners.items():
            owned.setdefault(name, []).append(namespace)
        access = {name: build_access(claim, owned.get(name, ())) for name, claim in claims.items()}
        self._owners = {namespace: access[name] for namespace, name in owners.items()}
        self._access = {name: found for name, found in access.items() if not isinstance(self._tenants[name], Sealed)}
