"""One pass over a Tenant: gather what others found out about it, and tell it in the status.

What quota means for it is decided elsewhere, for all tenants at once. Whoever adds a condition adds one line to
`_gather_facts`.
"""

from __future__ import annotations

import asyncio
from functools import partial

from pydantic import ValidationError

from llmos.api import AcceleratorClass, Tenant
from llmos.api.tenancy import Owners, find_owners
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, TENANTS
from llmos_operator.planning.claims import Tenants, read_tenants
from llmos_operator.planning.conditions import Fact
from llmos_operator.planning.tenants import (
    TenantFacts,
    build_guaranteed_fact,
    build_namespaces_fact,
    build_tenant_status,
)
from llmos_operator.reconcilers.base import DONE, Context, Key, Result
from llmos_operator.reconcilers.invalid import apply_invalid_status
from llmos_operator.reconcilers.isolation import IsolationResult, reconcile_isolation
from llmos_operator.reconcilers.offboarding import apply_finalizer, reconcile_offboarding
from llmos_operator.reconcilers.writing import apply_status_if_changed


async def reconcile_tenant(context: Context, key: Key) -> Result:
    """Bring the status of one Tenant up to date."""
    current = await context.kube.get(TENANTS, key.name)
    if current is None:
        context.budgets.forget(key.name)
        return DONE
    try:
        tenant = Tenant.model_validate(current)
    except ValidationError as error:
        await apply_invalid_status(context, current, error)
        return DONE
    tenants, listed = await asyncio.gather(observe_tenants(context), context.kube.list(ACCELERATOR_CLASSES))
    classes = context.shared.parse_readable(AcceleratorClass, listed)
    if tenant.metadata.deletion_timestamp is not None:
        return await reconcile_offboarding(context, current, tenant, tenants.all, classes)
    await apply_finalizer(context, tenant)
    owners = find_owners(tenants.all)
    isolation = await reconcile_isolation(context, tenant, tenants.all, classes)
    facts = _gather_facts(context, tenant, owners, isolation)
    told = context.budgets.read(tenant, context.now())
    known = TenantFacts(facts, context.quota.tenant(key.name), told.windows, told.months, told.gateways)
    status = build_tenant_status(tenant, known, context.now())
    await apply_status_if_changed(context.kube, current, status, context.now())
    return Result(requeue_after_s=isolation.look_again_s)


def _gather_facts(context: Context, tenant: Tenant, owners: Owners, isolation: IsolationResult) -> tuple[Fact, ...]:
    """Return one fact for each condition but Ready, in the order in which a person would mend what is false."""
    guaranteed = build_guaranteed_fact(tenant, context.quota.tenant(tenant.metadata.name))
    facts = (build_namespaces_fact(tenant, owners, isolation.missing), guaranteed, isolation.fact, isolation.counted)
    return tuple(fact for fact in facts if fact is not None)


async def observe_tenants(context: Context) -> Tenants:
    """Return all Tenants; of those that cannot be read their own reconcile tells."""
    return read_tenants(await context.kube.list(TENANTS), partial(context.shared.parse, Tenant))
