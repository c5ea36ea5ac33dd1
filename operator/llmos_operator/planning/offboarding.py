"""What is left of a Tenant that was deleted: it stays until nothing of it can be used or read by others. Pure.

Nothing is deleted here but what the operator made to keep the tenant apart, and that goes last: models, jobs, pools,
volumes and keys may hold what somebody still needs, and to delete them is a person's decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmos.api import Reason, Tenant, TenantStatus
from llmos.api.names import CONDITION_READY
from llmos_operator.planning.conditions import Announcement, build_conditions, is_false
from llmos_operator.planning.failures import describe

NAMED_AT_MOST = 5
REMEDIES: Mapping[str, str] = {
    "API key": "llmos keys revoke NAME",
    "Token budget in gateway": "it goes with the last request, once the gateway and its store answer",
    "FineTuneJob": "kubectl delete finetunejob NAME",
    "InferencePool": "kubectl delete inferencepool NAME",
    "LLMModel": "kubectl delete llmmodel NAME",
    "PersistentVolumeClaim": "kubectl delete pvc NAME",
    "Pod": "it drains and goes by itself",
}
"""What takes away what is left, in the order in which a person would do it."""


@dataclass(frozen=True)
class Leftover:
    """Things of one kind that are still there, by `namespace/name`, or by name alone."""

    kind: str
    names: tuple[str, ...]


def find_leftovers(
    objects: Mapping[str, Sequence[Mapping[str, Any]]], keys: Sequence[str] = (), gateways: Sequence[str] = ()
) -> tuple[Leftover, ...]:
    """Return what is left, in the order of `REMEDIES`, without kinds of which nothing is.

    Args:
        objects: in the tenant's namespaces, by kind.
        keys: names of its API keys.
        gateways: those that keep its token budget.
    """
    found = {kind: [_name(item) for item in items] for kind, items in objects.items()}
    found |= {"API key": [*keys], "Token budget in gateway": [*gateways]}
    return tuple(Leftover(kind, tuple(sorted(found[kind]))) for kind in REMEDIES if found.get(kind))


def _name(item: Mapping[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def build_offboarding_status(tenant: Tenant, left: Sequence[Leftover], now: datetime) -> TenantStatus:
    """Return the status of a Tenant that waits for its end; the rest of it stays as it was."""
    fact = is_false(CONDITION_READY, Reason.Offboarding, describe(Reason.Offboarding, " ".join(map(_describe, left))))
    others = [condition for condition in tenant.status.conditions if condition.type != CONDITION_READY]
    ready = build_conditions((fact,), tenant.status.conditions, tenant.metadata.generation, now)
    return tenant.status.model_copy(
        update={"observed_generation": tenant.metadata.generation, "conditions": (*others, *ready)}
    )


def plan_given_up(silent: Sequence[str], stuck: Sequence[str]) -> Announcement:
    """Return the Event of a Tenant that goes although its token budget may be left.

    Args:
        silent: gateways that have not told whether they keep it.
        stuck: those that have told that they do.
    """
    told = []
    if silent:
        told.append(
            f"The Tenant goes without word from gateway {_list(silent)}, which is ready and which the operator did not "
            "reach: whether its token budget is dropped there is not known."
        )
    if stuck:
        told.append(
            f"The Tenant goes although gateway {_list(stuck)} still keeps its token budget: it could not drop it. See "
            "whether its store of budgets answers (kubectl logs of the gateway): it drops the budget once it can. "
            "A Tenant that is made anew under this name begins with a budget of its own."
        )
    told.append("What is kept in a store expires by itself.")
    return Announcement(Reason.Offboarding, " ".join(told), warning=True)


def _describe(left: Leftover) -> str:
    return f"{left.kind} {_list(left.names)} ({REMEDIES[left.kind]})."


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_AT_MOST])
    return f"{shown} and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else shown
