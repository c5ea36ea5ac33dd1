"""One pass over a Tenant: gather what others found out about it, and tell it in the status.

What quota means for it is decided elsewhere, for all tenants at once. Whoever adds a condition adds one line to
`_gather_facts`.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from llmos.api import AcceleratorClass, Tenant
from llmos.api.meta import ApiModel
from llmos.api.tenancy import Owners, find_owners
from llmos_operator.kube.client import Objects
from llmos_operator.kube.resources import ACCELERATOR_CLASSES, TENANTS
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

T = TypeVar("T", bound=ApiModel)


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
    if tenant.metadata.deletion_timestamp is not None:
        return await reconcile_offboarding(context, current, tenant)
    await apply_finalizer(context, tenant)
    owners = find_owners(await observe_tenants(context))
    isolation = await _isolate(context, tenant, owners)
    facts = _gather_facts(context, tenant, owners, isolation)
    tokens = context.budgets.read(tenant, context.now())
    known = TenantFacts(facts, context.quota.tenant(key.name), tokens)
    status = build_tenant_status(tenant, known, context.now())
    await apply_status_if_changed(context.kube, current, status, context.now())
    return Result(requeue_after_s=isolation.look_again_s)


def _gather_facts(context: Context, tenant: Tenant, owners: Owners, isolation: IsolationResult) -> tuple[Fact, ...]:
    """Return one fact for each condition but Ready, in the order in which a person would mend what is false."""
    guaranteed = build_guaranteed_fact(tenant, context.quota.tenant(tenant.metadata.name))
    facts = (build_namespaces_fact(tenant, owners, isolation.missing), guaranteed, isolation.fact)
    return tuple(fact for fact in facts if fact is not None)


async def _isolate(context: Context, tenant: Tenant, owners: Owners) -> IsolationResult:
    owned = [name for name in tenant.spec.namespaces if owners.by_namespace.get(name) == tenant.metadata.name]
    classes = _parse_readable(context, AcceleratorClass, await context.kube.list(ACCELERATOR_CLASSES))
    return await reconcile_isolation(context, tenant, owned, classes)


async def list_tenants(context: Context) -> Objects:
    """Return all Tenants but those that were deleted: they stay until nothing is left of them, without any quota."""
    return [item for item in await context.kube.list(TENANTS) if "deletionTimestamp" not in item["metadata"]]


async def observe_tenants(context: Context) -> tuple[Tenant, ...]:
    """Return all Tenants that can be read; of others their own reconcile tells."""
    return _parse_readable(context, Tenant, await list_tenants(context))


def _parse_readable(context: Context, kind: type[T], items: Objects) -> tuple[T, ...]:
    parsed = []
    for item in items:
        try:
            parsed.append(context.shared.parse(kind, item))
        except ValidationError:
            continue
    return tuple(parsed)
