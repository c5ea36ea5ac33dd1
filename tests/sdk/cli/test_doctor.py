"""`llmos doctor`: what the operator found, with what to do about it."""

from __future__ import annotations

import json

import httpx

from llmos.api import REASONS, Reason
from llmos.api.isolation import CHECKS, Check, Finding, format_findings
from tests.sdk.cli.conftest import Run
from tests.sdk.client.support import POOLS, Json, answer, condition, metadata, objects, pool, refusal

OK = Finding(Check.NETWORK, True, "5 policies are as they were made.")
PROBLEM = Finding(Check.BACKSTOP, False, "ValidatingAdmissionPolicy llmos-tenant-pods does not exist.")
TENANTS = "/apis/llmos.dev/v1alpha1/tenants"


def isolation(*findings: Finding) -> Json:
    ok = all(finding.is_ok for finding in findings)
    told = condition("True" if ok else "False", "Isolated" if ok else "NotIsolated", format_findings(findings))
    return {**told, "type": "IsolationReady"}


def tenant(*conditions: Json) -> Json:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": metadata("research", None),
        "spec": {"namespaces": ["team"]},
        "status": {"conditions": list(conditions)},
    }


class Cluster:
    """One tenant and its pools."""

    def __init__(self, tenant: Json | None, *pools: Json) -> None:
        self._tenant, self._pools = tenant, pools

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == TENANTS:
            return objects(*([self._tenant] if self._tenant else []))
        if path.startswith(TENANTS):
            return answer(self._tenant) if self._tenant else refusal(404, "not found")
        assert path == POOLS
        return objects(*self._pools)


def test_all_is_well_when_every_item_is(llmos: Run) -> None:
    result = llmos(Cluster(tenant(isolation(OK)), pool("smol", isolation(OK))), "doctor")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "Tenant research",
        "  ok       network: 5 policies are as they were made.",
        "",
        "InferencePool team/smol",
        "  ok       network: 5 policies are as they were made.",
    ]


def test_a_problem_comes_first_with_what_to_do_about_it(llmos: Run) -> None:
    result = llmos(Cluster(tenant(isolation(OK, PROBLEM))), "doctor", "--tenant", "research")
    assert result.exit_code == 1
    assert result.output.splitlines()[1:3] == [
        "  PROBLEM  backstop: ValidatingAdmissionPolicy llmos-tenant-pods does not exist.",
        f"           what to do: {CHECKS[Check.BACKSTOP].remedy}",
    ]


def test_programs_get_the_same(llmos: Run) -> None:
    result = llmos(Cluster(tenant(isolation(PROBLEM)), pool("smol", isolation(OK))), "doctor", "--json")
    assert result.exit_code == 1
    told, of_pool = json.loads(result.output)
    assert (told["kind"], told["name"], told["isolated"]) == ("Tenant", "research", False)
    assert told["checks"] == [
        {"check": "backstop", "ok": False, "seen": PROBLEM.seen, "remedy": CHECKS[Check.BACKSTOP].remedy}
    ]
    assert of_pool["isolated"] is True


def test_what_nobody_has_looked_at_is_not_called_well(llmos: Run) -> None:
    result = llmos(Cluster(tenant()), "doctor")
    assert result.exit_code == 4
    assert "has not looked yet" in result.output


def test_what_was_found_about_an_older_spec_does_not_count(llmos: Run) -> None:
    changed = tenant(isolation(OK))
    changed["metadata"] = metadata("research", None, generation=2)
    assert llmos(Cluster(changed), "doctor").exit_code == 4


def test_a_tenant_that_does_not_exist_is_not_found(llmos: Run) -> None:
    assert llmos(Cluster(None), "doctor", "--tenant", "nobody").exit_code == 3


def test_without_tenants_there_is_nothing_to_look_at(llmos: Run) -> None:
    result = llmos(Cluster(None), "doctor")
    assert result.exit_code == 0
    assert "no Tenants" in result.output


def uncounted(status: str) -> Json:
    message = f"ResourceQuota team/llmos-quota: nothing is counted. {REASONS[Reason.QuotaNotCounted].remedy}"
    return {**condition(status, "QuotaNotCounted", message), "type": "QuotaCounted"}


def test_a_quota_that_is_not_counted_is_a_problem_with_what_to_do_about_it(llmos: Run) -> None:
    result = llmos(Cluster(tenant(isolation(OK), uncounted("False"))), "doctor")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "Tenant research",
        "  PROBLEM  quota-counted: ResourceQuota team/llmos-quota: nothing is counted.",
        f"           what to do: {REASONS[Reason.QuotaNotCounted].remedy}",
        "  ok       network: 5 policies are as they were made.",
    ]
    (told,) = json.loads(llmos(Cluster(tenant(isolation(OK), uncounted("False"))), "doctor", "--json").output)
    assert told["isolated"] is True
    assert [(each["check"], each["ok"]) for each in told["checks"]] == [("network", True), ("quota-counted", False)]


def test_a_quota_that_was_just_made_settles(llmos: Run) -> None:
    result = llmos(Cluster(tenant(isolation(OK), uncounted("Unknown"))), "doctor")
    assert result.exit_code == 4
    assert "  settles  quota-counted: " in result.output
    problem = llmos(Cluster(tenant(isolation(PROBLEM), uncounted("Unknown"))), "doctor")
    assert problem.exit_code == 1


def test_a_quota_that_is_counted_is_no_line(llmos: Run) -> None:
    counted = {**condition("True", "QuotaCounted", "Everything is counted."), "type": "QuotaCounted"}
    result = llmos(Cluster(tenant(isolation(OK), counted)), "doctor")
    assert (result.exit_code, "quota-counted" in result.output) == (0, False)
