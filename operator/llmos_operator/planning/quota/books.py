"""The quota accounts: who holds how much of a class, what may be borrowed, and the share by which tenants are compared.

For one class let K be the accelerators that the nodes have, and for tenant i let g be its guarantee, l <= g the part of
it that may be lent, b its borrow limit, u what it holds. Tenants of a cohort put what they lend into one pot; what
nobody was promised (the spare S = max(0, K - sum of all g)) is open to every cohort. A tenant that holds more than it
keeps for itself (g - l) takes from the pot, and a cohort that takes more than it put in takes from the spare:

    over_i = max(0, u_i - (g_i - l_i))
    excess_k = max(0, sum of over_i in cohort k - sum of l_i in cohort k)
    admitted only if  u_i <= g_i + b_i  and  sum of excess_k <= S

so that all tenants together never hold more than K, and what a tenant did not lend is always there. It is Kueue's
formula for available quota (`pkg/cache/scheduler/resource_node.go`) on two levels, the upper one holding the spare.

Shares are compared in cost-weighted units, so that a borrowed H100 weighs more than a borrowed T4:

    share_i = sum over classes of cost_c * max(0, u_ic - g_ic) / weight_i

Accelerators are the only resource here, and the costs make its classes one, so this sum is the dominant share; its
denominator (the units of the whole cluster) is the same for everybody and left out. Costs are integers in thousandths:
two integers are divided exactly, so equal shares compare as equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from llmos_operator.planning.quota.values import Node, Quota, TenantQuota

NO_QUOTA = Quota(borrow_limit=0)
NO_TENANT = TenantQuota("")
_THOUSANDTHS = 1000


class Verdict(Enum):
    """Whether the quota lets a tenant hold more, and what speaks against it."""

    YES = "yes"
    NO_ENTRY = "no entry"
    """The tenant has no quota of the class, or gets nothing more of any."""
    LIMIT = "limit"
    """The tenant would hold more than its guarantee and borrow limit."""
    NOTHING_TO_BORROW = "nothing to borrow"


OWN_MATTERS = frozenset({Verdict.NO_ENTRY, Verdict.LIMIT})
"""Nothing that other tenants give back would help."""


@dataclass(slots=True)
class _Pot:
    """What a cohort put in, and what its tenants take."""

    lendable: int = 0
    over: int = 0

    @property
    def excess(self) -> int:
        return max(0, self.over - self.lendable)


@dataclass(slots=True)
class _Slot:
    """One tenant's account of one class."""

    guaranteed: int
    kept: int
    """Of the guarantee, what is not lent."""
    limit: int | None
    is_open: bool
    """The tenant has an entry for the class, and may get more."""
    pot: _Pot
    used: int = 0

    def excess_with(self, accelerators: int) -> int:
        """The change of the cohort's excess if the tenant held so many more."""
        pot, kept, used = self.pot, self.kept, self.used
        change = max(0, used + accelerators - kept) - max(0, used - kept)
        if change == 0:
            return 0
        taken = pot.over - pot.lendable
        return max(0, taken + change) - max(0, taken)


@dataclass(slots=True)
class _Account:
    """All accounts of one class."""

    capacity: int
    guaranteed: int
    cost: int
    pots: dict[str, _Pot] = field(default_factory=dict)
    """By cohort."""
    slots: dict[str, _Slot] = field(default_factory=dict)
    """By tenant."""
    excess: int = 0

    @property
    def spare(self) -> int:
        return max(0, self.capacity - self.guaranteed)


class Book:
    """Accounts of all classes. Mutable, for it follows every change of a holding."""

    def __init__(self, tenants: Iterable[TenantQuota], nodes: Iterable[Node], costs: Mapping[str, float]) -> None:
        self._tenants = {tenant.name: tenant for tenant in tenants}
        self._accounts = _open_accounts(self._tenants.values(), nodes, costs)
        self._borrowed: dict[str, int] = {}
        """Cost-weighted units, by tenant."""

    def tenant(self, name: str) -> TenantQuota:
        """The tenant of that name; one without any quota if there is none."""
        return self._tenants.get(name, NO_TENANT)

    def tenants(self) -> Iterable[TenantQuota]:
        """All tenants."""
        return self._tenants.values()

    def classes(self) -> Iterable[str]:
        """Names of all classes."""
        return self._accounts.keys()

    def quota(self, tenant: str, class_name: str) -> Quota:
        """The tenant's quota of a class."""
        return self.tenant(tenant).quotas.get(class_name, NO_QUOTA)

    def used(self, tenant: str, class_name: str) -> int:
        """Accelerators of a class that the tenant holds."""
        slot = self._slot(tenant, class_name)
        return slot.used if slot else 0

    def borrowed(self, tenant: str, class_name: str) -> int:
        """Accelerators of a class that the tenant holds beyond its guarantee."""
        slot = self._slot(tenant, class_name)
        return max(0, slot.used - slot.guaranteed) if slot else 0

    def borrowers(self, class_name: str) -> list[str]:
        """Tenants that hold more of a class than is guaranteed to them."""
        account = self._accounts.get(class_name)
        return [name for name, slot in account.slots.items() if slot.used > slot.guaranteed] if account else []

    def holders(self, class_name: str) -> list[str]:
        """Tenants that hold accelerators of a class."""
        account = self._accounts.get(class_name)
        return [name for name, slot in account.slots.items() if slot.used] if account else []

    def capacity(self, class_name: str) -> int:
        """Accelerators of a class that the nodes have for tenants."""
        return self._accounts[class_name].capacity if class_name in self._accounts else 0

    def guaranteed(self, class_name: str) -> int:
        """Sum of all guarantees of a class."""
        return self._accounts[class_name].guaranteed if class_name in self._accounts else 0

    def spare(self, class_name: str) -> int:
        """Accelerators of a class that are guaranteed to nobody."""
        return self._accounts[class_name].spare if class_name in self._accounts else 0

    def excess(self, class_name: str, *, without_cohort: str = "") -> int:
        """Accelerators that cohorts take from the spare, one cohort left out if named."""
        account = self._accounts[class_name]
        pot = account.pots.get(without_cohort)
        return account.excess - (pot.excess if pot else 0)

    def units(self) -> int:
        """Cost-weighted accelerators of the whole cluster, the denominator of all shares."""
        return sum(account.capacity * account.cost for account in self._accounts.values())

    def share(self, tenant: str, more: int = 0) -> float:
        """Weighted share of what the tenant borrows, with `more` units on top."""
        units = self._borrowed.get(tenant, 0) + more
        if units == 0:
            return 0.0
        weight = self.tenant(tenant).weight
        return units / weight if weight > 0 else float("inf")

    def share_with(self, tenant: str, class_name: str, accelerators: int) -> float:
        """Share that the tenant would have if it held so many accelerators more (or, if negative, fewer)."""
        slot = self._slot(tenant, class_name)
        if slot is None:
            return self.share(tenant)
        more = max(0, slot.used + accelerators - slot.guaranteed) - max(0, slot.used - slot.guaranteed)
        return self.share(tenant, more * self._accounts[class_name].cost)

    def is_within_guarantee(self, tenant: str, class_name: str, accelerators: int) -> bool:
        """Whether the guarantee covers so many accelerators more."""
        slot = self._slot(tenant, class_name)
        return slot is not None and slot.used + accelerators <= slot.guaranteed

    def reach(self, tenant: str, class_name: str) -> int:
        """Accelerators of a class that the tenant could hold if nobody else borrowed any."""
        slot = self._slot(tenant, class_name)
        if slot is None or not slot.is_open:
            return 0
        reach = slot.kept + slot.pot.lendable + self._accounts[class_name].spare
        return reach if slot.limit is None else min(reach, slot.limit)

    def judge(self, tenant: str, class_name: str, accelerators: int) -> Verdict:
        """Whether the tenant may hold so many accelerators more."""
        slot = self._slot(tenant, class_name)
        if slot is None or not slot.is_open:
            return Verdict.NO_ENTRY
        if slot.limit is not None and slot.used + accelerators > slot.limit:
            return Verdict.LIMIT
        change = slot.excess_with(accelerators)
        # What a tenant keeps for itself changes no excess: it may be held even after nodes were lost.
        if change <= 0:
            return Verdict.YES
        account = self._accounts[class_name]
        return Verdict.YES if account.excess + change <= account.spare else Verdict.NOTHING_TO_BORROW

    def may_relieve(self, tenant: str, other: str, class_name: str) -> bool:
        """Whether the tenant may borrow more when the other gives back: both take from one pot, or from the spare."""
        mine, theirs = self._slot(tenant, class_name), self._slot(other, class_name)
        return mine is not None and theirs is not None and (mine.pot is theirs.pot or theirs.pot.excess > 0)

    def add(self, tenant: str, class_name: str, accelerators: int) -> None:
        """Count accelerators of a class as held by the tenant; negative ones as given back."""
        account = self._accounts.get(class_name)
        if account is None:
            return
        slot = account.slots.get(tenant)
        if slot is None:
            slot = account.slots[tenant] = _open_slot(self.tenant(tenant), class_name, account)
        before = slot.used
        after = before + accelerators
        account.excess += slot.excess_with(accelerators)
        slot.pot.over += max(0, after - slot.kept) - max(0, before - slot.kept)
        slot.used = after
        borrowed = max(0, after - slot.guaranteed) - max(0, before - slot.guaranteed)
        if borrowed:
            self._borrowed[tenant] = self._borrowed.get(tenant, 0) + borrowed * account.cost

    def _slot(self, tenant: str, class_name: str) -> _Slot | None:
        account = self._accounts.get(class_name)
        return account.slots.get(tenant) if account is not None else None


def _open_accounts(
    tenants: Iterable[TenantQuota], nodes: Iterable[Node], costs: Mapping[str, float]
) -> dict[str, _Account]:
    tenants = tuple(tenants)
    capacity: dict[str, int] = {}
    for node in nodes:
        capacity[node.class_name] = capacity.get(node.class_name, 0) + max(0, node.accelerators - node.taken)
    accounts = {}
    for name in sorted(capacity.keys() | {name for tenant in tenants for name in tenant.quotas}):
        guaranteed = sum(tenant.quotas[name].guaranteed for tenant in tenants if name in tenant.quotas)
        cost = max(1, round(costs.get(name, 1.0) * _THOUSANDTHS))
        account = accounts[name] = _Account(capacity.get(name, 0), guaranteed, cost)
        for tenant in tenants:
            account.slots[tenant.name] = _open_slot(tenant, name, account)
    return accounts


def _open_slot(tenant: TenantQuota, class_name: str, account: _Account) -> _Slot:
    quota = tenant.quotas.get(class_name)
    pot = account.pots.setdefault(tenant.cohort_key, _Pot())
    if quota is None:
        return _Slot(0, 0, 0, is_open=False, pot=pot)
    pot.lendable += quota.lendable
    return _Slot(quota.guaranteed, quota.guaranteed - quota.lendable, quota.limit, is_open=not tenant.closed, pot=pot)
