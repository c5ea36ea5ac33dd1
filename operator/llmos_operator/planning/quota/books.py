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
    """The tenant has no quota of the class."""
    LIMIT = "limit"
    """The tenant would hold more than its guarantee and borrow limit."""
    NOTHING_TO_BORROW = "nothing to borrow"


@dataclass(slots=True)
class _ClassAccount:
    spare: int
    capacity: int
    guaranteed: int
    lendable: dict[str, int]
    """By cohort."""
    used: dict[str, int] = field(default_factory=dict)
    """By tenant."""
    over: dict[str, int] = field(default_factory=dict)
    """By cohort."""
    excess: int = 0


class Book:
    """Accounts of all classes. Mutable, for it follows every change of a holding."""

    def __init__(self, tenants: Iterable[TenantQuota], nodes: Iterable[Node], costs: Mapping[str, float]) -> None:
        self._tenants = {tenant.name: tenant for tenant in tenants}
        self._accounts = _open_accounts(self._tenants.values(), nodes)
        self._costs = {name: max(1, round(costs.get(name, 1.0) * _THOUSANDTHS)) for name in self._accounts}
        self._borrowed: dict[str, int] = {}

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
        account = self._accounts.get(class_name)
        return account.used.get(tenant, 0) if account else 0

    def borrowed(self, tenant: str, class_name: str) -> int:
        """Accelerators of a class that the tenant holds beyond its guarantee."""
        return max(0, self.used(tenant, class_name) - self.quota(tenant, class_name).guaranteed)

    def holders(self, class_name: str) -> Iterable[str]:
        """Tenants that held accelerators of a class at some time."""
        account = self._accounts.get(class_name)
        return account.used.keys() if account else ()

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
        mine = max(0, account.over.get(without_cohort, 0) - account.lendable.get(without_cohort, 0))
        return account.excess - mine

    def units(self) -> int:
        """Cost-weighted accelerators of the whole cluster, the denominator of all shares."""
        return sum(account.capacity * self._costs[name] for name, account in self._accounts.items())

    def share(self, tenant: str, more: int = 0) -> float:
        """Weighted share of what the tenant borrows, with `more` units on top."""
        units = self._borrowed.get(tenant, 0) + more
        weight = self.tenant(tenant).weight
        if units == 0:
            return 0.0
        return units / weight if weight > 0 else float("inf")

    def share_with(self, tenant: str, class_name: str, accelerators: int) -> float:
        """Share that the tenant would have if it held so many accelerators more (or, if negative, fewer)."""
        guaranteed, used = self.quota(tenant, class_name).guaranteed, self.used(tenant, class_name)
        more = max(0, used + accelerators - guaranteed) - max(0, used - guaranteed)
        return self.share(tenant, more * self._costs.get(class_name, 0))

    def is_within_guarantee(self, tenant: str, class_name: str, accelerators: int) -> bool:
        """Whether the guarantee covers so many accelerators more."""
        return self.used(tenant, class_name) + accelerators <= self.quota(tenant, class_name).guaranteed

    def reach(self, tenant: str, class_name: str) -> int:
        """Accelerators of a class that the tenant could hold if nobody else borrowed any."""
        owner, account = self.tenant(tenant), self._accounts.get(class_name)
        quota = owner.quotas.get(class_name)
        if quota is None or account is None:
            return 0
        reach = quota.guaranteed - quota.lendable + account.lendable.get(owner.cohort_key, 0) + account.spare
        return reach if quota.limit is None else min(reach, quota.limit)

    def judge(self, tenant: str, class_name: str, accelerators: int) -> Verdict:
        """Whether the tenant may hold so many accelerators more."""
        owner = self.tenant(tenant)
        quota = owner.quotas.get(class_name)
        account = self._accounts.get(class_name)
        if quota is None or account is None:
            return Verdict.NO_ENTRY
        used = account.used.get(tenant, 0)
        limit = quota.limit
        if limit is not None and used + accelerators > limit:
            return Verdict.LIMIT
        excess = account.excess + self._excess_change(account, owner, quota, used, accelerators)
        # What a tenant keeps for itself changes no excess: it may be held even after nodes were lost.
        return Verdict.YES if excess <= max(account.spare, account.excess) else Verdict.NOTHING_TO_BORROW

    def add(self, tenant: str, class_name: str, accelerators: int) -> None:
        """Count accelerators of a class as held by the tenant; negative ones as given back."""
        account = self._accounts.get(class_name)
        if account is None:
            return
        owner = self.tenant(tenant)
        quota = owner.quotas.get(class_name, NO_QUOTA)
        used = account.used.get(tenant, 0)
        account.excess += self._excess_change(account, owner, quota, used, accelerators)
        kept = quota.guaranteed - quota.lendable
        change = max(0, used + accelerators - kept) - max(0, used - kept)
        account.over[owner.cohort_key] = account.over.get(owner.cohort_key, 0) + change
        account.used[tenant] = used + accelerators
        borrowed = max(0, used + accelerators - quota.guaranteed) - max(0, used - quota.guaranteed)
        self._borrowed[tenant] = self._borrowed.get(tenant, 0) + borrowed * self._costs[class_name]

    @staticmethod
    def _excess_change(account: _ClassAccount, owner: TenantQuota, quota: Quota, used: int, accelerators: int) -> int:
        kept = quota.guaranteed - quota.lendable
        change = max(0, used + accelerators - kept) - max(0, used - kept)
        if change == 0:
            return 0
        cohort = owner.cohort_key
        over, lendable = account.over.get(cohort, 0), account.lendable.get(cohort, 0)
        return max(0, over + change - lendable) - max(0, over - lendable)


def _open_accounts(tenants: Iterable[TenantQuota], nodes: Iterable[Node]) -> dict[str, _ClassAccount]:
    capacity: dict[str, int] = {}
    for node in nodes:
        capacity[node.class_name] = capacity.get(node.class_name, 0) + max(0, node.accelerators - node.taken)
    guaranteed: dict[str, int] = {}
    lendable: dict[str, dict[str, int]] = {}
    for tenant in tenants:
        for name, quota in tenant.quotas.items():
            guaranteed[name] = guaranteed.get(name, 0) + quota.guaranteed
            pots = lendable.setdefault(name, {})
            pots[tenant.cohort_key] = pots.get(tenant.cohort_key, 0) + quota.lendable
    return {
        name: _ClassAccount(
            spare=max(0, capacity.get(name, 0) - guaranteed.get(name, 0)),
            capacity=capacity.get(name, 0),
            guaranteed=guaranteed.get(name, 0),
            lendable=lendable.get(name, {}),
        )
        for name in sorted(capacity.keys() | guaranteed.keys())
    }
