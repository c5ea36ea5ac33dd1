"""Rules about tenants that several programs follow: whose a namespace is, what a Tenant that cannot be read claims,
under which name its tokens are counted, and how many a quantity means. Pure.

A namespace has one tenant. If two Tenants name it, it stays with the older one, and of equally old ones with the first
by name, so that nobody can take a namespace over by naming it. Operator and gateway must agree on that: the one gives
accelerators by it, the other lets keys in by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from llmos.api.tenant import Namespace, Tenant, TenantQueue

_NAMESPACE: TypeAdapter[str] = TypeAdapter(Namespace)
_FACTORS: Final = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Owners:
    """Which tenant a namespace belongs to."""

    by_namespace: Mapping[str, str] = field(default_factory=dict)
    taken: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """By tenant: namespaces that it names but an older tenant has, with that tenant."""


def find_owners(tenants: Iterable[Tenant]) -> Owners:
    """Give each namespace to the oldest tenant that names it; of equally old ones to the first by name."""
    owners: dict[str, str] = {}
    taken: dict[str, list[tuple[str, str]]] = {}
    for tenant in sorted(tenants, key=find_seniority):
        for namespace in tenant.spec.namespaces:
            owner = owners.setdefault(namespace, tenant.metadata.name)
            if owner != tenant.metadata.name:
                taken.setdefault(tenant.metadata.name, []).append((namespace, owner))
    return Owners(owners, {name: tuple(pairs) for name, pairs in taken.items()})


def find_seniority(tenant: Tenant) -> tuple[float, str]:
    """Return what orders tenants from the oldest on; one that no API server has made yet goes before all others."""
    created = tenant.metadata.creation_timestamp
    return created.timestamp() if created is not None else 0.0, tenant.metadata.name


def build_account(name: str, uid: str) -> str:
    """Return under which name the tokens of a Tenant are counted: `name/uid`.

    One that is made anew under the same name has another account, and has used nothing, whoever did not hear of the end
    of the old one. Without a uid (a gateway without a cluster) it is the name.
    """
    return f"{name}/{uid}" if uid else name


def read_account(account: str) -> str:
    """Return the name of the Tenant whose account this is; no name of a Tenant has a slash."""
    return account.partition("/")[0]


def read_claim(item: Mapping[str, Any]) -> Tenant | None:
    """Return what a Tenant that cannot be read, because a newer version wrote it, keeps all the same.

    That is its namespaces, as far as they can be read, closed to all sides, and the queue of its pods. Were it left
    out, a younger Tenant would get them with all that runs there.

    Args:
        item: as it is stored.

    Returns:
        The claim as a Tenant that grants nothing; None if no namespace can be read either.
    """
    spec = item.get("spec")
    named = spec.get("namespaces") if isinstance(spec, Mapping) else None
    namespaces = [name for name in named if _is_namespace(name)] if isinstance(named, list) else []
    if not isinstance(spec, Mapping) or not namespaces:
        return None
    isolation = {"profile": "strict", "dedicatedPools": True}
    claim = {"namespaces": namespaces, "isolation": isolation, "kueue": _read_queue(spec)}
    return Tenant.model_validate({"metadata": item["metadata"], "spec": claim})


def _read_queue(spec: Mapping[str, Any]) -> dict[str, Any]:
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


def parse_tokens(quantity: str) -> int:
    """Return the number of tokens that a quantity such as `200k` means; a part of a token counts as one.

    Raises:
        ValueError: it is no such quantity.
    """
    factor = _FACTORS.get(quantity[-1:], 1)
    digits = quantity[:-1] if factor > 1 else quantity
    if not digits.replace(".", "", 1).isdecimal():
        raise ValueError(f"{quantity!r} is no number of tokens such as 5000, 200k or 20M")
    return math.ceil(Decimal(digits) * factor)
