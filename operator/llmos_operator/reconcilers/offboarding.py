"""The end of a Tenant: wait until its keys, budgets, jobs, pools, models, volumes and pods are gone; then nothing is
apart."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llmos.api import AcceleratorClass, Tenant
from llmos.api.apikeys import SECRET_SELECTOR, InvalidKeySecret, read_key_secret
from llmos.api.names import (
    COMPONENT_GATEWAY,
    FINALIZER_OFFBOARDING,
    LABEL_COMPONENT,
    LABEL_MANAGED_BY,
    LABEL_TENANT,
    MANAGED_BY,
)
from llmos_operator.kube.client import Object
from llmos_operator.kube.resources import (
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    LLM_MODELS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SECRETS,
    TENANTS,
)
from llmos_operator.planning.isolation import is_ready
from llmos_operator.planning.offboarding import (
    Leftover,
    build_offboarding_status,
    find_leftovers,
    plan_given_up,
)
from llmos_operator.reconcilers.base import DONE, Context, Result
from llmos_operator.reconcilers.budget_board import GIVE_UP_S, Keepers
from llmos_operator.reconcilers.isolation import reconcile_isolation, release_isolation, tell_audit
from llmos_operator.reconcilers.writing import apply_status_if_changed, build_event

LOOK_S = 5.0


async def apply_finalizer(context: Context, tenant: Tenant) -> None:
    """Hold a Tenant back from now on, so that its end can be waited for."""
    if FINALIZER_OFFBOARDING not in tenant.metadata.finalizers:
        await _write_finalizers(context, tenant, [*tenant.metadata.finalizers, FINALIZER_OFFBOARDING])


async def reconcile_offboarding(
    context: Context, current: Object, tenant: Tenant, tenants: Sequence[Tenant], classes: Sequence[AcceleratorClass]
) -> Result:
    """Let a Tenant go when nothing is left of it; until then say what is, and keep it apart as before."""
    if FINALIZER_OFFBOARDING not in tenant.metadata.finalizers:
        return DONE
    left, keepers = await observe_leftovers(context, tenant)
    if left:
        await reconcile_isolation(context, tenant, tenants, classes)
        status = build_offboarding_status(tenant, left, context.now())
        await apply_status_if_changed(context.kube, current, status, context.now())
        return Result(requeue_after_s=LOOK_S)
    if keepers.silent or keepers.stuck:
        await _tell_given_up(context, current, tenant, keepers)
    context.budgets.forget(tenant.metadata.name)
    await release_isolation(context, tenant, tenants, classes)
    await _write_finalizers(context, tenant, [f for f in tenant.metadata.finalizers if f != FINALIZER_OFFBOARDING])
    return DONE


async def observe_leftovers(context: Context, tenant: Tenant) -> tuple[tuple[Leftover, ...], Keepers]:
    """Find what is left: keys by what they say, budgets by what each gateway that is ready tells, everything else in
    the namespaces that bear the tenant's label.

    Returns:
        That, and the gateways that keep a budget, or may, among them those that are not waited for any longer.
    """
    kube, name = context.kube, tenant.metadata.name
    keys, namespaces, gateways = await asyncio.gather(
        kube.list(SECRETS, namespace=context.settings.namespace, label_selector=SECRET_SELECTOR),
        kube.list(NAMESPACES, label_selector=f"{LABEL_TENANT}={name}"),
        kube.list(PODS, namespace=context.settings.namespace, label_selector=f"{LABEL_COMPONENT}={COMPONENT_GATEWAY}"),
    )
    found: dict[str, list[Object]] = {}
    made = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
    ours = [(kind, "") for kind in (FINE_TUNE_JOBS, INFERENCE_POOLS, LLM_MODELS)]
    for kind, selector in (*ours, (PERSISTENT_VOLUME_CLAIMS, made), (PODS, made)):
        listed = [
            await kube.list(kind, namespace=item["metadata"]["name"], label_selector=selector) for item in namespaces
        ]
        found[kind.kind] = [item for items in listed for item in items]
    own_keys = [str(key["metadata"]["name"]) for key in keys if _tenant_of(key) == name]
    telling = [str(pod["metadata"]["name"]) for pod in gateways if is_ready(pod)]
    is_used = bool(find_leftovers(found, own_keys))
    keepers = context.budgets.find_keepers(tenant, telling, context.now(), is_used=is_used)
    return find_leftovers(found, own_keys, keepers.awaited), keepers


async def _tell_given_up(context: Context, current: Object, tenant: Tenant, keepers: Keepers) -> None:
    """Say which gateways keep a budget, and of which nobody knows whether they do, before the Tenant goes."""
    after = f"{GIVE_UP_S:g} s after the Tenant was deleted"
    given_up = (
        (keepers.silent, "may keep a token budget", f"It was ready and told this operator nothing, {after}."),
        (keepers.stuck, "keeps a token budget", f"It told that it had not dropped the budget, {after}."),
    )
    for names, old, why in given_up:
        for name in names:
            place = PODS.kind, context.settings.namespace, name
            tell_audit("give-up", tenant, place, old=old, new="not waited for", why=why)
    event = plan_given_up(keepers.silent, keepers.stuck)
    await context.kube.create_event(build_event(current, event, context.now()))


def _tenant_of(secret: Object) -> str:
    try:
        return read_key_secret(secret).tenant
    except InvalidKeySecret:
        return ""


async def _write_finalizers(context: Context, tenant: Tenant, finalizers: list[str]) -> None:
    await context.kube.patch_metadata(
        TENANTS,
        tenant.metadata.name,
        finalizers=finalizers,
        resource_version=tenant.metadata.resource_version,
    )
