"""One pass over a Tenant: gather what others found out about it, and tell it in the status.

What quota means for it is decided elsewhere, for all tenants at once. Whoever adds a condition adds one line to
`_gather_facts`.
"""

from __future__ import annotations

from pydantic import ValidationError

from llmos.api import Tenant
from llmos_operator.kube.resources import TENANTS
from llmos_operator.planning.conditions import Fact
from llmos_operator.planning.quota_view import find_owners
from llmos_operator.planning.tenants import (
    TenantFacts,
    build_guaranteed_fact,
    build_namespaces_fact,
    build_tenant_status,
)
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.invalid import apply_invalid_status
from llmos_operator.reconcilers.writing import apply_status_if_changed


async def reconcile_tenant(context: Context, key: Key) -> Result:
    """Bring the status of one Tenant up to date."""
    current = await context.kube.get(TENANTS, key.name)
    if current is None or "deletionTimestamp" in current["metadata"]:
        return DONE
    try:
        tenant = Tenant.model_validate(current)
    except ValidationError as error:
        await apply_invalid_status(context, current, error)
        return DONE
    facts = await _gather_facts(context, tenant)
    status = build_tenant_status(tenant, TenantFacts(facts, context.quota.tenant(key.name)), context.now())
    await apply_status_if_changed(context.kube, current, status, context.now())
    return DONE


async def _gather_facts(context: Context, tenant: Tenant) -> tuple[Fact, ...]:
    """Return one fact for each condition but Ready, in the order in which a person would mend what is false."""
    owners = find_owners(await observe_tenants(context))
    guaranteed = build_guaranteed_fact(tenant, context.quota.tenant(tenant.metadata.name))
    facts = (build_namespaces_fact(tenant, owners), guaranteed)
    return tuple(fact for fact in facts if fact is not None)


async def observe_tenants(context: Context) -> tuple[Tenant, ...]:
    """Return all Tenants that can be read; of others their own reconcile tells."""
    tenants = []
    for item in await context.kube.list(TENANTS):
        try:
            tenants.append(context.shared.parse(Tenant, item))
        except ValidationError:
            continue
    return tuple(tenants)
