"""What keeps tenants apart: how much the backstop allows, and what was found of each item of the checklist. Pure.

The operator makes everything and then looks: a finding speaks about what the API server stores, never about what was
meant. `llmos.api.isolation` has the table of items with their remedies.

The backstop of accelerators, for each resource name r over the classes c that use it:

    hard(r) = most(r) + 2 x max(most(r), WAITING_AT_LEAST)    most(r) = sum over c of guaranteed(c) + borrowLimit(c)

A class without borrowLimit counts with all accelerators that exist. A ResourceQuota also counts pods that wait behind
their scheduling gate and hold nothing, so as many again may wait; and as many again may take their places, for a gang
that moves to another class is there twice until its successor is whole, and what waits must not keep it from that.
Where nothing may be held, nothing may wait. The ledger is exact; this is what holds if it fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from llmos.api import AcceleratorClass, Engine, Reason, Tenant
from llmos.api.isolation import Check, Finding, format_findings
from llmos.api.names import (
    CONDITION_ISOLATION_READY,
    CONTROL_PORT,
    ENGINE_PORT,
    LABEL_COMPONENT,
    LABEL_GANG_SIZE,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_MODEL,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
    LABEL_REVISION,
    LABEL_SERVING,
    LABEL_TRIAL,
    MANAGED_BY,
)
from llmos_operator.planning.conditions import Fact, is_false, is_true, is_unknown
from llmos_operator.planning.failures import Failure, build_failure
from llmos_operator.planning.kv_exits import find_kv_exits
from llmos_operator.planning.quantities import are_equal_quantities

JsonObject = Mapping[str, Any]

WAITING_AT_LEAST: Final = 32
BACKSTOP_QUOTA: Final = "llmos-quota"
"""Name of the ResourceQuota."""
STORAGE_RESOURCES: Final = ("requests.storage", "persistentvolumeclaims")
"""What it says of claims: their bytes, and how many there are."""
SALT_VARIABLE: Final = "LLMOS_CACHE_SALT_SECRET_FILE"
SALT_OPTION: Final = "--cache-salt-secret-file"
SETTLING_S: Final = 30.0
"""A network plugin may need so long until it enforces a policy."""
PROBED_AT_MOST: Final = 3
"""Replicas of a namespace whose ports are tried in one look."""
NAMED_AT_MOST: Final = 5
"""Names in one line; the rest is counted."""

_FINISHED = frozenset({"Succeeded", "Failed"})
_VARYING_LABELS = frozenset(
    {LABEL_POOL, LABEL_MODEL, LABEL_JOB, LABEL_REPLICA, LABEL_REVISION, LABEL_RANK, LABEL_GANG_SIZE, LABEL_SERVING}
    | {LABEL_TRIAL}
)
_COMPONENTS = frozenset({"replica", "inspect", "fetch", "share", "prepare", "train"})


def plan_backstop(tenant: Tenant, classes: Iterable[AcceleratorClass]) -> dict[str, int]:
    """Return the most accelerators that a namespace of the tenant may ask for, by resource name.

    A resource whose number is not bounded (nodes are added on demand, and there is no borrowLimit) is left out.
    """
    quotas = {quota.class_name: quota for quota in tenant.spec.quota}
    most: dict[str, int | None] = {}
    for each in classes:
        quota, resource = quotas.get(each.metadata.name), each.spec.resource_name
        before = most.setdefault(resource, 0)
        if quota is None or before is None:
            continue
        if quota.borrow_limit is not None:
            most[resource] = before + quota.guaranteed + quota.borrow_limit
        elif each.spec.autoprovisioned:
            most[resource] = None
        else:
            most[resource] = before + max(quota.guaranteed, each.status.capacity)
    return {
        resource: count + 2 * max(count, WAITING_AT_LEAST) if count else 0
        for resource, count in most.items()
        if count is not None
    }


def build_refusal(message: str) -> Failure:
    """Return why the API server refused a child of a pool, a job or a model: our own ResourceQuota speaks for the
    tenant's quota."""
    _, is_backstop, exceeded = message.partition(f"exceeded quota: {BACKSTOP_QUOTA},")
    said = f"The API server says: {message}"
    if is_backstop and any(f"{resource}=" in exceeded for resource in STORAGE_RESOURCES):
        whose = "The claims of the namespace would be more than spec.storage of its Tenant allows: delete some, ask for"
        return build_failure(Reason.ForbiddenByPolicy, f"{whose} less, or have spec.storage raised. {said}")
    return build_failure(Reason.QuotaExceeded if is_backstop else Reason.ForbiddenByPolicy, said)


def is_as_made(desired: JsonObject, stored: JsonObject | None) -> bool:
    """Whether an object is as the operator made it: everything that it says is so, and a NetworkPolicy says no more.

    Defaults that the API server fills in, and fields of others that loosen nothing, do not matter; nor does how it
    writes a quantity.
    """
    if stored is None:
        return False
    if desired["kind"] == "NetworkPolicy" and not _is_within(stored["spec"], desired["spec"]):
        return False
    if desired["kind"] == "ResourceQuota":
        return _is_within(desired, _write_quantities_alike(desired, stored))
    return _is_within(desired, stored)


def _write_quantities_alike(desired: JsonObject, stored: JsonObject) -> JsonObject:
    """Return a stored ResourceQuota with those quantities that are the desired ones written as these are."""
    wanted, kept = desired["spec"]["hard"], stored["spec"].get("hard") or {}
    same = {
        name: wanted[name] for name in wanted.keys() & kept.keys() if are_equal_quantities(wanted[name], kept[name])
    }
    return {**stored, "spec": {**stored["spec"], "hard": {**kept, **same}}}


def _is_within(wanted: object, existing: object) -> bool:
    """Whether `existing` has all of `wanted`; what is empty counts as not there, as the API server stores it."""
    if isinstance(wanted, Mapping):
        other = existing if isinstance(existing, Mapping) else {}
        return all(_is_within(value, other.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        others = existing if isinstance(existing, list | tuple) else ()
        return len(wanted) == len(others) and all(map(_is_within, wanted, others))
    return wanted == existing


def may_select_ours(selector: JsonObject) -> bool:
    """Whether a label selector can match pods that LLMOS makes, whatever pool or model they are of."""
    labels = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or ()
    return all(_may_have(key, {value}) for key, value in labels.items()) and all(map(_may_express, expressions))


def _may_have(key: str, values: set[str]) -> bool:
    if key == LABEL_MANAGED_BY:
        return MANAGED_BY in values
    if key == LABEL_COMPONENT:
        return bool(_COMPONENTS & values)
    return key in _VARYING_LABELS


def _may_express(expression: JsonObject) -> bool:
    key, values = expression["key"], set(expression.get("values") or ())
    match expression["operator"]:
        case "In":
            return _may_have(key, values)
        case "Exists":
            return key in {LABEL_MANAGED_BY, LABEL_COMPONENT, *_VARYING_LABELS}
        case "NotIn":
            return not (key == LABEL_MANAGED_BY and MANAGED_BY in values) and not (
                key == LABEL_COMPONENT and values >= _COMPONENTS
            )
        case _:
            return key not in {LABEL_MANAGED_BY, LABEL_COMPONENT}


def check_policies(policies: Iterable[JsonObject], own: Iterable[str]) -> Finding:
    """Find NetworkPolicies of others that open pods of ours: policies add up, so one is enough."""
    names = set(own)
    opening = sorted(
        policy["metadata"]["name"]
        for policy in policies
        if policy["metadata"]["name"] not in names
        and (policy["spec"].get("ingress") or policy["spec"].get("egress"))
        and may_select_ours(policy["spec"].get("podSelector") or {})
    )
    if opening:
        return Finding(Check.OTHER_POLICIES, False, f"NetworkPolicy {_name(opening)} also selects pods of LLMOS.")
    return Finding(Check.OTHER_POLICIES, True, "no other NetworkPolicy selects pods of LLMOS.")


@dataclass(frozen=True)
class Doors:
    """Which ports of a replica opened when they were tried."""

    control: bool
    """The one that is open to the operator."""
    engine: bool
    """The one that is the gateway's alone."""


def is_ready(pod: JsonObject) -> bool:
    """Whether a pod answers, and is to go on doing so."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def find_probed(pods: Iterable[JsonObject]) -> dict[str, str]:
    """Return some replicas of which both ports are listened on, with their addresses: the leaders that are ready."""
    ready = sorted(
        (pod["metadata"]["name"], pod["status"]["podIP"])
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(LABEL_RANK, "0") == "0"
        and is_ready(pod)
        and pod["status"].get("podIP")
    )
    return dict(ready[:PROBED_AT_MOST])


def is_settling(policies: Iterable[JsonObject], changed: datetime | None, now: datetime) -> bool:
    """Whether NetworkPolicies are so new that a network plugin need not enforce them yet.

    Args:
        policies: those of the namespace that are the operator's.
        changed: when one was last put back.
        now: the current time.
    """
    times = [datetime.fromisoformat(policy["metadata"]["creationTimestamp"]) for policy in policies]
    newest = max((*times, *((changed,) if changed is not None else ())), default=None)
    return newest is not None and now - newest < timedelta(seconds=SETTLING_S)


def check_closed_ports(doors: Mapping[str, Doors], *, is_settling: bool = False) -> Finding:
    """Say whether policies are not only stored but enforced, by what was tried at replicas.

    A port that does not open says something only where the pod is reached at all; one that opens only where the
    policies have had time to be enforced.
    """
    opened = sorted(name for name, door in doors.items() if door.engine)
    if opened and is_settling:
        seen = f"Pod {_name(opened)} opened port {ENGINE_PORT} to the operator, and the policies that close it are new."
        return Finding(Check.CLOSED_PORTS, True, seen, is_settling=True)
    if opened:
        seen = f"Pod {_name(opened)} opened port {ENGINE_PORT} to the operator, which the policies close."
        return Finding(Check.CLOSED_PORTS, False, seen)
    reached = sum(door.control for door in doors.values())
    if not reached:
        return Finding(Check.CLOSED_PORTS, True, "no replica is ready and reached, so nothing was tried.")
    seen = f"port {ENGINE_PORT} of {reached} replicas did not open to the operator, and port {CONTROL_PORT} did."
    return Finding(Check.CLOSED_PORTS, True, seen)


def check_accelerators(pods: Iterable[JsonObject], resources: frozenset[str]) -> Finding:
    """Find pods that hold accelerators and were not made by the operator."""
    holding = sorted(
        pod["metadata"]["name"]
        for pod in pods
        if (pod.get("status") or {}).get("phase") not in _FINISHED
        and (pod["metadata"].get("labels") or {}).get(LABEL_MANAGED_BY) != MANAGED_BY
        and resources & _limits(pod)
    )
    if holding:
        return Finding(Check.ACCELERATORS, False, f"Pod {_name(holding)} asks for accelerators and is not LLMOS's.")
    return Finding(Check.ACCELERATORS, True, "all pods that ask for accelerators are LLMOS's.")


def _limits(pod: JsonObject) -> set[str]:
    containers = [*pod["spec"].get("containers", ()), *pod["spec"].get("initContainers", ())]
    return {name for container in containers for name in (container.get("resources") or {}).get("limits") or {}}


def check_backstop(policy: JsonObject | None, binding: JsonObject | None, name: str) -> Finding:
    """Look at the admission policy that keeps the accelerators for the operator."""
    if policy is None or binding is None:
        missing = "ValidatingAdmissionPolicy" if policy is None else "ValidatingAdmissionPolicyBinding"
        return Finding(Check.BACKSTOP, False, f"{missing} {name} does not exist.")
    if policy["spec"].get("failurePolicy", "Fail") != "Fail":
        return Finding(Check.BACKSTOP, False, f"{name} lets pods pass when it fails (failurePolicy is not Fail).")
    if "Deny" not in (binding["spec"].get("validationActions") or ()):
        return Finding(Check.BACKSTOP, False, f"the binding of {name} denies nothing.")
    return Finding(Check.BACKSTOP, True, f"admission policy {name} is bound and denies.")


def check_salt(gateways: Iterable[JsonObject]) -> Finding:
    """Look whether every gateway was given the secret from which it makes the salts of prefix caches."""
    pods = [pod for pod in gateways if (pod.get("status") or {}).get("phase") not in _FINISHED]
    unsalted = sorted(pod["metadata"]["name"] for pod in pods if not any(map(_has_salt, pod["spec"]["containers"])))
    if unsalted:
        return Finding(Check.SALT, False, f"gateway {_name(unsalted)} has no secret for salts.")
    return Finding(Check.SALT, True, f"{len(pods)} gateways have a secret for salts." if pods else "no gateway runs.")


def _has_salt(container: JsonObject) -> bool:
    words = (*(container.get("command") or ()), *(container.get("args") or ()))
    variables = {each["name"]: each.get("value") for each in container.get("env") or ()}
    return bool(variables.get(SALT_VARIABLE)) or any(word.startswith(SALT_OPTION) for word in words)


def check_engines(pods: Sequence[JsonObject]) -> Finding:
    """Look at the pods of a pool as they are stored: a webhook may have changed what the operator sent."""
    loose = {pod["metadata"]["name"]: found for pod in pods if (found := _looseness(pod))}
    if loose:
        name, found = min(loose.items())
        more = f" (and {len(loose) - 1} more)" if len(loose) > 1 else ""
        return Finding(Check.ENGINE, False, f"Pod {name}{more}: {', '.join(found)}.")
    # Without their number: the words would be written anew with each pod that comes or goes.
    return Finding(
        Check.ENGINE, True, "its pods are as restricted as they were made." if pods else "there are no pods."
    )


def _looseness(pod: JsonObject) -> list[str]:
    spec = pod["spec"]
    security = spec.get("securityContext") or {}
    found = {
        "it mounts a service account token": spec.get("automountServiceAccountToken") is not False,
        "it may run as root": security.get("runAsNonRoot") is not True,
        "it has no seccomp profile": (security.get("seccompProfile") or {}).get("type") != "RuntimeDefault",
        "it shares a namespace of its node": any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
    }
    containers = [*spec.get("containers", ()), *spec.get("initContainers", ())]
    return [*(word for word, is_so in found.items() if is_so), *(w for each in containers for w in _loose(each))]


def _loose(container: JsonObject) -> list[str]:
    security = container.get("securityContext") or {}
    capabilities = security.get("capabilities") or {}
    found = {
        "may gain privileges": security.get("allowPrivilegeEscalation") is not False or security.get("privileged"),
        "can write to its root file system": security.get("readOnlyRootFilesystem") is not True,
        "has capabilities": "ALL" not in (capabilities.get("drop") or ()) or capabilities.get("add"),
    }
    return [f"container {container['name']} {word}" for word, is_so in found.items() if is_so]


def check_kv_store(engine: Engine | None, *, is_shared: bool) -> Finding:
    """Say whether cached prompts leave the engines of a pool, or of a job, which has none."""
    exits = find_kv_exits(engine) if engine is not None else ()
    if not exits:
        return Finding(Check.KV_STORE, True, "cached prompts stay in the engine.")
    return Finding(Check.KV_STORE, not is_shared, f"{'; '.join(exits)}.")


def check_way_out(*, fetches: bool, is_strict: bool) -> Finding:
    """Say whether the engines of a pool keep the way out of a fetch step."""
    if not fetches:
        return Finding(Check.WAY_OUT, True, "the engines have no way out.")
    seen = "the replicas fetch the model themselves, so the engines can reach what a fetch step can."
    return Finding(Check.WAY_OUT, not is_strict, seen)


def build_isolation_fact(findings: Sequence[Finding]) -> Fact:
    """Return the condition IsolationReady with one line for each finding."""
    if not findings:
        return is_unknown(CONDITION_ISOLATION_READY, Reason.NotLookedYet)
    message = format_findings(findings)
    if all(finding.is_ok for finding in findings) and any(finding.is_settling for finding in findings):
        return is_unknown(CONDITION_ISOLATION_READY, Reason.PoliciesSettling, message)
    if all(finding.is_ok for finding in findings):
        return is_true(CONDITION_ISOLATION_READY, Reason.Isolated, message)
    return is_false(CONDITION_ISOLATION_READY, Reason.NotIsolated, message)


def name_namespace(findings: Iterable[Finding], namespace: str) -> tuple[Finding, ...]:
    """Return the findings of one of several namespaces, said so that a reader knows of which."""
    return tuple(replace(finding, seen=f"[{namespace}] {finding.seen}") for finding in findings)


def _name(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED_AT_MOST])
    return shown if len(names) <= NAMED_AT_MOST else f"{shown} and {len(names) - NAMED_AT_MOST} more"
