"""The manifests of a tenant's namespace: what is open, for whom, and nothing else.

Connections are judged by the rules of the test cluster's own enforcer, so that a test says who reaches whom.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import Tenant
from llmos.api.names import CONTROL_PORT, ENGINE_PORT, SHARE_PORT
from llmos_operator.manifests.finetune_gang import Member, build_member_labels
from llmos_operator.manifests.isolation import TenantNamespace, build_isolation
from llmos_operator.manifests.isolation.network import OPERATOR_LABELS, build_network_policies
from llmos_operator.manifests.replica import build_replica_pods
from llmos_operator.planning.settings import Settings
from tests.e2e_cluster.test_policies import INTERNET, METADATA, NODE, Judge
from tests.operator.manifests.samples import gang_template
from tests.operator.manifests.samples import model as build_model
from tests.operator.reconcilers.tenants import build_tenant

ENGINE, FETCH, APP, FETCHING, SHARE = "10.244.0.21", "10.244.0.22", "10.244.0.23", "10.244.0.24", "10.244.0.25"
GATEWAY, OPERATOR, DNS, OTHER_ENGINE, STRANGER = (f"10.244.0.{n}" for n in range(31, 36))
REPLICA = {"llmos.dev/component": "replica", "llmos.dev/pool": "chat"}


def tenant_namespace(name: str = "team-a", settings: Settings | None = None, **isolation: Any) -> TenantNamespace:
    tenant = Tenant.model_validate(build_tenant("a", name, isolation=isolation))
    return TenantNamespace(tenant, name, "uid", settings or Settings())


def pod(address: str, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": address, "namespace": namespace, "labels": labels},
        "spec": {"containers": []},
        "status": {"podIP": address, "phase": "Running"},
    }


PODS = [
    pod(ENGINE, "team-a", REPLICA),
    pod(FETCHING, "team-a", {**REPLICA, "llmos.dev/fetches": "true"}),
    pod(FETCH, "team-a", {"llmos.dev/component": "fetch"}),
    pod(SHARE, "team-a", {"llmos.dev/component": "share"}),
    pod(APP, "team-a", {"app": "web"}),
    pod(OTHER_ENGINE, "team-b", REPLICA),
    pod(GATEWAY, "llmos-system", {"llmos.dev/component": "gateway"}),
    pod(OPERATOR, "llmos-system", dict(OPERATOR_LABELS)),
    pod(DNS, "kube-system", {"k8s-app": "kube-dns"}),
    pod(STRANGER, "elsewhere", {"llmos.dev/component": "gateway"}),
]


def judge(**isolation: Any) -> Judge:
    return Judge(
        *build_network_policies(tenant_namespace(**isolation)),
        *build_network_policies(tenant_namespace("team-b")),
        pods=PODS,
        namespaces=["team-a", "team-b", "llmos-system", "kube-system", "elsewhere"],
    )


def test_the_gateway_reaches_the_engine_s_port_and_the_operator_its_control_port_and_neither_more() -> None:
    seen = judge()
    assert seen.allows(GATEWAY, ENGINE, ENGINE_PORT)
    assert seen.allows(OPERATOR, ENGINE, CONTROL_PORT)
    assert not seen.allows(GATEWAY, ENGINE, CONTROL_PORT)
    assert not seen.allows(OPERATOR, ENGINE, ENGINE_PORT)
    assert not seen.allows(GATEWAY, APP, 80)


@pytest.mark.parametrize("source", [FETCH, APP, OTHER_ENGINE, STRANGER, DNS])
def test_nobody_else_reaches_an_engine(source: str) -> None:
    assert not any(judge().allows(source, ENGINE, port) for port in (ENGINE_PORT, CONTROL_PORT))


@pytest.mark.parametrize("target", [OTHER_ENGINE, GATEWAY, STRANGER, APP, INTERNET, METADATA, NODE])
def test_an_engine_reaches_nobody(target: str) -> None:
    assert not any(judge().allows(ENGINE, target, port) for port in (80, 443, 6443, ENGINE_PORT))


def test_replicas_reach_what_shares_adapters_and_nobody_else_does() -> None:
    for seen in (judge(), judge(profile="strict", dedicatedPools=True)):
        assert seen.allows(ENGINE, SHARE, SHARE_PORT)
        assert not seen.allows(ENGINE, SHARE, 443)
        assert not any(seen.allows(source, SHARE, SHARE_PORT) for source in (APP, FETCH, OTHER_ENGINE, STRANGER))
        assert not seen.allows(SHARE, ENGINE, CONTROL_PORT)


@pytest.mark.parametrize("source", [ENGINE, FETCH, APP])
def test_every_pod_asks_the_name_servers(source: str) -> None:
    assert judge().allows(source, DNS, 53, "udp")
    assert judge().allows(source, DNS, 53)
    assert not judge().allows(source, DNS, 443)
    assert not judge().allows(source, INTERNET, 53, "udp")


def test_name_servers_outside_of_the_cluster_s_pods_are_reached_if_they_are_named() -> None:
    namespace = tenant_namespace(settings=Settings(dns_addresses=("10.88.0.1/32",)))
    seen = Judge(*build_network_policies(namespace), pods=PODS)
    assert seen.allows(ENGINE, NODE, 53, "udp")
    assert not seen.allows(ENGINE, NODE, 6443)


@pytest.mark.parametrize("source", [FETCH, FETCHING])
def test_who_fetches_reaches_the_internet_and_nothing_inside(source: str) -> None:
    seen = judge()
    assert seen.allows(source, INTERNET, 443)
    assert not seen.allows(source, INTERNET, 443, "udp")
    for target in (METADATA, NODE, OTHER_ENGINE, STRANGER, GATEWAY):
        assert not seen.allows(source, target, 443)


def test_with_the_strict_profile_only_the_ranges_that_are_named_are_reached() -> None:
    strict = judge(profile="strict", dedicatedPools=True, egressAllow=["10.88.0.0/24"])
    assert strict.allows(FETCH, NODE, 443)
    assert not strict.allows(FETCH, INTERNET, 443)
    closed = judge(profile="strict", dedicatedPools=True)
    assert not closed.allows(FETCH, INTERNET, 443)


def test_no_range_opens_the_metadata_service() -> None:
    seen = judge(egressAllow=["169.254.0.0/16"])
    assert seen.allows(FETCH, "169.254.1.1", 80)
    assert not seen.allows(FETCH, METADATA, 80)


def test_pods_of_gangs_reach_each_other_on_every_port_and_nobody_else_does() -> None:
    leader, worker = build_replica_pods(
        gang_template(of=build_model(storage={"mode": "claim", "accessMode": "ReadWriteMany"})),
        revision="abc",
        ordinal=0,
        attempt=0,
    )
    places = {"10.244.0.41": leader, "10.244.0.42": worker}
    pods = [pod(address, "team-a", made["metadata"]["labels"]) for address, made in places.items()]
    first, second = places
    seen = Judge(*build_network_policies(tenant_namespace()), pods=[*PODS, *pods])
    for port in (29500, CONTROL_PORT, 40000):
        assert seen.allows(first, second, port)
        assert seen.allows(second, first, port)
        for other in (ENGINE, FETCH, APP, OTHER_ENGINE, STRANGER, GATEWAY):
            assert not seen.allows(other, second, port)
            assert not seen.allows(second, other, port)
    assert not seen.allows(first, INTERNET, 443)


def test_pods_that_train_together_reach_each_other_and_neither_replicas_nor_a_pod_that_trains_alone() -> None:
    def labels(size: int, rank: int) -> dict[str, str]:
        member = Member("tune-train-1", rank, size)
        return {"llmos.dev/component": "train", "llmos.dev/job": "tune", **build_member_labels(member)}

    first, second, alone, gang = "10.244.0.41", "10.244.0.42", "10.244.0.43", "10.244.0.44"
    pods = [
        pod(first, "team-a", labels(2, 0)),
        pod(second, "team-a", labels(2, 1)),
        pod(alone, "team-a", labels(1, 0)),
        pod(gang, "team-a", {**REPLICA, "llmos.dev/gang-size": "2"}),
    ]
    seen = Judge(*build_network_policies(tenant_namespace()), pods=[*PODS, *pods])
    for port in (29500, 40000):
        assert seen.allows(first, second, port)
        assert seen.allows(second, first, port)
        for other in (ENGINE, FETCH, APP, OTHER_ENGINE, STRANGER, GATEWAY, alone, gang):
            assert not seen.allows(other, second, port)
            assert not seen.allows(second, other, port)
    assert not seen.allows(first, INTERNET, 443)


def test_all_that_is_made_is_marked_as_the_tenant_s_and_goes_with_it() -> None:
    for manifest in build_isolation(tenant_namespace(), {"nvidia.com/gpu": 4}):
        metadata = manifest["metadata"]
        if manifest["kind"] == "Namespace":
            assert metadata["uid"] == "uid"
        elif manifest["kind"] != "ServiceAccount":
            assert metadata["labels"]["llmos.dev/tenant"] == "a"
            assert [owner["kind"] for owner in metadata["ownerReferences"]] == ["Tenant"]
            assert metadata["namespace"] == "team-a"


def test_of_what_belongs_to_others_only_a_few_fields_are_written() -> None:
    made = {m["kind"]: m for m in build_isolation(tenant_namespace(), {})}
    assert set(made["ServiceAccount"]) == {"apiVersion", "kind", "metadata", "automountServiceAccountToken"}
    assert set(made["Namespace"]) == {"apiVersion", "kind", "metadata"}


def test_claims_have_a_limit_where_the_tenant_has_one() -> None:
    def find_hard(**spec: Any) -> dict[str, str]:
        tenant = Tenant.model_validate(build_tenant("a", "team-a", **spec))
        made = build_isolation(TenantNamespace(tenant, "team-a", "uid", Settings()), {})
        (hard,) = (m["spec"]["hard"] for m in made if m["kind"] == "ResourceQuota")
        return {name: hard[name] for name in ("requests.storage", "persistentvolumeclaims") if name in hard}

    assert find_hard() == {}
    assert find_hard(storage={"size": "500Gi"}) == {"requests.storage": "500Gi"}
    assert find_hard(storage={"claims": 0}) == {"persistentvolumeclaims": "0"}
    both = {"requests.storage": "500Gi", "persistentvolumeclaims": "20"}
    assert find_hard(storage={"size": "500Gi", "claims": 20}) == both


def test_the_groups_of_the_tenant_are_bound_to_the_roles_of_the_chart() -> None:
    namespace = tenant_namespace(settings=Settings(chart_name="models"))
    bindings = [m for m in build_isolation(namespace, {}) if m["kind"] == "RoleBinding"]
    assert {(b["subjects"][0]["name"], b["roleRef"]["name"]) for b in bindings} == {
        ("llmos:a:admin", "models-tenant-admin"),
        ("llmos:a:user", "models-tenant-user"),
    }
