"""Tenants as they are stored: those that can be read, and of others what they claim. Pure.

A Tenant that cannot be read, because a newer version wrote it, keeps its namespaces: were it left out, a younger Tenant
would get them with all that runs there. What it grants is not known, so it grants nothing: its claim is closed to all
sides, and has no quota.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmos.api import Tenant
from llmos.api.tenant import Namespace, TenantQueue
from llmos_operator.planning.failures import describe_fields

JsonObject = Mapping[str, Any]

_NAMESPACE: TypeAdapter[str] = TypeAdapter(Namespace)


@dataclass(frozen=True)
class Tenants:
    """All Tenants, also those that were deleted and are not gone yet."""

    all: tuple[Tenant, ...] = ()
    """Of one that cannot be read its claim: name, age and namespaces, closed to all sides."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with those that cannot be read, by name."""

    @property
    def exist(self) -> bool:
        """Whether there is any: then accelerators are given out by quota."""
        return bool(self.all or self.unreadable)

    @property
    def readable(self) -> tuple[Tenant, ...]:
        """Those of which all is known."""
        return tuple(tenant for tenant in self.all if tenant.metadata.name not in self.unreadable)


def read_tenants(items: Iterable[JsonObject], parse: Callable[[JsonObject], Tenant]) -> Tenants:
    """Return the Tenants that are stored.

    Args:
        items: as they are stored.
        parse: validates one; raises ValidationError.
    """
    tenants: list[Tenant] = []
    unreadable: dict[str, str] = {}
    for item in items:
        try:
            tenants.append(parse(item))
        except ValidationError as error:
            unreadable[item["metadata"]["name"]] = describe_fields(error)
            tenants += _read_claim(item)
    return Tenants(tuple(tenants), unreadable)


def _read_claim(item: JsonObject) -> list[Tenant]:
    """Return the claim; nothing if no namespace can be read either."""
    spec = item.get("spec") or {}
    named = spec.get("namespaces") if isinstance(spec, Mapping) else None
    namespaces = [name for name in named if _is_namespace(name)] if isinstance(named, list) else []
    isolation = {"profile": "strict", "dedicatedPools": True}
    claim = {"namespaces": namespaces, "isolation": isolation, "kueue": _read_queue(spec) if namespaces else {}}
    return [Tenant.model_validate({"metadata": item["metadata"], "spec": claim})] if namespaces else []


def _read_queue(spec: Mapping[str, Any]) -> JsonObject:
    """Return the queue if it can be read: were it left out, pods that wait would move to another one."""
    try:
        return TenantQueue.model_validate(spec.get("kueue") or {}).to_manifest()
    except ValidationError:
        return {}


def _is_namespace(name: object) -> bool:
    try:
        _NAMESPACE.validate_python(name, strict=True)
    except ValidationError:
        return False
    return True
