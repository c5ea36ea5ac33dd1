"""What is made in a tenant's namespaces, taken away again, and told: against a fake cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from llmos.api.apikeys import StoredKey, build_key_secret
from llmos.api.isolation import CHECKS, Check, Finding, parse_findings
from llmos.api.names import LABEL_MANAGED_BY, LABEL_TENANT, MANAGED_BY
from llmos_operator.kube.client import Objects
from llmos_operator.kube.errors import Forbidden
from llmos_operator.kube.resources import (
    ADMISSION_BINDINGS,
    INFERENCE_POOLS,
    LIMIT_RANGES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    RESOURCE_QUOTAS,
    ROLE_BINDINGS,
    SERVICE_ACCOUNTS,
    TENANTS,
    Resource,
)
from llmos_operator.planning.isolation import SETTLING_S, Doors
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.isolation import FIRST_LOOK_S, LOOK_S
from tests.operator.reconcilers.tenants import backstop, build_namespace, build_tenant, surroundings
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, build_pool, condition

OWN_KINDS = (NETWORK_POLICIES, LIMIT_RANGES, RESOURCE_QUOTAS, ROLE_BINDINGS)
GPU = {
    "apiVersion": "llmos.dev/v1alpha1",
    "kind": "AcceleratorClass",
    "metadata": {"name": "h100"},
    "spec": {"memory": "80Gi"},
    "status": {"capacity": 16},
}


def world_of(*objects: dict[str, Any], **spec: Any) -> World:
    return World(build_tenant("a", NAMESPACE, **spec), *surroundings(NAMESPACE), *objects)


async def look(world: World, name: str = "a") -> dict[str, Any]:
    await world.reconcile("Tenant", name, "")
    return next(t for t in world.kube.all(TENANTS) if t["metadata"]["name"] == name)


def read_problems(item: dict[str, Any]) -> list[Finding]:
    return [f for f in parse_findings(condition(item, "IsolationReady")["message"]) if not f.is_ok]


async def test_everything_is_made_in_one_pass_and_found_in_order() -> None:
    world = world_of()
    tenant = await look(world)
    assert read_problems(tenant) == []
    assert condition(tenant, "IsolationReady")["reason"] == "Isolated"
    assert condition(tenant)["status"] == "True"
    assert all(world.kube.all(kind) for kind in OWN_KINDS)
    labels = world.kube.stored(NAMESPACES, "", NAMESPACE)["metadata"]["labels"]
    assert labels[LABEL_TENANT] == "a"
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert labels["made-by"] == "somebody"
    assert world.kube.stored(SERVICE_ACCOUNTS, NAMESPACE, "default")["automountServiceAccountToken"] is False


async def test_a_second_look_writes_nothing_and_a_look_counts_for_a_while() -> None:
    world = world_of()
    await look(world)
    world.pass_time(LOOK_S)
    world.kube.forget_writes()
    await look(world)
    assert world.kube.writes == []
    world.kube.forget_writes()
    assert (await world.reconcile("Tenant", "a", "")).requeue_after_s == LOOK_S
    assert NETWORK_POLICIES.kind not in {read.kind for read in world.kube.reads}


@pytest.mark.parametrize("kind", OWN_KINDS, ids=lambda kind: kind.kind)
async def test_what_is_taken_away_comes_back(kind: Any) -> None:
    world = world_of()
    await look(world)
    before = [item["metadata"]["name"] for item in world.kube.all(kind)]
    await world.kube.delete(kind, before[0], NAMESPACE)
    world.pass_time(LOOK_S)
    assert read_problems(await look(world)) == []
    assert [item["metadata"]["name"] for item in world.kube.all(kind)] == before


async def test_what_is_put_back_or_taken_away_is_one_line_of_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    world = world_of()
    await look(world)
    policy = world.kube.stored(NETWORK_POLICIES, NAMESPACE, "llmos-default-deny")
    world.kube.put({**policy, "spec": {**policy["spec"], "ingress": [{}]}})
    world.pass_time(LOOK_S)
    with caplog.at_level(logging.INFO, logger="llmos.audit"):
        await look(world)
        (line,) = [vars(record)["fields"]["audit"] for record in caplog.records]
        caplog.clear()
        await world.kube.delete(TENANTS, "a")
        await world.reconcile("Tenant", "a", "")
    assert line == {
        "action": "isolate",
        "tenant": "a",
        "kind": "NetworkPolicy",
        "namespace": NAMESPACE,
        "name": "llmos-default-deny",
        "old": "not as it was made",
        "new": "as it was made",
        "why": CHECKS[Check.NETWORK].enforced_by,
    }
    released = [vars(record)["fields"]["audit"] for record in caplog.records]
    assert {each["action"] for each in released} == {"release"}
    assert {each["kind"] for each in released} == {kind.kind for kind in (NAMESPACES, *OWN_KINDS)}


async def test_an_opening_that_somebody_adds_to_a_policy_is_closed_again() -> None:
    world = world_of()
    await look(world)
    policy = world.kube.stored(NETWORK_POLICIES, NAMESPACE, "llmos-default-deny")
    world.kube.put({**policy, "spec": {**policy["spec"], "egress": [{}]}})
    world.pass_time(LOOK_S)
    await look(world)
    assert world.kube.stored(NETWORK_POLICIES, NAMESPACE, "llmos-default-deny")["spec"]["egress"] == []


async def test_a_policy_of_somebody_else_that_selects_our_pods_is_named() -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "open", "namespace": NAMESPACE},
        "spec": {"podSelector": {}, "ingress": [{}]},
    }
    (problem,) = read_problems(await look(world_of(policy)))
    assert problem.check is Check.OTHER_POLICIES
    assert "open" in problem.seen


async def test_a_namespace_that_does_not_exist_is_told_and_not_made() -> None:
    world = World(build_tenant("a", "nowhere"), *backstop())
    tenant = await look(world)
    assert condition(tenant, "NamespacesOwned")["reason"] == "NamespaceNotFound"
    assert "nowhere" in condition(tenant)["message"]
    assert world.kube.all(NAMESPACES) == []
    assert (await world.reconcile("Tenant", "a", "")).requeue_after_s == LOOK_S


async def test_a_default_account_that_is_not_there_yet_is_waited_for() -> None:
    world = World(build_tenant("a", NAMESPACE), *backstop(), build_namespace(NAMESPACE))
    (problem,) = read_problems(await look(world))
    assert problem.check is Check.TOKEN
    assert world.kube.all(SERVICE_ACCOUNTS) == []


async def test_what_the_api_server_refuses_is_told_in_its_words() -> None:
    world = world_of()
    world.kube.fail_next("apply", "ResourceQuota", Forbidden("no quotas for you"))
    (problem,) = read_problems(await look(world))
    assert problem.check is Check.QUOTA
    assert "no quotas for you" in problem.seen


async def test_a_missing_or_toothless_backstop_is_told() -> None:
    world = World(build_tenant("a", NAMESPACE), build_namespace(NAMESPACE))
    assert {p.check for p in read_problems(await look(world))} >= {Check.BACKSTOP}
    world = world_of()
    binding = world.kube.stored(ADMISSION_BINDINGS, "", "llmos-tenant-pods")
    world.kube.put({**binding, "spec": {**binding["spec"], "validationActions": ["Warn"]}})
    assert [p.check for p in read_problems(await look(world))] == [Check.BACKSTOP]


async def test_a_gateway_without_a_secret_for_salts_is_told() -> None:
    gateway = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "gateway-1",
            "namespace": "llmos-system",
            "labels": {"llmos.dev/component": "gateway"},
        },
        "spec": {"containers": [{"name": "gateway", "args": ["run"]}]},
    }
    (problem,) = read_problems(await look(world_of(gateway)))
    assert (problem.check, "gateway-1" in problem.seen) == (Check.SALT, True)
    salted = {"name": "gateway", "env": [{"name": "LLMOS_CACHE_SALT_SECRET_FILE", "value": "/etc/salt"}]}
    assert read_problems(await look(world_of({**gateway, "spec": {"containers": [salted]}}))) == []


async def test_a_pod_that_holds_accelerators_past_the_quota_is_named() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "notebook", "namespace": NAMESPACE},
        "spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
    }
    (problem,) = read_problems(await look(world_of(GPU, pod)))
    assert (problem.check, "notebook" in problem.seen) == (Check.ACCELERATORS, True)


async def test_a_look_does_not_fetch_the_pods_of_llmos_which_may_be_hundreds(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {LABEL_MANAGED_BY: MANAGED_BY}
    ours = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ours", "namespace": NAMESPACE, "labels": labels}}
    world = world_of(GPU, ours)
    shown: list[str] = []
    list_as_it_is = world.kube.list

    async def list_and_tell(resource: Resource, **selection: Any) -> Objects:
        listed = await list_as_it_is(resource, **selection)
        shown.extend(item["metadata"]["name"] for item in listed if resource == PODS)
        return listed

    monkeypatch.setattr(world.kube, "list", list_and_tell)
    assert read_problems(await look(world)) == []
    assert "ours" not in shown


async def test_a_namespace_that_leaves_is_given_back_and_one_that_stays_is_not_touched() -> None:
    world = World(build_tenant("a", NAMESPACE, "other"), *surroundings(NAMESPACE, "other"))
    await look(world)
    (tenant,) = world.kube.all(TENANTS)
    world.kube.put({**tenant, "spec": {"namespaces": [NAMESPACE]}})
    assert read_problems(await look(world)) == []
    for kind in OWN_KINDS:
        assert {item["metadata"]["namespace"] for item in world.kube.all(kind)} == {NAMESPACE}
    assert world.kube.stored(NAMESPACES, "", "other")["metadata"]["labels"] == {"made-by": "somebody"}
    assert "automountServiceAccountToken" not in world.kube.stored(SERVICE_ACCOUNTS, "other", "default")


async def test_a_tenant_that_was_deleted_goes_at_once_if_nothing_is_left_and_everything_with_it() -> None:
    world = world_of()
    await look(world)
    await world.kube.delete(TENANTS, "a")
    await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []
    assert [item for kind in OWN_KINDS for item in world.kube.all(kind)] == []
    assert LABEL_TENANT not in world.kube.stored(NAMESPACES, "", NAMESPACE)["metadata"]["labels"]


async def test_a_tenant_that_was_deleted_says_what_is_left_and_stays_closed_until_it_is_gone() -> None:
    key = StoredKey("0" * 12, "a-key", b"0" * 32, frozenset({NAMESPACE}), tenant="a")
    foreign = StoredKey("1" * 12, "b-key", b"1" * 32, frozenset({NAMESPACE}), tenant="b")
    secrets = [build_key_secret(each, "llmos-system") for each in (key, foreign)]
    world = world_of(*secrets, build_model(), build_pool())
    await look(world)
    await world.kube.delete(TENANTS, "a")
    tenant = await look(world)
    message = condition(tenant)["message"]
    assert condition(tenant)["reason"] == "Offboarding"
    for left in ("a-key", f"{NAMESPACE}/chat", f"{NAMESPACE}/smollm2", "llmos keys revoke"):
        assert left in message
    assert "b-key" not in message
    assert world.kube.all(NETWORK_POLICIES) != []


async def test_what_is_taken_away_from_a_tenant_that_is_being_deleted_comes_back_and_strict_stays_strict() -> None:
    world = world_of(build_model(), build_pool(modelRef={"name": "none"}), **STRICT)
    await look(world)
    await world.kube.delete(TENANTS, "a")
    for policy in world.kube.all(NETWORK_POLICIES):
        await world.kube.delete(NETWORK_POLICIES, policy["metadata"]["name"], NAMESPACE)
    world.context.sightings.forget("a")
    assert condition(await world.pool())["reason"] == "NotIsolated"
    world.pass_time(LOOK_S)
    await look(world)
    assert len(world.kube.all(NETWORK_POLICIES)) == 10
    assert condition(await world.pool(), "IsolationReady")["status"] == "True"


def find_all(world: World, kind: Any) -> list[dict[str, Any]]:
    return [item for item in world.kube.all(kind) if item["metadata"]["namespace"] == NAMESPACE]


def find_deny(world: World) -> dict[str, Any]:
    return next(item for item in find_all(world, NETWORK_POLICIES) if item["metadata"]["name"] == "llmos-default-deny")


def assert_passed_on(world: World, tenant: str) -> None:
    """Everything in the namespace is the tenant's, and its policies were never away."""
    uid = world.kube.stored(TENANTS, "", tenant)["metadata"]["uid"]
    for kind in OWN_KINDS:
        for item in find_all(world, kind):
            assert item["metadata"]["labels"][LABEL_TENANT] == tenant
            assert [each["uid"] for each in item["metadata"]["ownerReferences"]] == [uid]
    labels = world.kube.stored(NAMESPACES, "", NAMESPACE)["metadata"]["labels"]
    assert labels[LABEL_TENANT] == tenant
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    policies = [write for write in world.kube.changes if write.name.startswith(f"{NAMESPACE}/llmos-default-deny")]
    assert [write.verb for write in policies] == ["apply"]
    subjects = {item["subjects"][0]["name"] for item in find_all(world, ROLE_BINDINGS)}
    assert subjects == {f"llmos:{tenant}:admin", f"llmos:{tenant}:user"}


async def test_a_namespace_that_moves_to_another_tenant_is_closed_all_the_time() -> None:
    world = World(build_tenant("a", NAMESPACE, "other"), *surroundings(NAMESPACE, "other"))
    await look(world)
    world.kube.put(build_tenant("b", NAMESPACE))
    assert condition(await look(world, "b"), "NamespacesOwned")["reason"] == "NamespaceTaken"
    world.kube.forget_writes()
    world.kube.put(build_tenant("a", "elsewhere"))
    await look(world)
    assert_passed_on(world, "b")
    world.pass_time(LOOK_S)
    world.kube.forget_writes()
    assert read_problems(await look(world, "b")) == []
    assert not {write.kind for write in world.kube.changes} & {kind.kind for kind in OWN_KINDS}


async def test_a_namespace_passes_from_a_deleted_tenant_to_the_next_without_being_open() -> None:
    world = world_of()
    await look(world)
    world.kube.put(build_tenant("b", NAMESPACE))
    world.kube.forget_writes()
    await world.kube.delete(TENANTS, "a")
    await world.reconcile("Tenant", "a", "")
    world.kube.collect_garbage()
    assert [item["metadata"]["name"] for item in world.kube.all(TENANTS)] == ["b"]
    assert_passed_on(world, "b")


async def test_a_tenant_that_cannot_be_read_keeps_its_namespace_closed_as_it_is() -> None:
    world = world_of(build_model(), build_pool())
    await look(world)
    await world.model()
    await world.pool()
    before = find_deny(world)
    (tenant,) = world.kube.all(TENANTS)
    world.kube.put({**tenant, "spec": {**tenant["spec"], "isolation": {"profile": "newer"}}})
    world.kube.put(build_tenant("b", NAMESPACE))
    world.pass_time(LOOK_S)
    for name in ("a", "b"):
        await look(world, name)
    assert find_deny(world) == before
    assert condition(await look(world))["reason"] == "InvalidSpec"
    assert "spec.isolation.profile" in condition(await look(world))["message"]
    world.context.sightings.forget("a")
    result = await world.reconcile("InferencePool", "chat")
    assert result.requeue_after_s is None or result.requeue_after_s > FIRST_LOOK_S
    assert condition(await world.pool(), "IsolationReady")["status"] == "True"


async def test_a_pool_tells_how_its_namespace_is_kept_apart() -> None:
    world = world_of(build_model(), build_pool())
    await look(world)
    await world.model()
    pool = await world.pool()
    assert read_problems(pool) == []
    assert condition(pool, "IsolationReady")["status"] == "True"


@pytest.mark.parametrize("is_enforced", [True, False])
async def test_ports_that_policies_close_are_tried_at_the_replicas_of_the_namespace(is_enforced: bool) -> None:
    tried: list[Mapping[str, str]] = []

    async def probe(addresses: Mapping[str, str]) -> dict[str, Doors]:
        tried.append(addresses)
        return {name: Doors(control=True, engine=not is_enforced) for name in addresses}

    world = world_of(build_model(), build_pool())
    world.context = replace(world.context, settings=Settings(probes_ports=True), probe_doors=probe)
    tenant = await look(world)
    assert "closed-ports: [team-a] no replica is ready" in condition(tenant, "IsolationReady")["message"]
    await world.model()
    await world.pool()
    (name,) = world.pod_names()
    world.start_pods()
    world.pass_time(SETTLING_S)
    told = await look(world), await world.pool()
    assert tried == [{}, {name: "10.0.0.1"}]
    for each in told:
        problems = [] if is_enforced else [Check.CLOSED_PORTS]
        assert [problem.check for problem in read_problems(each)] == problems
        assert "closed-ports: " in condition(each, "IsolationReady")["message"]


@pytest.mark.parametrize("is_dedicated", [True, False])
async def test_a_pool_with_a_connector_for_cached_prompts_is_told_unless_it_is_one_tenant_s_alone(
    is_dedicated: bool,
) -> None:
    engine = {"name": "vllm", "args": {"kv-transfer-config": "{}"}}
    world = world_of(build_model(), build_pool(engine=engine), isolation={"dedicatedPools": is_dedicated})
    await look(world)
    await world.model()
    problems = [problem.check for problem in read_problems(await world.pool())]
    assert problems == ([] if is_dedicated else [Check.KV_STORE])


async def test_an_operator_that_is_no_pod_tries_no_ports() -> None:
    assert "closed-ports" not in condition(await look(world_of()), "IsolationReady")["message"]


async def test_a_pool_of_no_tenant_says_nothing_about_isolation() -> None:
    world = World(build_model(), build_pool())
    types = [each["type"] for each in (await world.pool())["status"]["conditions"]]
    assert "IsolationReady" not in types


async def test_a_pool_that_is_looked_at_before_its_tenant_asks_again_soon() -> None:
    world = world_of(build_model(), build_pool())
    result = await world.reconcile("InferencePool", "chat")
    assert condition(world.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat"), "IsolationReady")["status"] == "Unknown"
    assert result.requeue_after_s is not None


async def test_an_operator_that_has_just_started_leaves_what_an_earlier_one_found() -> None:
    world = world_of(build_model(), build_pool(), **STRICT)
    await look(world)
    await world.model()
    before = condition(await world.pool(), "IsolationReady")
    assert before["status"] == "True"
    world.context.sightings.forget("a")
    after = await world.pool()
    assert condition(after, "IsolationReady") == before
    assert condition(after)["reason"] != "NotIsolated"


STRICT: dict[str, Any] = {"isolation": {"profile": "strict", "dedicatedPools": True}}


async def test_a_strict_tenant_s_pool_gets_no_replicas_before_it_is_known_to_be_kept_apart() -> None:
    pool = build_pool(modelRef={"name": "none"})
    world = world_of(pool, **STRICT)
    assert condition(await world.pool())["reason"] == "NotIsolated"
    assert world.pods() == []
    await look(world)
    assert condition(await world.pool())["reason"] != "NotIsolated"
