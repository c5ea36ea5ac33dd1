"""Tenants as an administrator writes them, each with a namespace of its own that goes with the story."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from e2e.cluster.node import NODE_ADDRESS
from e2e.support.api import Api, Object
from e2e.support.objects import PRETEND_CLASS, build_namespace, read_condition
from e2e.support.removal import remove_namespace
from e2e.support.waiting import eventually
from llmos.api.names import GATE_QUOTA

SOURCE: Final = f"{NODE_ADDRESS}/32"
"""Where the stories' models come from."""


def build_tenant(
    name: str, namespaces: list[str], *, accelerator: str = PRETEND_CLASS, egress: str = SOURCE, **quota: int
) -> Object:
    """A Tenant in the cohort of all stories."""
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {
            "namespaces": namespaces,
            "cohort": "e2e",
            "quota": [{"class": accelerator, **quota}],
            "isolation": {"egressAllow": [egress]},
        },
    }


@asynccontextmanager
async def tenants(
    api: Api,
    *,
    accelerator: str = PRETEND_CLASS,
    within: dict[str, str] | None = None,
    egress: str = SOURCE,
    **guaranteed: int,
) -> AsyncIterator[dict[str, str]]:
    """Have Tenants with these guarantees; yield the namespace of each.

    Args:
        api: the API server.
        accelerator: the class that is shared.
        within: namespaces that exist already, by tenant.
        egress: the range of addresses that their fetch steps may reach.
        guaranteed: accelerators by tenant.
    """
    made = {name: f"e2e-tenant-{name}-{uuid.uuid4().hex[:6]}" for name in guaranteed if name not in (within or {})}
    places = {**(within or {}), **made}
    try:
        for name, count in guaranteed.items():
            if name in made:
                await api.create(build_namespace(places[name]))
            # One of that name may be going still: it waits for what the story before left.
            await wait_until_gone(api, name)
            tenant = build_tenant(name, [places[name]], accelerator=accelerator, egress=egress, guaranteed=count)
            await api.create(tenant)
        await asyncio.gather(*(_wait_for_count(api, namespace) for namespace in made.values()))
        yield places
    finally:
        await _remove(api, guaranteed, made)


async def _wait_for_count(api: Api, namespace: str) -> None:
    """Wait until Kubernetes has counted what a quota counts: before that it refuses everything for a moment."""
    await eventually(
        f"the quotas of {namespace} are counted",
        lambda: api.list("ResourceQuota", namespace),
        lambda quotas: bool(quotas) and all(_is_counted(quota) for quota in quotas),
    )


def _is_counted(quota: Object) -> bool:
    status = quota.get("status", {})
    return bool(status.get("hard")) and status["hard"].keys() <= status.get("used", {}).keys()


async def _remove(api: Api, names: Iterable[str], made: Mapping[str, str]) -> None:
    """Remove Tenants, and namespaces that were made for some of them: a Tenant of an empty one goes at once."""
    try:
        await asyncio.gather(*(remove_namespace(api, namespace) for namespace in made.values()))
    finally:
        for name in names:
            await api.delete("Tenant", name)
    # As long as there is a Tenant there is a quota, also for the story after this one.
    await asyncio.gather(*(wait_until_gone(api, name) for name in made))


async def wait_until_gone(api: Api, name: str) -> None:
    """Wait until there is no Tenant of that name."""
    await eventually(f"tenant {name} is gone", lambda: api.get("Tenant", name), lambda found: found is None)


async def wait_for_tenant(api: Api, name: str, what: str, **wanted: Any) -> Object:
    """Wait until fields of a Tenant's status have these values, and return the status."""

    async def observe() -> Object:
        status: Object = (await api.get("Tenant", name) or {}).get("status", {})
        return status

    return await eventually(
        f"tenant {name}: {what}", observe, lambda seen: {field: seen.get(field) for field in wanted} == wanted
    )


async def wait_for_month(api: Api, name: str, what: str, is_wanted: Callable[[Object], object]) -> Object:
    """Wait until what a Tenant used in this month is as wanted, and return it.

    The operator asks the gateways now and then. A month that ends meanwhile begins at nothing: then it fails.
    """

    async def observe() -> Object:
        month: Object = (await api.get("Tenant", name) or {}).get("status", {}).get("thisMonth", {})
        return month

    return await eventually(f"tenant {name}, this month: {what}", observe, is_wanted, timeout_s=120)


async def wait_for_reason(api: Api, namespace: str, reason: str, *, pool: str = "pool", timeout_s: float = 90) -> str:
    """Wait until a pool says why it is not admitted, and return the message."""
    found = await eventually(
        f"{pool} says {reason}",
        lambda: api.get("InferencePool", pool, namespace),
        lambda seen: read_condition(seen, "Admitted").get("reason") == reason,
        timeout_s=timeout_s,
    )
    return str(read_condition(found, "Admitted")["message"])


def is_gated(pod: Object) -> bool:
    """Whether a pod waits until the quota admits it."""
    return {"name": GATE_QUOTA} in pod["spec"].get("schedulingGates", [])
