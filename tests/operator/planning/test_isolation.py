"""What the backstop allows, which selectors can match our pods, and what is found loose."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import AcceleratorClass, Engine, Reason, Tenant
from llmos.api.isolation import CHECKS, Check, Finding, format_findings, parse_findings
from llmos_operator.manifests.isolation.limits import build_resource_quota
from llmos_operator.manifests.isolation.tenant_namespace import TenantNamespace
from llmos_operator.manifests.replica import build_replica_pods
from llmos_operator.planning.isolation import (
    PROBED_AT_MOST,
    WAITING_AT_LEAST,
    Doors,
    build_isolation_fact,
    build_refusal,
    check_closed_ports,
    check_engines,
    check_kv_store,
    check_way_out,
    find_probed,
    is_as_made,
    may_select_ours,
    plan_backstop,
)
from llmos_operator.planning.settings import Settings
from tests.operator.manifests.samples import template
from tests.operator.reconcilers.tenants import build_tenant


def tenant(*quota: dict[str, Any]) -> Tenant:
    return Tenant.model_validate(build_tenant("a", "team-a", quota=list(quota)))


def accelerator(name: str, capacity: int = 8, **spec: Any) -> AcceleratorClass:
    return AcceleratorClass.model_validate(
        {"metadata": {"name": name}, "spec": {"memory": "80Gi", **spec}, "status": {"capacity": capacity}}
    )


def test_the_backstop_allows_what_may_be_held_and_as_many_that_wait() -> None:
    quota = {"class": "h100", "guaranteed": 40, "borrowLimit": 8}
    assert plan_backstop(tenant(quota), [accelerator("h100")]) == {"nvidia.com/gpu": 144}
    few = {"class": "h100", "guaranteed": 2, "borrowLimit": 0}
    assert plan_backstop(tenant(few), [accelerator("h100")]) == {"nvidia.com/gpu": 2 + 2 * WAITING_AT_LEAST}


def test_classes_of_the_same_resource_count_together_and_those_without_quota_for_nothing() -> None:
    classes = [accelerator("h100"), accelerator("l4"), accelerator("mi300", resourceName="amd.com/gpu")]
    quota = [{"class": each, "guaranteed": 40, "borrowLimit": 0} for each in ("h100", "l4")]
    assert plan_backstop(tenant(*quota), classes) == {"nvidia.com/gpu": 240, "amd.com/gpu": 0}


def test_without_a_limit_of_borrowing_what_exists_is_the_bound_unless_nodes_come_on_demand() -> None:
    quota = {"class": "h100", "guaranteed": 8}
    assert plan_backstop(tenant(quota), [accelerator("h100", 100)]) == {"nvidia.com/gpu": 300}
    assert plan_backstop(tenant(quota), [accelerator("h100", autoprovisioned=True)]) == {}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"matchLabels": {"app": "web"}}, False),
        ({"matchLabels": {"llmos.dev/pool": "chat"}}, True),
        ({"matchLabels": {"llmos.dev/component": "replica"}}, True),
        ({"matchLabels": {"llmos.dev/component": "gateway"}}, False),
        ({"matchLabels": {"app.kubernetes.io/managed-by": "Helm"}}, False),
        ({"matchExpressions": [{"key": "llmos.dev/pool", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, True),
        (
            {"matchExpressions": [{"key": "app.kubernetes.io/managed-by", "operator": "NotIn", "values": ["llmos"]}]},
            False,
        ),
        ({"matchExpressions": [{"key": "llmos.dev/component", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, False),
    ],
)
def test_a_selector_is_known_to_be_able_to_match_our_pods(selector: dict[str, Any], expected: bool) -> None:
    assert may_select_ours(selector) is expected


def test_the_pods_that_the_operator_makes_are_found_tight() -> None:
    pods = build_replica_pods(template(), revision="r", ordinal=0, attempt=0)
    assert check_engines(pods).is_ok


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("automountServiceAccountToken",), True, "token"),
        (("securityContext", "runAsNonRoot"), False, "root"),
        (("securityContext", "seccompProfile"), {"type": "Unconfined"}, "seccomp"),
        (("hostNetwork",), True, "namespace of its node"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "write"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "privileges"),
        (("containers", 0, "securityContext", "capabilities"), {"drop": ["ALL"], "add": ["NET_RAW"]}, "capabilities"),
        (("initContainers", 0, "securityContext", "capabilities"), {}, "capabilities"),
    ],
)
def test_whatever_a_webhook_loosens_is_named(path: tuple[Any, ...], value: Any, told: str) -> None:
    (pod,) = build_replica_pods(template(), revision="r", ordinal=0, attempt=0)
    *parents, last = path
    place: Any = pod["spec"]
    for step in parents:
        place = place[step]
    place[last] = value
    finding = check_engines([pod])
    assert not finding.is_ok
    assert told in finding.seen


def test_replicas_that_fetch_for_themselves_are_told_and_refused_where_the_profile_is_strict() -> None:
    assert check_way_out(fetches=True, is_strict=False).is_ok
    assert "fetch the model themselves" in check_way_out(fetches=True, is_strict=False).seen
    assert not check_way_out(fetches=True, is_strict=True).is_ok
    assert check_way_out(fetches=False, is_strict=True).is_ok


def test_what_is_empty_counts_as_not_there_and_a_policy_may_say_no_more() -> None:
    made = {"kind": "NetworkPolicy", "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": []}}
    spec = {"podSelector": {}, "policyTypes": ["Egress"]}
    assert is_as_made(made, {"kind": "NetworkPolicy", "spec": spec})
    assert not is_as_made(made, {"kind": "NetworkPolicy", "spec": {**spec, "ingress": [{}]}})
    assert not is_as_made(made, None)


def test_what_our_own_quota_refuses_is_told_as_the_tenant_s_quota_and_nothing_else_is() -> None:
    own = 'pods "chat-0" is forbidden: exceeded quota: llmos-quota, requested: requests.nvidia.com/gpu=1'
    assert build_refusal(own).reason is Reason.QuotaExceeded
    assert build_refusal(own.replace("llmos-quota", "team-quota")).reason is Reason.ForbiddenByPolicy


@pytest.mark.parametrize(
    ("written", "stored", "is_same"),
    [
        ("1.5Ti", "1536Gi", True),
        ("1024Gi", "1Ti", True),
        ("2000G", "2T", True),
        ("0.5", "500m", True),
        ("1Ti", "1T", False),
        ("1", "1500m", False),
        ("1500m", "1501m", False),
    ],
)
def test_quantities_are_compared_as_numbers_however_the_api_server_stores_them(
    written: str, stored: str, *, is_same: bool
) -> None:
    made, kept = build_quota(written), build_quota(stored)
    assert is_as_made(made, kept) is is_same
    del kept["spec"]["hard"]["requests.storage"]
    assert not is_as_made(made, kept)


def build_quota(size: str) -> dict[str, Any]:
    made = Tenant.model_validate(build_tenant("a", "team-a", storage={"size": size}))
    return build_resource_quota(TenantNamespace(made, "team-a", "uid", Settings()), {})


def test_what_the_storage_of_the_tenant_refuses_names_the_field_that_does() -> None:
    for resource in ("requests.storage=10Gi", "persistentvolumeclaims=1"):
        failure = build_refusal(
            f'persistentvolumeclaims "a" is forbidden: exceeded quota: llmos-quota, requested: {resource}'
        )
        assert failure.reason is Reason.ForbiddenByPolicy
        assert "spec.storage of its Tenant" in failure.message
        other = build_refusal(f"forbidden: exceeded quota: team-quota, requested: {resource}")
        assert "spec.storage" not in other.message


sentences = st.lists(st.text("abc:[]PROBLEM.", min_size=1), min_size=1, max_size=4).map(" ".join)


@given(st.lists(st.builds(Finding, st.sampled_from(Check), st.booleans(), sentences), max_size=8))
def test_findings_are_read_back_from_a_condition_as_they_were_written_problems_first(findings: list[Finding]) -> None:
    read = parse_findings(format_findings(findings))
    assert sorted(map(repr, read)) == sorted(map(repr, findings))
    assert [f.is_ok for f in read] == sorted(f.is_ok for f in findings)


def test_a_finding_that_settles_is_read_back_and_stands_behind_problems() -> None:
    settling = Finding(Check.CLOSED_PORTS, True, "it opened.", is_settling=True)
    findings = (Finding(Check.SALT, True, "fine."), settling, Finding(Check.TOKEN, False, "bad."))
    assert parse_findings(format_findings(findings)) == (findings[2], settling, findings[0])


def test_every_check_says_what_to_do() -> None:
    assert set(CHECKS) == set(Check)
    assert all(info.remedy and info.enforced_by.endswith(".") for info in CHECKS.values())


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        (Engine(args={"kv-transfer-config": '{"kv_connector": "LMCacheConnectorV1"}'}), "kv-transfer-config"),
        (Engine(args={"kv-transfer-config.kv-connector": "P2P"}), "kv-transfer-config.kv-connector"),
        (Engine(args={"kv-trans": "{}"}), "kv-trans, which hands cached prompts to a connector"),
        (Engine(args={"kv-offloading-size": 4, "kv-offloading-backend": "lmcache"}), "kv-offloading-backend"),
        (Engine(args={"kv-events-config": "{}"}), "publishes the tokens of prompts"),
        (Engine(args={"ec-transfer-config": "{}"}), "what was computed of images"),
        (Engine(env=({"name": "LMCACHE_CONFIG_FILE", "value": "/x"},)), "engine.env has LMCACHE_CONFIG_FILE"),
        (Engine(env=({"name": "MOONCAKE_CONFIG_PATH", "value": "/x"},)), "engine.env has MOONCAKE_CONFIG_PATH"),
    ],
)
def test_what_carries_cached_prompts_out_of_a_shared_engine_is_a_problem(engine: Engine, told: str) -> None:
    found = check_kv_store(engine, is_shared=True)
    assert not found.is_ok
    assert told in found.seen
    assert check_kv_store(engine, is_shared=False).is_ok


def test_what_stays_in_the_pod_of_an_engine_is_no_problem() -> None:
    inside = {"kv-offloading-size": 4, "kv-offloading-backend": "native", "kv-cache-dtype": "fp8"}
    assert check_kv_store(Engine(args=inside), is_shared=True).is_ok
    connected = Engine(args={"kv-transfer-config": "{}"})
    assert check_kv_store(connected, is_shared=False).is_ok
    assert check_kv_store(Engine(), is_shared=True).is_ok
    assert check_kv_store(None, is_shared=True).is_ok


OPEN, CLOSED, AWAY = Doors(control=True, engine=True), Doors(control=True, engine=False), Doors(False, False)


def test_a_port_that_opens_to_the_operator_is_named_and_one_that_is_closed_counts_only_where_the_pod_is_reached() -> (
    None
):
    found = check_closed_ports({"a": CLOSED, "b": OPEN})
    assert (found.check, found.is_ok) == (Check.CLOSED_PORTS, False)
    assert "Pod b opened port 8000 to the operator" in found.seen
    found = check_closed_ports({"a": CLOSED, "b": AWAY})
    assert found.is_ok
    assert "port 8000 of 1 replicas did not open" in found.seen
    for nobody in ({}, {"a": AWAY}):
        assert "nothing was tried" in check_closed_ports(nobody).seen


def test_a_port_that_opens_while_the_policies_are_new_says_nothing_yet() -> None:
    found = check_closed_ports({"a": OPEN}, is_settling=True)
    assert (found.is_ok, found.is_settling) == (True, True)
    assert build_isolation_fact([found]).status == "Unknown"
    assert build_isolation_fact([found, Finding(Check.TOKEN, False, "bad.")]).status == "False"
    assert not check_closed_ports({"a": CLOSED}, is_settling=True).is_settling


def test_a_few_leaders_that_are_ready_are_probed() -> None:
    def pod(name: str, *, ready: str = "True", rank: str = "0", **metadata: Any) -> dict[str, Any]:
        labels = {"llmos.dev/rank": rank} if rank else {}
        conditions = [{"type": "Ready", "status": ready}]
        status = {"podIP": f"ip-of-{name}", "conditions": conditions}
        return {"metadata": {"name": name, "labels": labels, **metadata}, "status": status}

    pods = [pod("worker", rank="1"), pod("starts", ready="False"), pod("goes", deletionTimestamp="now"), pod("b")]
    nowhere = {"metadata": {"name": "nowhere"}, "status": {}}
    assert find_probed([*pods, nowhere, pod("a", rank="")]) == {"a": "ip-of-a", "b": "ip-of-b"}
    assert len(find_probed(pod(f"p{number}") for number in range(9))) == PROBED_AT_MOST
