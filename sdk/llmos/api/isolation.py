"""The checklist of isolation: what the operator looks at in every namespace of a tenant, and what to do about it.

One table serves the operator, which looks and writes the findings into the condition IsolationReady, `llmos doctor`,
which prints them, and the documentation. A finding is one line of the condition's message:

    ok       network: 5 policies are as they were made.
    settling  closed-ports: ... (it may be so because what closes them is new; it is looked at again)
    PROBLEM  pod-security: ... (what was found). (what to do)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Check(StrEnum):
    """Items of the checklist."""

    NAMESPACE = "namespace"
    POD_SECURITY = "pod-security"
    NETWORK = "network"
    OTHER_POLICIES = "other-policies"
    CLOSED_PORTS = "closed-ports"
    TOKEN = "token"  # noqa: S105 - the name of a check
    LIMITS = "limits"
    QUOTA = "quota"
    ACCESS = "access"
    BACKSTOP = "backstop"
    ACCELERATORS = "accelerators"
    SALT = "salt"
    ENGINE = "engine"
    KV_STORE = "kv-store"
    WAY_OUT = "way-out"


@dataclass(frozen=True)
class CheckInfo:
    """One row of the table."""

    enforced_by: str
    remedy: str


CHECKS: Final[dict[Check, CheckInfo]] = {
    Check.NAMESPACE: CheckInfo(
        "The namespace exists and bears the label of its tenant, by which admission policies find it.",
        "Create the namespace: kubectl create namespace NAME; or remove it from the Tenant's spec.namespaces.",
    ),
    Check.POD_SECURITY: CheckInfo(
        "Pod Security level restricted, pinned to a version, for enforce, audit and warn.",
        "Find out who takes the labels away (kubectl get namespace NAME -o yaml --show-managed-fields): the operator "
        "puts them back each time it looks.",
    ),
    Check.NETWORK: CheckInfo(
        "NetworkPolicies close both directions and open just what serving needs.",
        "Find out who changes the policies (kubectl get networkpolicy --show-managed-fields): the operator puts them "
        "back. Use a network plugin that enforces NetworkPolicies.",
    ),
    Check.OTHER_POLICIES: CheckInfo(
        "No other NetworkPolicy opens pods of LLMOS: policies add up.",
        "Delete the policy, or let its podSelector name only your own pods.",
    ),
    Check.CLOSED_PORTS: CheckInfo(
        "The served API of an engine does not open for the operator, to whom only the control port is open.",
        "Use a network plugin that enforces NetworkPolicies, such as Calico or Cilium: now nothing is closed.",
    ),
    Check.TOKEN: CheckInfo(
        "The default ServiceAccount gives pods no token.",
        "kubectl patch serviceaccount default -p '{\"automountServiceAccountToken\": false}'",
    ),
    Check.LIMITS: CheckInfo(
        "A LimitRange gives containers without requests a request.",
        "Find out who deletes the LimitRange: the operator makes it again each time it looks.",
    ),
    Check.QUOTA: CheckInfo(
        "A ResourceQuota bounds accelerators and objects, also while no operator runs.",
        "Find out who deletes the ResourceQuota: the operator makes it again each time it looks.",
    ),
    Check.ACCESS: CheckInfo(
        "RoleBindings of the tenant's two groups.",
        "Find out who deletes the RoleBindings: the operator makes them again each time it looks.",
    ),
    Check.BACKSTOP: CheckInfo(
        "A ValidatingAdmissionPolicy lets only the operator make pods that ask for accelerators.",
        "Install it with the chart: helm upgrade with isolation.admissionPolicy=true.",
    ),
    Check.ACCELERATORS: CheckInfo(
        "No pod holds accelerators past the quota.",
        "Delete the pods that the line names, or serve what they serve by an InferencePool.",
    ),
    Check.SALT: CheckInfo(
        "The gateway salts the prefix cache by tenant with a secret of the installation.",
        "Install the gateway with the chart: it makes the secret.",
    ),
    Check.ENGINE: CheckInfo(
        "Engine pods: no root, no capabilities, no token, a read-only root file system, seccomp.",
        "Delete the pod: the operator makes it anew. If it comes back like this, a mutating webhook changes it.",
    ),
    Check.KV_STORE: CheckInfo(
        "Nothing carries cached prompts of several tenants out of an engine.",
        "Take what the line names out of engine.args or engine.env; or set isolation.dedicatedPools of the Tenant: "
        "then nobody else calls the pool.",
    ),
    Check.WAY_OUT: CheckInfo(
        "Engines have no way out of the cluster.",
        "Set storage.mode: claim in the LLMModel: then a step of its own fetches the files, and the engine needs no "
        "way out.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """What was seen of one item."""

    check: Check
    is_ok: bool
    seen: str
    is_settling: bool = False
    """Nobody can say yet: what was seen may be so because what prevents it is new. Then `is_ok` is true."""

    def __str__(self) -> str:
        """Return the line of a condition's message."""
        seen = " ".join(self.seen.split())  # what an API server says may have several lines
        if self.is_settling:
            return f"settling  {self.check.value}: {seen}"
        if self.is_ok:
            return f"ok       {self.check.value}: {seen}"
        return f"PROBLEM  {self.check.value}: {seen} {CHECKS[self.check].remedy}"


def format_findings(findings: Iterable[Finding]) -> str:
    """Return the message of a condition, problems first."""
    ordered = sorted(findings, key=lambda finding: (finding.is_ok, not finding.is_settling))
    return "\n".join(map(str, ordered))


def parse_findings(message: str) -> tuple[Finding, ...]:
    """Return the findings that a condition's message tells; lines of another kind, or of a newer operator, are left
    out."""
    return tuple(finding for line in message.splitlines() if (finding := _parse_line(line)) is not None)


def _parse_line(line: str) -> Finding | None:
    mark, _, rest = line.partition("  ")
    name, separator, seen = rest.strip().partition(": ")
    if mark not in {"ok", "settling", "PROBLEM"} or not separator or name not in set(Check):
        return None
    check = Check(name)
    seen = seen.removesuffix(CHECKS[check].remedy).strip()
    return Finding(check, mark != "PROBLEM", seen, is_settling=mark == "settling")
