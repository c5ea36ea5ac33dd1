"""The status of a Tenant from facts that others found: one line each, and Ready as their sum. Pure.

Whoever knows something about a tenant builds a `Fact` of it; this module only puts them together. Ready is True while
no fact is False, and otherwise says what the first false one says: the facts come in the order in which a person would
mend them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from llmos.api import Reason, Tenant, TenantStatus
from llmos.api.names import CONDITION_NAMESPACES_OWNED, CONDITION_READY
from llmos_operator.planning.conditions import Fact, build_conditions, is_false, is_true
from llmos_operator.planning.failures import describe
from llmos_operator.planning.quota_view import Owners

_NAMED = 5
"""Namespaces in a sentence; of more it says how many."""


@dataclass(frozen=True)
class TenantFacts:
    """Everything that is known about one tenant at one moment."""

    facts: tuple[Fact, ...]
    """One for each condition but Ready."""


def build_namespaces_fact(tenant: Tenant, owners: Owners) -> Fact:
    """Say whether all namespaces that the tenant names are its own."""
    taken = owners.taken.get(tenant.metadata.name, ())
    if not taken:
        return is_true(CONDITION_NAMESPACES_OWNED, Reason.NamespacesOwned)
    shown = [f"{namespace} belongs to Tenant {owner}" for namespace, owner in taken[:_NAMED]]
    more = f" and {len(taken) - _NAMED} more" if len(taken) > _NAMED else ""
    return is_false(
        CONDITION_NAMESPACES_OWNED,
        Reason.NamespaceTaken,
        describe(Reason.NamespaceTaken, f"{', '.join(shown)}{more}."),
    )


def build_ready_fact(facts: Sequence[Fact]) -> Fact:
    """Return the sum of all facts."""
    false = next((fact for fact in facts if fact.status == "False"), None)
    if false is None:
        return is_true(CONDITION_READY, Reason.Available)
    return is_false(CONDITION_READY, false.reason, false.message)


def build_tenant_status(tenant: Tenant, known: TenantFacts, now: datetime) -> TenantStatus:
    """Return the status of `tenant`; what nobody spoke about stays as it was.

    Args:
        tenant: the object as it was read.
        known: what was found out.
        now: the current time.
    """
    generation = tenant.metadata.generation
    facts = (*known.facts, build_ready_fact(known.facts))
    return tenant.status.model_copy(
        update={
            "observed_generation": generation,
            "conditions": build_conditions(facts, tenant.status.conditions, generation, now),
        }
    )
