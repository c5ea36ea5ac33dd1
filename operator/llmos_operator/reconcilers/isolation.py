"""Keeps the namespaces of a tenant apart from others: make what is missing, take away what is too much, look, tell.

    observe -> apply what differs -> hand over, prune what left -> findings from what the API server stores now

Called by the reconcile of a Tenant, which may run each second while accelerators change hands: so a look counts for
`LOOK_S` unless what it depends on has changed. Pools read the findings of their namespace from `Sightings`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from llmos.api import AcceleratorClass, FineTuneJob, InferencePool, Reason, Tenant
from llmos.api.isolation import CHECKS, Check, Finding
from llmos.api.names import (
    ADMISSION_POLICY,
    COMPONENT_GATEWAY,
    COMPONENT_REPLICA,
    CONDITION_ISOLATION_READY,
    LABEL_COMPONENT,
    LABEL_FETCHES,
    LABEL_MANAGED_BY,
    LABEL_TENANT,
    MANAGED_BY,
)
from llmos.api.tenancy import find_owners
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Forbidden, Invalid, NotFound
from llmos_operator.kube.resources import (
    ADMISSION_BINDINGS,
    ADMISSION_POLICIES,
    LIMIT_RANGES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    RESOURCE_QUOTAS,
    ROLE_BINDINGS,
    SERVICE_ACCOUNTS,
    resource_of,
)
from llmos_operator.manifests.common import Manifest
from llmos_operator.manifests.isolation import (
    TenantNamespace,
    build_account_release,
    build_isolation,
    build_namespace_release,
)
from llmos_operator.planning.claims import Tenants
from llmos_operator.planning.conditions import Fact, find_fact
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.isolation import (
    build_isolation_fact,
    check_accelerators,
    check_backstop,
    check_closed_ports,
    check_engines,
    check_kv_store,
    check_policies,
    check_salt,
    check_way_out,
    find_probed,
    is_as_made,
    is_settling,
    name_namespace,
    plan_backstop,
)
from llmos_operator.planning.quota_counted import build_counted_fact, find_uncounted
from llmos_operator.planning.settings import Admitter
from llmos_operator.reconcilers.base import Context
from llmos_operator.reconcilers.sightings import Sighting

LOOK_S: Final = 15.0
SETTLING_LOOK_S: Final = 5.0
"""Between two looks while policies are new and not enforced yet."""
FIRST_LOOK_S: Final = 2.0
"""A pool that is looked at before its tenant asks again so soon."""
_OWN_KINDS: Final = (NETWORK_POLICIES, LIMIT_RANGES, RESOURCE_QUOTAS, ROLE_BINDINGS)
_CHECK_OF_KIND: Final = {
    "Namespace": Check.POD_SECURITY,
    "NetworkPolicy": Check.NETWORK,
    "ServiceAccount": Check.TOKEN,
    "LimitRange": Check.LIMITS,
    "ResourceQuota": Check.QUOTA,
    "RoleBinding": Check.ACCESS,
}
Place = tuple[str, str, str]
"""Kind, namespace and name."""

_audit = logging.getLogger("llmos.audit")


@dataclass(frozen=True)
class IsolationResult:
    """What a look says about the whole tenant."""

    fact: Fact
    missing: tuple[str, ...]
    """Namespaces that do not exist."""
    counted: Fact
    """Whether Kubernetes counts what the ResourceQuotas bound."""
    look_again_s: float | None


@dataclass
class _Look:
    """What is known during one look."""

    context: Context
    tenant: Tenant
    classes: Sequence[AcceleratorClass]
    others: Mapping[str, Tenant]
    """Namespaces that are another tenant's."""
    existing: dict[Place, Object] = field(default_factory=dict)
    desired: set[Place] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    """Namespaces of which a NetworkPolicy was made or put back."""
    written: set[str] = field(default_factory=set)
    """Namespaces of which a ResourceQuota was made or changed."""
    quotas: list[Object] = field(default_factory=list)
    """ResourceQuotas as they are stored now."""


async def reconcile_isolation(
    context: Context, tenant: Tenant, tenants: Iterable[Tenant], classes: Sequence[AcceleratorClass]
) -> IsolationResult:
    """Bring the namespaces that a tenant owns closer to what keeps them apart, and say what was found.

    Args:
        context: the surroundings.
        tenant: the one whose turn it is.
        tenants: all of them.
        classes: all accelerator classes.
    """
    others = _find_others(tenant, (*tenants, tenant))
    owned = [name for name in tenant.spec.namespaces if name not in others]
    inputs = _compute_inputs(tenant, owned, classes)
    known = context.sightings.get(tenant.metadata.name)
    counts_s = SETTLING_LOOK_S if known is not None and known.is_settling else LOOK_S
    is_recent = known is not None and known.inputs == inputs and context.now() - known.at < timedelta(seconds=counts_s)
    if known is None or not is_recent:
        known = await _look(_Look(context, tenant, classes, others), owned, inputs, known)
        context.sightings.put(tenant.metadata.name, known)
    missing = tuple(name for name, found in known.namespaces.items() if _is_missing(found))
    findings = [f for name, found in known.findings for f in (name_namespace(found, name) if name else found)]
    # Whatever called for this pass was not looked at if the last look still counts.
    is_settled = not is_recent and all(finding.is_ok for finding in findings) and not known.uncounted
    again_s = SETTLING_LOOK_S if known.is_settling else None if is_settled else LOOK_S
    counted = build_counted_fact(known.uncounted, context.now())
    return IsolationResult(build_isolation_fact(findings), missing, counted, again_s)


async def release_isolation(
    context: Context, tenant: Tenant, tenants: Iterable[Tenant], classes: Sequence[AcceleratorClass]
) -> None:
    """Take away everything that was made for a tenant, and give back what belongs to others."""
    heirs = [each for each in tenants if each.metadata.name != tenant.metadata.name]
    look = _Look(context, tenant, classes, _find_others(tenant, heirs))
    await _observe_own(look)
    await _hand_over(look)
    await _prune(look, ())
    context.sightings.forget(tenant.metadata.name)


def _find_others(tenant: Tenant, tenants: Iterable[Tenant]) -> dict[str, Tenant]:
    """Return the namespaces that another tenant owns, with that tenant."""
    by_name = {each.metadata.name: each for each in tenants}
    owners = find_owners(by_name.values()).by_namespace
    return {name: by_name[owner] for name, owner in owners.items() if owner != tenant.metadata.name}


def _compute_inputs(tenant: Tenant, owned: Sequence[str], classes: Sequence[AcceleratorClass]) -> str:
    backstop = sorted(plan_backstop(tenant, classes).items())
    text = repr((tenant.metadata.uid, tenant.metadata.generation, sorted(owned), backstop))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_missing(findings: Iterable[Finding]) -> bool:
    return any(finding.check is Check.NAMESPACE and not finding.is_ok for finding in findings)


async def _look(look: _Look, owned: Sequence[str], inputs: str, before: Sighting | None) -> Sighting:
    shared, _ = await asyncio.gather(_look_at_cluster(look.context), _observe_own(look))
    namespaces = {name: await _reconcile_namespace(look, name) for name in owned}
    now = look.context.now()
    changed = {**(before.changed if before else {}), **dict.fromkeys(look.changed, now)}
    if look.context.settings.probes_ports:
        # Here, and all at once: what is closed does not answer, and is waited for.
        tried = await asyncio.gather(*(_try_doors(look, name, changed.get(name)) for name in owned))
        namespaces = {name: (*namespaces[name], found) for name, found in zip(owned, tried, strict=True)}
    await _hand_over(look)
    await _prune(look, owned)
    is_strict = look.tenant.spec.isolation.profile == "strict"
    written = {**(before.written if before else {}), **dict.fromkeys(look.written, now)}
    uncounted = find_uncounted(look.quotas, written)
    return Sighting(look.context.now(), inputs, is_strict, namespaces, shared, changed, written, uncounted)


async def _look_at_cluster(context: Context) -> tuple[Finding, ...]:
    settings = context.settings
    name = f"{settings.chart_name}-{ADMISSION_POLICY}"
    policy, binding, gateways = await asyncio.gather(
        context.kube.get(ADMISSION_POLICIES, name),
        context.kube.get(ADMISSION_BINDINGS, name),
        context.kube.list(PODS, namespace=settings.namespace, label_selector=f"{LABEL_COMPONENT}={COMPONENT_GATEWAY}"),
    )
    return check_backstop(policy, binding, name), check_salt(gateways)


async def _try_doors(look: _Look, namespace: str, changed: datetime | None) -> Finding:
    context = look.context
    policies = [item for place, item in look.existing.items() if place[:2] == (NETWORK_POLICIES.kind, namespace)]
    selector = f"{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_COMPONENT}={COMPONENT_REPLICA}"
    pods = await context.kube.list(PODS, namespace=namespace, label_selector=selector)
    doors = await context.probe_doors(find_probed(pods))
    return check_closed_ports(doors, is_settling=is_settling(policies, changed, context.now()))


async def _observe_own(look: _Look) -> None:
    """Find everything that was made for the tenant, wherever it is."""
    selector = f"{LABEL_TENANT}={look.tenant.metadata.name}"
    own = f"{selector},{LABEL_COMPONENT}=isolation"
    kube = look.context.kube
    listed = await asyncio.gather(
        kube.list(NAMESPACES, label_selector=selector), *(kube.list(kind, label_selector=own) for kind in _OWN_KINDS)
    )
    look.existing |= {_place(item): item for items in listed for item in items}


async def _reconcile_namespace(look: _Look, name: str) -> tuple[Finding, ...]:
    kube = look.context.kube
    namespace = await kube.get(NAMESPACES, name)
    if namespace is None or "deletionTimestamp" in namespace["metadata"]:
        state = "does not exist" if namespace is None else "is being deleted"
        return (Finding(Check.NAMESPACE, False, f"namespace {name} {state}."),)
    look.existing[_place(namespace)] = namespace
    if account := await kube.get(SERVICE_ACCOUNTS, "default", name):
        look.existing[_place(account)] = account
    target = TenantNamespace(look.tenant, name, namespace["metadata"]["uid"], look.context.settings)
    # Where Kueue admits, any number may wait for it, and the Tenant's quota says nothing.
    is_ours = look.context.settings.admission is Admitter.LLMOS
    backstop = plan_backstop(look.tenant, look.classes) if is_ours else {}
    manifests = build_isolation(target, backstop)
    try:
        made = [(manifest, await _apply(look, manifest)) for manifest in manifests]
    except NotFound:
        return (Finding(Check.NAMESPACE, False, f"namespace {name} was deleted meanwhile."),)
    # Our own pods, which may be hundreds, say nothing here.
    policies, strangers = await asyncio.gather(
        kube.list(NETWORK_POLICIES, namespace=name),
        kube.list(PODS, namespace=name, label_selector=f"{LABEL_MANAGED_BY}!={MANAGED_BY}"),
    )
    return (
        Finding(Check.NAMESPACE, True, f"it is the tenant's ({LABEL_TENANT}={look.tenant.metadata.name})."),
        *_summarise(made),
        check_policies(policies, [m["metadata"]["name"] for m in manifests if m["kind"] == NETWORK_POLICIES.kind]),
        check_accelerators(strangers, frozenset(each.spec.resource_name for each in look.classes)),
    )


async def _hand_over(look: _Look) -> None:
    """Close the namespaces that came to other tenants for those, before anything is taken away: none is ever open.

    What is named alike passes on, owner and label and all; whoever it passes to finds it as it would have made it.
    """
    held = {namespace or name for _, namespace, name in look.existing}
    for name in sorted(held & look.others.keys()):
        successor = _Look(look.context, look.others[name], look.classes, {})
        await _reconcile_namespace(successor, name)
        look.desired |= successor.desired


async def _apply(look: _Look, manifest: Manifest) -> str:
    """Apply what differs; return what is wrong afterwards, empty if nothing is."""
    place = _place(manifest)
    look.desired.add(place)
    stored = look.existing.get(place)
    if stored is None and manifest["kind"] == SERVICE_ACCOUNTS.kind:
        return "ServiceAccount default does not exist yet."  # Kubernetes makes it; the operator may not.
    if not is_as_made(manifest, stored):
        old = "missing" if stored is None else "not as it was made"
        try:
            stored = await look.context.kube.apply(manifest)
        except (Forbidden, Invalid) as error:
            return f"{manifest['kind']} {place[2]} is refused: {error.message}"
        if place[0] == NETWORK_POLICIES.kind:
            look.changed.add(place[1])
        elif place[0] == RESOURCE_QUOTAS.kind:
            look.written.add(place[1])
        why = CHECKS[_CHECK_OF_KIND[place[0]]].enforced_by
        tell_audit("isolate", look.tenant, place, old=old, new="as it was made", why=why)
    if stored is not None and place[0] == RESOURCE_QUOTAS.kind:
        look.quotas.append(stored)
    return "" if is_as_made(manifest, stored) else f"{manifest['kind']} {place[2]} is not as it was made."


def _summarise(made: Sequence[tuple[Manifest, str]]) -> list[Finding]:
    """Return one finding for each kind."""
    findings = []
    for kind, check in _CHECK_OF_KIND.items():
        of_kind = [(manifest["metadata"]["name"], wrong) for manifest, wrong in made if manifest["kind"] == kind]
        wrong = [text for _, text in of_kind if text]
        names = ", ".join(name for name, _ in of_kind)
        seen = " ".join(wrong) if wrong else f"{names}: {CHECKS[check].enforced_by}"
        findings.append(Finding(check, not wrong, seen))
    return findings


async def _prune(look: _Look, owned: Sequence[str]) -> None:
    """Delete what is ours and no longer wanted, and give back the fields of what is not."""
    leaving = {
        place: item
        for place, item in look.existing.items()
        if place not in look.desired and not (place[0] == NAMESPACES.kind and place[2] in owned)
    }
    uids = {item["metadata"]["uid"] for item in leaving.values()}
    known = look.context.sightings.note_leaving(look.tenant.metadata.name, uids)
    for place, item in leaving.items():
        kind, namespace, name = place
        uid = item["metadata"]["uid"]
        if kind == NAMESPACES.kind:
            await _release_namespace(look.context, item)
        elif kind != SERVICE_ACCOUNTS.kind:
            await look.context.kube.delete(resource_of(item), name, namespace, uid=uid)
        # What is on its way out is found again until it is gone.
        is_told = uid in known and "deletionTimestamp" in item["metadata"]
        if kind != SERVICE_ACCOUNTS.kind and not is_told:
            why = f"{namespace or name} is no namespace of the tenant any more, or it is not needed there."
            tell_audit("release", look.tenant, place, old="as it was made", new="gone", why=why)


async def _release_namespace(context: Context, namespace: Object) -> None:
    name, uid = namespace["metadata"]["name"], namespace["metadata"]["uid"]
    if "deletionTimestamp" in namespace["metadata"]:
        return
    if await context.kube.get(SERVICE_ACCOUNTS, "default", name) is not None:
        await context.kube.apply(build_account_release(name))
    # Last: as long as the label is there, a release that was interrupted is found again.
    await context.kube.apply(build_namespace_release(name, uid))


def tell_audit(action: str, tenant: Tenant, place: Place, *, old: str, new: str, why: str) -> None:
    """Write the line of a decision that was carried out."""
    kind, namespace, name = place
    what = {"kind": kind, "namespace": namespace, "name": name}
    audit = {"action": action, "tenant": tenant.metadata.name, **what, "old": old, "new": new, "why": why}
    _audit.info(
        "%s %s %s", action, kind, f"{namespace}/{name}" if namespace else name, extra={"fields": {"audit": audit}}
    )


def _place(item: Object) -> Place:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


@dataclass(frozen=True)
class PoolIsolation:
    """What isolation means for one pool."""

    facts: tuple[Fact, ...] = ()
    refusal: Failure | None = None
    """Why nothing new of the pool may be made: the tenant's profile is strict and a check failed."""
    look_again_s: float | None = None


def look_at_pool(
    context: Context, pool: InferencePool | FineTuneJob, pods: Sequence[Object], tenants: Tenants
) -> PoolIsolation:
    """Say whether a pool, or a job, in a tenant's namespace is kept apart: the last look at the namespace, and the
    pods."""
    namespace = pool.metadata.namespace or ""
    owner = find_owners(tenants.all).by_namespace.get(namespace)
    if owner is None:
        return PoolIsolation()
    sighting = context.sightings.get(owner)
    if sighting is None or namespace not in sighting.namespaces:
        is_strict = any(t.metadata.name == owner and t.spec.isolation.profile == "strict" for t in tenants.all)
        # An operator that has just started changes nothing that an earlier one found.
        fact = find_fact(CONDITION_ISOLATION_READY, pool.status.conditions) or build_isolation_fact(())
        refused = is_strict and fact.status != "True"
        refusal = build_failure(Reason.NotIsolated, "Nobody has looked yet.") if refused else None
        # At one whose Tenant cannot be read nobody looks until that has changed, which is an event.
        return PoolIsolation((fact,), refusal, None if owner in tenants.unreadable else FIRST_LOOK_S)
    is_dedicated = any(t.metadata.name == owner and t.spec.isolation.dedicated_pools for t in tenants.all)
    fetches = any((pod["metadata"].get("labels") or {}).get(LABEL_FETCHES) for pod in pods)
    findings = (
        *sighting.namespaces[namespace],
        *sighting.shared,
        check_engines(pods),
        check_kv_store(pool.spec.engine if isinstance(pool, InferencePool) else None, is_shared=not is_dedicated),
        check_way_out(fetches=fetches, is_strict=sighting.is_strict),
    )
    fact = build_isolation_fact(findings)
    refused = sighting.is_strict and fact.status != "True"
    again_s = SETTLING_LOOK_S if sighting.is_settling else None
    return PoolIsolation((fact,), Failure(Reason.NotIsolated, fact.message) if refused else None, again_s)
