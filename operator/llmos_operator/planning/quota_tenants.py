"""What each tenant may hold: Tenants, those among them that get nothing more, and namespaces without one. Pure.

- A namespace of no Tenant may hold `untenanted` accelerators of a class together with all other such namespaces, as a
  borrower without guarantee; by default none.
- A Tenant that is being deleted, or cannot be read, is closed: it gets nothing more. Of its guarantee stays as much as
  it holds. What one that cannot be read holds is all guaranteed: what it may have is not known, and others take nothing
  away because of a typing error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from llmos.api import Tenant
from llmos.api.tenancy import find_seniority
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.quota import Gang, Quota, TenantQuota


def build_tenant_quotas(
    tenants: Tenants, untenanted: Mapping[str, int], gangs: Iterable[Gang]
) -> tuple[TenantQuota, ...]:
    """Return the quotas of all tenants, and of those who have none if the installation grants them any.

    Args:
        tenants: all Tenants.
        untenanted: accelerators by class for namespaces of no tenant.
        gangs: all gangs: what closed tenants hold is theirs.
    """
    held = _held_by_tenants(gangs)
    quotas = [
        _close(tenant, closed, held, is_known=tenant.metadata.name not in tenants.unreadable)
        if (closed := _why_closed(tenant, tenants))
        else _build_tenant_quota(tenant)
        for tenant in sorted(tenants.all, key=find_seniority)
    ]
    if untenanted:
        quotas.append(TenantQuota("", quotas={name: Quota(0, most) for name, most in sorted(untenanted.items())}))
    return tuple(quotas)


def _build_tenant_quota(tenant: Tenant) -> TenantQuota:
    return TenantQuota(
        name=tenant.metadata.name,
        cohort=tenant.spec.cohort,
        weight=tenant.spec.weight,
        quotas={
            each.class_name: Quota(each.guaranteed, each.borrow_limit, each.lend_limit) for each in tenant.spec.quota
        },
    )


def _why_closed(tenant: Tenant, tenants: Tenants) -> str:
    name = tenant.metadata.name
    if name in tenants.unreadable:
        return (
            f"Tenant {name} cannot be read ({tenants.unreadable[name]}), so nothing more is admitted in its "
            "namespaces. Correct it, or upgrade LLMOS if a newer version wrote it."
        )
    if tenant.metadata.deletion_timestamp is not None:
        return (
            f"Tenant {name} is being deleted, so nothing more is admitted in its namespaces. It goes when nothing is "
            "left of it: delete the pool, or make it anew in a namespace of another Tenant."
        )
    return ""


def _close(tenant: Tenant, closed: str, held: Mapping[tuple[str, str], int], *, is_known: bool) -> TenantQuota:
    """Return the quota of a tenant that keeps what it holds: as far as it was guaranteed, if that is known."""
    open_quota = _build_tenant_quota(tenant)
    quotas = {}
    for name, class_name in held:
        if name == open_quota.name:
            most = open_quota.quotas.get(class_name, Quota()).guaranteed if is_known else held[name, class_name]
            quotas[class_name] = Quota(min(most, held[name, class_name]), lend_limit=0)
    return replace(open_quota, quotas=quotas, closed=closed)


def _held_by_tenants(gangs: Iterable[Gang]) -> Counter[tuple[str, str]]:
    held: Counter[tuple[str, str]] = Counter()
    for gang in gangs:
        if gang.placement is not None:
            held[gang.tenant, gang.placement.class_name] += gang.accelerators
    return held
