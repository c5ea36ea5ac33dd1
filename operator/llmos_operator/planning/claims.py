"""Tenants as they are stored: those that can be read, and of others what they claim. Pure.

A Tenant that cannot be read keeps its claim (`llmos.api.tenancy.read_claim`). What it grants is not known, so it grants
nothing: it has no quota.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from llmos.api import Tenant
from llmos.api.tenancy import read_claim
from llmos_operator.planning.failures import describe_fields

JsonObject = Mapping[str, Any]


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
            claim = read_claim(item)
            tenants += [claim] if claim is not None else []
    return Tenants(tuple(tenants), unreadable)
