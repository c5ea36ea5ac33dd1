"""What takes its time where tenants are kept apart: gateways that tell late, new policies, ends that are slow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from llmos.api.load import GatewayLoad, TokenUse
from llmos.api.names import COMPONENT_GATEWAY, LABEL_COMPONENT
from llmos.api.tenancy import build_account
from llmos_operator.kube.resources import LLM_MODELS, NAMESPACES, NETWORK_POLICIES, RESOURCE_QUOTAS, TENANTS
from llmos_operator.planning.isolation import SETTLING_S, Doors
from llmos_operator.planning.quota_counted import FIRST_COUNT_S
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.budget_board import GIVE_UP_S, PATIENCE_S
from llmos_operator.reconcilers.isolation import LOOK_S, SETTLING_LOOK_S
from tests.operator.reconcilers.tenants import build_tenant, surroundings
from tests.operator.reconcilers.test_isolation import look, world_of
from tests.operator.reconcilers.world import NAMESPACE, TellingKube, World, build_model, build_pool, condition


def build_budget_report(world: World, gateway: str) -> GatewayLoad:
    """Return what a gateway tells that keeps the budget of the Tenant that is there now."""
    uses = {build_account("a", find_uid(world)): (TokenUse(window="day", start_s=0, used=7),)}
    return GatewayLoad(gateway=gateway, boot="b", tenants=uses)


async def test_a_tenant_that_was_deleted_waits_until_no_gateway_keeps_its_budget() -> None:
    world = world_of(tokens={"perDay": "1k"})
    await look(world)
    world.context.budgets.take(build_budget_report(world, "gateway-1"), world.time)
    await world.kube.delete(TENANTS, "a")
    message = condition(await look(world))["message"]
    assert (
        "Token budget in gateway gateway-1 (it goes with the last request, once the gateway and its store answer)."
        in message
    )
    world.context.budgets.take(GatewayLoad(gateway="gateway-1", boot="b"), world.time)
    await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []
    assert not world.context.budgets.is_needed()


def find_uid(world: World) -> str:
    return str(world.kube.all(TENANTS)[0]["metadata"]["uid"])


async def test_a_tenant_that_was_deleted_waits_for_each_gateway_that_is_ready_and_has_not_told_this_operator() -> None:
    gateways = [
        build_gateway(name, is_ready=is_ready) for name, is_ready in (("told", True), ("late", True), ("x", False))
    ]
    world = world_of(*gateways)
    await look(world)
    await world.kube.delete(TENANTS, "a")
    assert "Token budget in gateway late, told (" in condition(await look(world))["message"]
    world.context.budgets.take(GatewayLoad(gateway="told", boot="b"), world.time)
    assert "Token budget in gateway late (" in condition(await look(world))["message"]
    world.context.budgets.clear()
    assert "Token budget in gateway late, told (" in condition(await look(world))["message"]
    for name in ("told", "late"):
        world.context.budgets.take(GatewayLoad(gateway=name, boot=name), world.time)
    await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []


async def test_a_gateway_that_is_ready_and_never_tells_holds_a_tenant_up_for_a_while_only_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = world_of(build_gateway("cut-off", is_ready=True))
    await look(world)
    await world.kube.delete(TENANTS, "a")
    assert "Token budget in gateway cut-off (" in condition(await look(world))["message"]
    world.pass_time(GIVE_UP_S - 1)
    assert "Token budget in gateway cut-off (" in condition(await look(world))["message"]
    world.pass_time(2)
    with caplog.at_level(logging.INFO, logger="llmos.audit"):
        await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []
    event = world.kube.events[-1]
    assert (event["type"], event["regarding"]["name"]) == ("Warning", "a")
    assert "gateway cut-off" in event["note"]
    told = [vars(record)["fields"]["audit"] for record in caplog.records]
    assert [(each["tenant"], each["name"]) for each in told if each["action"] == "give-up"] == [("a", "cut-off")]


async def test_a_new_leader_gives_gateways_the_time_to_tell_however_long_a_tenant_has_waited() -> None:
    world = world_of(build_gateway("late", is_ready=True))
    await look(world)
    await world.kube.delete(TENANTS, "a")
    await look(world)
    world.pass_time(2 * GIVE_UP_S)
    world.context.budgets.clear()
    for waited_s in (0, PATIENCE_S - 1):
        world.pass_time(waited_s)
        assert "Token budget in gateway late (" in condition(await look(world))["message"]
    # Whoever tells that it keeps a budget has as long to drop it.
    world.context.budgets.take(build_budget_report(world, "late"), world.time)
    assert "Token budget in gateway late (" in condition(await look(world))["message"]
    world.pass_time(PATIENCE_S - 1)
    # It is silent again, and has as long as at first.
    assert "Token budget in gateway late (" in condition(await look(world))["message"]
    world.pass_time(PATIENCE_S)
    await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []


async def test_a_gateway_that_tells_and_cannot_drop_a_budget_holds_a_tenant_up_for_a_while_only_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its store is away: it answers, and what it tells stays the same."""
    world = world_of(build_gateway("stuck", is_ready=True))
    await look(world)
    stuck = build_budget_report(world, "stuck")
    await world.kube.delete(TENANTS, "a")
    for seconds in (0, GIVE_UP_S - 1):
        world.pass_time(seconds)
        world.context.budgets.take(stuck, world.time)
        assert "Token budget in gateway stuck (" in condition(await look(world))["message"]
    world.pass_time(2)
    world.context.budgets.take(stuck, world.time)
    with caplog.at_level(logging.INFO, logger="llmos.audit"):
        await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []
    event = world.kube.events[-1]
    assert (event["type"], event["regarding"]["name"]) == ("Warning", "a")
    assert "gateway stuck still keeps its token budget" in event["note"]
    assert "kubectl logs" in event["note"]
    told = [vars(record)["fields"]["audit"] for record in caplog.records]
    (audit,) = [each for each in told if each["action"] == "give-up"]
    assert (audit["name"], audit["old"]) == ("stuck", "keeps a token budget")
    assert not world.context.budgets.is_needed()


async def test_the_time_to_drop_a_budget_begins_when_nothing_can_use_it_any_more() -> None:
    model = {**build_model(), "metadata": {"name": "smollm2", "namespace": NAMESPACE}}
    world = world_of(build_gateway("slow", is_ready=True))
    await look(world)
    slow = build_budget_report(world, "slow")
    world.kube.put(model)
    await world.kube.delete(TENANTS, "a")
    for _ in range(2):
        world.pass_time(GIVE_UP_S)
        world.context.budgets.take(slow, world.time)
        assert "LLMModel" in condition(await look(world))["message"]
    world.kube.finish_deletion(LLM_MODELS, "smollm2", NAMESPACE)
    for seconds in (0, PATIENCE_S - 1):
        world.pass_time(seconds)
        world.context.budgets.take(slow, world.time)
        assert "Token budget in gateway slow (" in condition(await look(world))["message"]
    world.pass_time(1)
    world.context.budgets.take(slow, world.time)
    await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []


def build_gateway(name: str, *, is_ready: bool) -> dict[str, Any]:
    labels = {LABEL_COMPONENT: COMPONENT_GATEWAY}
    container = {"name": "gateway", "args": ["--cache-salt-secret-file=/salt"]}
    ready = {"type": "Ready", "status": str(is_ready)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "llmos-system", "labels": labels},
        "spec": {"containers": [container]},
        "status": {"phase": "Running", "conditions": [ready]},
    }


async def test_ports_that_are_open_while_policies_are_new_settle_and_are_tried_again_soon() -> None:
    is_open = True

    async def probe(addresses: Mapping[str, str]) -> dict[str, Doors]:
        return {name: Doors(control=True, engine=is_open) for name in addresses}

    world = World(build_model(), build_pool())
    await world.model()
    await world.pool()
    world.start_pods()
    for item in (build_tenant("a", NAMESPACE), *surroundings(NAMESPACE)):
        world.kube.put(item)
    world.context = replace(world.context, settings=Settings(probes_ports=True), probe_doors=probe)
    for seconds in (0, SETTLING_LOOK_S, 2 * SETTLING_LOOK_S):
        world.pass_time(seconds)
        result = await world.reconcile("Tenant", "a", "")
        assert result.requeue_after_s == SETTLING_LOOK_S
        for each in (await look(world), await world.pool()):
            told = condition(each, "IsolationReady")
            assert (told["status"], told["reason"]) == ("Unknown", "PoliciesSettling")
    is_open = False
    world.pass_time(SETTLING_LOOK_S)
    assert condition(await look(world), "IsolationReady")["status"] == "True"
    # One that is put back is as new as one that is made.
    is_open = True
    world.pass_time(2 * SETTLING_S)
    policy = world.kube.stored(NETWORK_POLICIES, NAMESPACE, "llmos-default-deny")
    world.kube.put({**policy, "spec": {**policy["spec"], "ingress": [{}]}})
    for seconds, status in ((0, "Unknown"), (LOOK_S, "Unknown"), (SETTLING_S, "False")):
        world.pass_time(seconds)
        assert condition(await look(world), "IsolationReady")["status"] == status


COUNTS = [f"count/{kind}.llmos.dev" for kind in ("finetunejobs", "inferencepools", "llmmodels")]


def stop_counting(world: World) -> None:
    """From now on there is no quota controller."""
    assert isinstance(world.kube, TellingKube)
    world.kube.counts_quotas = False


def count(world: World, *without: str) -> None:
    """The quota controller has looked at all quotas, and knows all kinds but some."""
    for quota in world.kube.all(RESOURCE_QUOTAS):
        hard = quota["spec"]["hard"]
        used = {name: "0" for name in hard if name not in without}
        world.kube.set_status(RESOURCE_QUOTAS, quota["metadata"]["name"], NAMESPACE, hard=hard, used=used)


async def test_a_tenant_says_which_quota_refuses_everything_because_nobody_has_counted_and_when_that_is_over() -> None:
    """As after an installation: the quota controller does not know the new kinds, and looks again after minutes."""
    world = world_of()
    stop_counting(world)
    fresh = condition(await look(world), "QuotaCounted")
    assert (fresh["status"], fresh["reason"]) == ("Unknown", "QuotaNotCounted")
    assert condition(await look(world))["status"] == "True", "a quota that was made a moment ago is no problem yet"
    count(world, *COUNTS)
    world.pass_time(LOOK_S)
    refused = condition(await look(world), "QuotaCounted")
    assert (refused["status"], refused["reason"]) == ("False", "QuotaNotCounted")
    assert (
        f"ResourceQuota {NAMESPACE}/llmos-quota: status.used lacks {', '.join(COUNTS)}, so new " in refused["message"]
    )
    assert "kube-controller-manager" in refused["message"]
    assert condition(await look(world))["reason"] == "QuotaNotCounted"
    assert condition(await look(world), "IsolationReady")["status"] == "True"
    count(world)
    world.pass_time(LOOK_S)
    assert (await world.reconcile("Tenant", "a", "")).requeue_after_s is None
    assert condition(await look(world), "QuotaCounted")["status"] == "True"
    assert condition(await look(world))["status"] == "True"


async def test_a_quota_that_nobody_looks_at_is_a_problem_after_a_while_and_is_looked_at_again() -> None:
    world = world_of()
    stop_counting(world)
    await look(world)
    world.pass_time(FIRST_COUNT_S)
    assert (await world.reconcile("Tenant", "a", "")).requeue_after_s == LOOK_S
    told = condition(await look(world), "QuotaCounted")
    assert told["status"] == "False"
    assert "status.hard lacks" in told["message"]


async def test_a_quota_that_was_changed_a_moment_ago_is_no_problem_however_old_it_is() -> None:
    world = world_of()
    await look(world)
    world.pass_time(10 * FIRST_COUNT_S)
    stop_counting(world)  # The real one answers a moment after the change.
    (tenant,) = world.kube.all(TENANTS)
    world.kube.put({**tenant, "spec": {**tenant["spec"], "storage": {"claims": 5}}})
    changed = condition(await look(world), "QuotaCounted")
    assert (changed["status"], changed["reason"]) == ("Unknown", "QuotaNotCounted")
    assert condition(await look(world))["status"] == "True"
    world.pass_time(FIRST_COUNT_S)
    assert condition(await look(world), "QuotaCounted")["status"] == "False"


async def test_a_namespace_that_goes_is_one_line_of_the_audit_log_however_long_that_takes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(build_tenant("a", NAMESPACE, "other"), *surroundings(NAMESPACE, "other"))
    await look(world)
    going = world.kube.stored(NAMESPACES, "", "other")
    world.kube.put({**going, "metadata": {**going["metadata"], "finalizers": ["somebody/s"]}})
    await world.kube.delete(NAMESPACES, "other")
    (tenant,) = world.kube.all(TENANTS)
    world.kube.put({**tenant, "spec": {"namespaces": [NAMESPACE]}})
    with caplog.at_level(logging.INFO, logger="llmos.audit"):
        for _ in range(3):
            await look(world)
            world.pass_time(LOOK_S)
    told = [vars(record)["fields"]["audit"] for record in caplog.records]
    assert [each["name"] for each in told if each["kind"] == "Namespace"] == ["other"]
