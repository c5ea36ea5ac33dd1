"""The chart asks for as little as possible: Pod Security level `restricted`, and RBAC without a wildcard."""

from __future__ import annotations

from typing import Any

import pytest

from llmos_operator.kube.resources import ALL, LOCAL_QUEUES, OF_KUEUE
from llmos_operator.kube.resources import CUSTOM_RESOURCE_DEFINITIONS as CRDS
from llmos_operator.runtime.app import LEASE_NAME
from tests.chart.helm import find, load_everything, part_of, render

GROUP = LOCAL_QUEUES.group
CASES: dict[str, dict[str, Any]] = {"defaults": {}, "everything": load_everything()}


def rules_of(manifests: list[dict[str, Any]], *parts: str) -> list[dict[str, Any]]:
    roles = [m for m in manifests if m["kind"] in {"Role", "ClusterRole"} and (not parts or part_of(m) in parts)]
    return [rule for role in roles for rule in role["rules"]]


@pytest.mark.parametrize("part", ["operator", "gateway"])
@pytest.mark.parametrize("case", CASES)
def test_the_pods_pass_the_restricted_level(case: str, part: str) -> None:
    """Field by field, after the Pod Security Standards."""
    pod = find(render(CASES[case]), "Deployment", part=part)["spec"]["template"]["spec"]
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert all(set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "projected"} for volume in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert not security.get("privileged")
        assert not any(port.get("hostPort") for port in container.get("ports", []))


def test_no_rule_has_a_wildcard() -> None:
    for rule in rules_of(render()):
        assert all("*" not in entry for key in ("apiGroups", "resources", "verbs") for entry in rule[key])


def test_the_operator_may_touch_just_the_kinds_it_knows() -> None:
    granted = {
        (group, resource.partition("/")[0])
        for name in ("llmos-operator", "llmos-leader-election", "llmos-api-keys")
        for rule in find(render(), "ClusterRole" if name == "llmos-operator" else "Role", name)["rules"]
        if rule["verbs"] != ["bind"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {(resource.group, resource.plural) for resource in ALL}


def test_the_operator_reads_the_queues_of_kueue_only_where_kueue_admits() -> None:
    def read(values: dict[str, Any]) -> set[str]:
        rules = find(render(values), "ClusterRole", "llmos-operator")["rules"]
        kinds = {r for rule in rules for r in rule["resources"] if rule["apiGroups"] in ([GROUP], [CRDS.group])}
        verbs = {verb for rule in rules if rule["apiGroups"] == [GROUP] for verb in rule["verbs"]}
        assert verbs <= {"get", "list"}
        return kinds

    assert read({}) == set()
    assert read({"quota": {"admission": "kueue"}}) == {resource.plural for resource in OF_KUEUE}


def test_the_operator_may_neither_make_roles_nor_run_commands_in_pods() -> None:
    rules = find(render(), "ClusterRole", "llmos-operator")["rules"]
    resources = {resource for rule in rules for resource in rule["resources"] if rule["verbs"] != ["bind"]}
    assert resources.isdisjoint(
        {"secrets", "roles", "clusterroles", "serviceaccounts/token", "pods/exec", "pods/attach"}
    )


def test_the_operator_may_bind_just_the_two_roles_of_tenants() -> None:
    manifests = render()
    (rule,) = [r for r in find(manifests, "ClusterRole", "llmos-operator")["rules"] if "bind" in r["verbs"]]
    assert rule["resourceNames"] == ["llmos-tenant-admin", "llmos-tenant-user"]
    for name in rule["resourceNames"]:
        assert find(manifests, "ClusterRole", name)


def test_the_operator_lists_and_makes_secrets_in_its_own_namespace_only() -> None:
    role = find(render(), "Role", "llmos-api-keys")
    assert role["metadata"]["namespace"] == "llmos-system"
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "create"]}]


@pytest.mark.parametrize("role", ["llmos-tenant-admin", "llmos-tenant-user"])
def test_users_of_a_tenant_read_no_secrets_run_nothing_in_pods_and_change_nothing_that_keeps_them_apart(
    role: str,
) -> None:
    rules = find(render(), "ClusterRole", role)["rules"]
    reads, writes = {"get", "list", "watch"}, {"create", "update", "patch", "delete", "deletecollection"}
    readable = {r for rule in rules if reads & set(rule["verbs"]) for r in rule["resources"]}
    writable = {r for rule in rules if writes & set(rule["verbs"]) for r in rule["resources"]}
    assert "secrets" not in readable
    assert readable.isdisjoint({"pods/exec", "pods/attach", "pods/portforward"})
    ours = {"llmmodels", "inferencepools", "inferencepools/scale", "finetunejobs"}
    assert writable <= {*ours, "secrets", "persistentvolumeclaims"}
    assert role == "llmos-tenant-admin" or not writable


def test_the_gateway_only_reads_and_sees_secrets_of_its_own_namespace_only() -> None:
    manifests = render()
    assert {verb for rule in rules_of(manifests, "gateway") for verb in rule["verbs"]} == {"list", "watch"}
    everywhere = find(manifests, "ClusterRole", part="gateway")["rules"]
    here = find(manifests, "Role", part="gateway")
    assert {r for rule in everywhere for r in rule["resources"]} == {
        *("inferencepools", "llmmodels", "tenants"),
        "endpointslices",
    }
    assert (here["metadata"]["namespace"], here["rules"][0]["resources"]) == ("llmos-system", ["secrets"])


def test_leases_are_touched_in_one_namespace_and_by_one_name() -> None:
    manifests = render()
    role = find(manifests, "Role", "llmos-leader-election")
    named = [rule for rule in role["rules"] if rule["verbs"] != ["create"]]
    assert role["metadata"]["namespace"] == "llmos-system"
    assert [rule["resourceNames"] for rule in named] == [[LEASE_NAME]]


@pytest.mark.parametrize("part", ["operator", "gateway"])
def test_only_our_own_pods_mount_the_token(part: str) -> None:
    manifests = render()
    assert find(manifests, "ServiceAccount", part=part)["automountServiceAccountToken"] is False
    assert find(manifests, "Deployment", part=part)["spec"]["template"]["spec"]["automountServiceAccountToken"] is True


@pytest.mark.parametrize("case", CASES)
def test_every_binding_binds_an_existing_role_to_the_account_of_its_part_or_to_the_groups_that_were_named(
    case: str,
) -> None:
    manifests = render(CASES[case])
    viewers = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "ml-engineers"}]
    for binding in (m for m in manifests if m["kind"].endswith("RoleBinding")):
        role = find(manifests, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        is_for_users = role["metadata"]["name"].endswith("-acceleratorclass-view")
        account = find(manifests, "ServiceAccount", part=part_of(binding))["metadata"]
        pods = [{"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}]
        assert binding["subjects"] == (viewers if is_for_users else pods)


def test_nobody_but_our_own_accounts_is_bound_to_a_role_unless_a_group_is_named() -> None:
    kinds = {subject["kind"] for m in render() if m["kind"].endswith("RoleBinding") for subject in m["subjects"]}
    assert kinds == {"ServiceAccount"}


def test_users_get_their_rights_through_the_cluster_s_own_roles_unless_that_is_turned_off() -> None:
    def labels_of(values: dict[str, Any]) -> dict[str, set[str]]:
        roles = {m["metadata"]["name"]: m["metadata"]["labels"] for m in render(values) if m["kind"] == "ClusterRole"}
        key = "rbac.authorization.k8s.io/aggregate-to-"
        return {
            name: {label.removeprefix(key) for label in labels if label.startswith(key)}
            for name, labels in roles.items()
            if name not in {"llmos-operator", "llmos-gateway", "llmos-tenant-admin", "llmos-tenant-user"}
        }

    assert labels_of({}) == {"llmos-view": {"view", "edit", "admin"}, "llmos-edit": {"edit", "admin"}}
    assert labels_of({"rbac": {"aggregateToDefaultRoles": False}}) == {}
