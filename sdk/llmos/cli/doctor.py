"""`llmos doctor`: the isolation checklist of tenants and their pools, as the operator found it, and whether Kubernetes
counts what bounds the tenants."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from llmos.api import REASONS, Condition, InferencePool, Reason, Tenant
from llmos.api.isolation import CHECKS, Finding, parse_findings
from llmos.api.names import CONDITION_ISOLATION_READY, CONDITION_QUOTA_COUNTED
from llmos.cli.exits import ExitCode
from llmos.client import Client

_COUNTED: Final = "quota-counted"


@dataclass(frozen=True)
class Report:
    """What was found of one object."""

    kind: str
    name: str
    findings: tuple[Finding, ...]
    """Empty: nobody has looked yet, or what was found is about an older spec."""
    uncounted: Condition | None = None
    """What of its ResourceQuotas is not counted."""

    @property
    def exit_code(self) -> ExitCode:
        """What this one alone would end with."""
        isolation, uncounted = self._isolation_code, self.uncounted
        if uncounted is None or isolation is ExitCode.PROBLEM:
            return isolation
        return ExitCode.PROBLEM if uncounted.status == "False" else ExitCode.NOT_READY

    @property
    def _isolation_code(self) -> ExitCode:
        if not self.findings:
            return ExitCode.NOT_READY
        if not all(finding.is_ok for finding in self.findings):
            return ExitCode.PROBLEM
        return ExitCode.NOT_READY if any(finding.is_settling for finding in self.findings) else ExitCode.OK

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "kind": self.kind,
            "name": self.name,
            "isolated": {ExitCode.OK: True, ExitCode.PROBLEM: False}.get(self._isolation_code),
            "checks": [
                *({"check": f.check.value, "ok": f.is_ok, "seen": f.seen, "remedy": _remedy(f)} for f in self.findings),
                *(
                    {"check": _COUNTED, "ok": False, "seen": seen, "remedy": remedy}
                    for seen, remedy in self._uncounted()
                ),
            ],
        }

    def draw(self) -> str:
        """The report for people, problems first."""
        lines = [f"{self.kind} {self.name}"]
        for seen, remedy in self._uncounted():
            mark = "PROBLEM" if self.uncounted is not None and self.uncounted.status == "False" else "settles"
            lines += [f"  {mark}  {_COUNTED}: {seen}", f"           what to do: {remedy}"]
        for finding in self.findings:
            mark = "settles" if finding.is_settling else "ok     " if finding.is_ok else "PROBLEM"
            lines.append(f"  {mark}  {finding.check.value}: {finding.seen}")
            if remedy := _remedy(finding):
                lines.append(f"           what to do: {remedy}")
        return "\n".join(lines if self.findings else [*lines, "  The operator has not looked yet. Does it run?"])

    def _uncounted(self) -> list[tuple[str, str]]:
        """What was seen of ResourceQuotas and what to do about it, if anything is to be told."""
        if self.uncounted is None:
            return []
        remedy = REASONS[Reason.QuotaNotCounted].remedy
        return [(self.uncounted.message.removesuffix(remedy).strip(), remedy)]


def _remedy(finding: Finding) -> str:
    return "" if finding.is_ok else CHECKS[finding.check].remedy


def build_report(thing: Tenant | InferencePool) -> Report:
    """Read what the operator wrote about an object."""
    metadata = thing.metadata
    condition = next((c for c in thing.status.conditions if c.type == CONDITION_ISOLATION_READY), None)
    is_present = condition is not None and condition.observed_generation >= metadata.generation
    findings = parse_findings(condition.message) if condition is not None and is_present else ()
    name = f"{metadata.namespace}/{metadata.name}" if metadata.namespace else metadata.name
    counted = next((c for c in thing.status.conditions if c.type == CONDITION_QUOTA_COUNTED), None)
    return Report(thing.kind, name, findings, counted if counted is not None and counted.status != "True" else None)


def run_doctor(client: Client, tenant: str | None, *, as_json: bool) -> ExitCode:
    """Print the reports of one tenant or of all, each followed by those of its pools."""
    tenants = [client.tenants.get(tenant)] if tenant else list(client.tenants.list())
    reports = [report for each in tenants for report in _report(client, each)]
    if as_json:
        print(json.dumps([report.as_json() for report in reports], indent=2))
    else:
        print(
            "\n\n".join(report.draw() for report in reports) or "There are no Tenants, and nothing keeps users apart."
        )
    codes = {report.exit_code for report in reports}
    return next((code for code in (ExitCode.PROBLEM, ExitCode.NOT_READY) if code in codes), ExitCode.OK)


def _report(client: Client, tenant: Tenant) -> list[Report]:
    pools = [pool for namespace in tenant.spec.namespaces for pool in client.pools.list(namespace=namespace)]
    # Of a namespace that another tenant has, that one's doctor tells.
    reports = [build_report(pool) for pool in pools if _is_looked_after(pool)]
    return [build_report(tenant), *reports]


def _is_looked_after(pool: InferencePool) -> bool:
    return any(condition.type == CONDITION_ISOLATION_READY for condition in pool.status.conditions)
