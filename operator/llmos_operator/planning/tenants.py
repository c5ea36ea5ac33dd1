"""The status of a Tenant from facts that others found: one line each, and Ready as their sum. Pure.

Whoever knows something about a tenant builds a `Fact` of it; this module only puts them together. Ready is True while
no fact is False, and otherwise says what the first false one says: the facts come in the order in which a person would
mend them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from llmos.api import MonthlyUsage, Reason, Tenant, TenantStatus
from llmos.api.load import MonthTokens
from llmos.api.names import CONDITION_GUARANTEED, CONDITION_NAMESPACES_OWNED, CONDITION_READY
from llmos.api.tenancy import Owners
from llmos.api.tenant import TokenWindow
from llmos_operator.planning.conditions import Fact, build_conditions, is_false, is_true
from llmos_operator.planning.failures import describe
from llmos_operator.planning.quota_news import TenantNews, build_monthly_usage
from llmos_operator.planning.token_months import add_tokens

USAGE_SHOWN = 32
"""Classes in status."""
_NAMED = 5
"""Namespaces in a sentence; of more it says how many."""


@dataclass(frozen=True)
class TenantFacts:
    """Everything that is known about one tenant at one moment."""

    facts: tuple[Fact, ...]
    """One for each condition but Ready."""
    news: TenantNews | None = None
    """How it stands; None if the ledger has not told, or there is nothing to tell."""
    tokens: tuple[TokenWindow, ...] = ()
    """What it has used of its limits in tokens."""
    months: Mapping[str, MonthTokens] = field(default_factory=dict)
    """What each process of a gateway told of its tokens this month."""
    gateways: Collection[str] | None = ()
    """Processes that may still tell; None if nobody knows yet."""


def build_namespaces_fact(tenant: Tenant, owners: Owners, missing: Sequence[str] = ()) -> Fact:
    """Say whether all namespaces that the tenant names are its own, and exist."""
    taken = owners.taken.get(tenant.metadata.name, ())
    if not taken and missing:
        shown = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else "")
        message = describe(Reason.NamespaceNotFound, f"There is no namespace {shown}.")
        return is_false(CONDITION_NAMESPACES_OWNED, Reason.NamespaceNotFound, message)
    if not taken:
        return is_true(CONDITION_NAMESPACES_OWNED, Reason.NamespacesOwned)
    belonging = [f"{namespace} belongs to Tenant {owner}" for namespace, owner in taken[:_NAMED]]
    more = f" and {len(taken) - _NAMED} more" if len(taken) > _NAMED else ""
    return is_false(
        CONDITION_NAMESPACES_OWNED,
        Reason.NamespaceTaken,
        describe(Reason.NamespaceTaken, f"{', '.join(belonging)}{more}."),
    )


def build_guaranteed_fact(tenant: Tenant, news: TenantNews | None) -> Fact | None:
    """Say whether the cluster has what is guaranteed; what was said last, until the ledger has looked."""
    if news is None:
        before = next((c for c in tenant.status.conditions if c.type == CONDITION_GUARANTEED), None)
        return Fact(before.type, before.status, Reason(before.reason), before.message) if before else None
    if news.guaranteed is not None:
        return news.guaranteed
    if not news.overcommitted:
        return is_true(CONDITION_GUARANTEED, Reason.GuaranteesHold)
    numbers = [
        f"{each.guaranteed} {each.class_name} are guaranteed to all together, and the nodes have {each.capacity}."
        for each in news.overcommitted
    ]
    return is_false(CONDITION_GUARANTEED, Reason.Overcommitted, describe(Reason.Overcommitted, " ".join(numbers)))


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
    month = _build_month(tenant.status.this_month, known.news)
    return tenant.status.model_copy(
        update={
            **_build_usage(known.news),
            "observed_generation": generation,
            "tokens": known.tokens,
            "this_month": add_tokens(month, known.months, now, known.gateways),
            "conditions": build_conditions(facts, tenant.status.conditions, generation, now),
        }
    )


def _build_month(before: MonthlyUsage, news: TenantNews | None) -> MonthlyUsage:
    return before if news is None else build_monthly_usage(news.meter, before)


def _build_usage(news: TenantNews | None) -> dict[str, object]:
    if news is None:
        return {}
    used, guaranteed = (sum(getattr(each, name) for each in news.usage) for name in ("used", "guaranteed"))
    return {
        "accelerators": f"{used}/{guaranteed}",
        "borrowed": sum(each.borrowed for each in news.usage),
        "lent": sum(each.lent for each in news.usage),
        "waiting": sum(each.waiting for each in news.usage),
        "share": news.share,
        "usage": news.usage[:USAGE_SHOWN],
    }
