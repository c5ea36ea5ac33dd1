"""The quota in a small cluster: tenants, pools and the pass that gives out accelerators, against a fake API server."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from llmos.api.names import ANNOTATION_QUOTA, LABEL_SERVING
from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import TENANTS
from llmos_operator.planning.quota_record import read_record
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.keys import Key
from llmos_operator.reconcilers.quota import RECLAIM_S
from llmos_operator.reconcilers.quota_board import QUOTA, Pass
from llmos_operator.reconcilers.registry import RECONCILERS
from tests.operator.reconcilers.quota_world import CLASS, Cluster, gpu_pool, tenant
from tests.operator.reconcilers.world import NAMESPACE, condition


async def test_without_a_tenant_pods_have_no_gate_and_the_pool_says_nothing_of_quota() -> None:
    world = Cluster(gpu_pool("chat", replicas=2))
    await world.settle()
    assert len(world.held(NAMESPACE)) == 2
    assert not any(ANNOTATION_QUOTA in pod["metadata"]["annotations"] for pod in world.pods())
    types = [each["type"] for each in world.status("chat")["status"]["conditions"]]
    assert "Admitted" not in types


async def test_a_pool_within_its_guarantee_is_admitted_pinned_and_says_so() -> None:
    world = Cluster(tenant("a", NAMESPACE), gpu_pool("chat", replicas=2))
    await world.turn()
    assert [world.pin(pod) for pod in world.pods()] == ["n1", "n1"]
    assert not any(world.is_gated(pod) for pod in world.pods())
    await world.settle()
    stored = world.status("chat")
    assert condition(stored, "Admitted")["status"] == "True"
    assert condition(stored)["reason"] == "Ready"
    assert world.tenant_status("a")["accelerators"] == "2/2"
    assert condition({"status": world.tenant_status("a")}, "Guaranteed")["status"] == "True"


async def test_a_second_look_at_everything_writes_nothing() -> None:
    world = Cluster(tenant("a", NAMESPACE), tenant("b", "team-b"), gpu_pool("chat", replicas=6))
    await world.settle()
    world.pass_time(30)
    await world.settle(2)
    world.kube.forget_writes()
    await world.turn()
    assert world.kube.changes == []
    assert world.kube.writes == []


async def test_what_the_quota_does_not_allow_waits_holds_nothing_and_is_told_once() -> None:
    world = Cluster(tenant("a", NAMESPACE, borrowLimit=1), gpu_pool("chat", replicas=4))
    await world.settle()
    assert len(world.held(NAMESPACE)) == 3
    stored = world.status("chat")
    admitted = condition(stored, "Admitted")
    assert (admitted["status"], admitted["reason"]) == ("False", "QuotaExceeded")
    assert "Tenant a holds 3 of at most 3 h100; this needs 1" in admitted["message"]
    assert "raise guaranteed or borrowLimit" in admitted["message"]
    assert condition(stored)["reason"] == "QuotaExceeded"
    assert stored["status"]["accelerators"] == 3
    events = [event["reason"] for event in world.kube.events if event["regarding"]["name"] == "chat"]
    assert events.count("QuotaExceeded") == 1
    assert "Unschedulable" not in events
    assert world.tenant_status("a")["waiting"] == 1


@pytest.mark.parametrize(
    ("objects", "pool", "reason", "words"),
    [
        ((tenant("b", "team-b"),), gpu_pool("chat"), "NoTenant", "Add the namespace to a Tenant"),
        (
            (tenant("a", NAMESPACE, guaranteed=4),),
            gpu_pool("chat", accelerator={"class": CLASS, "count": 3}, replicas=2),
            "QuotaExceeded",
            "leave fewer idle",
        ),
        (
            (tenant("a", NAMESPACE, guaranteed=4), gpu_pool("other", "team-b"), tenant("b", "team-b", guaranteed=0)),
            gpu_pool("chat", accelerator={"class": CLASS, "count": 4}),
            "WaitsForReclaim",
            "to make room for it",
        ),
    ],
)
async def test_why_a_pool_waits_is_told_with_what_would_help(
    objects: tuple[dict[str, Any], ...], pool: dict[str, Any], reason: str, words: str
) -> None:
    world = Cluster(*objects)
    await world.settle(2)
    world.kube.put(pool)
    await world.settle(2)
    admitted = condition(world.status("chat"), "Admitted")
    assert (admitted["reason"], words in admitted["message"]) == (reason, True), admitted


async def roll_out(world: Cluster, turns: int = 30) -> None:
    """Change what the engine is started with, and let time pass."""
    pool = world.status("chat")
    args = {"max-num-seqs": "7"}
    world.kube.put({**pool, "spec": {**pool["spec"], "engine": {**pool["spec"]["engine"], "args": args}}})
    for _ in range(turns):
        world.pass_time(30)
        await world.turn()
        world.bind()
        world.end_pods()


async def test_a_rollout_that_a_full_quota_keeps_standing_says_so_and_keeps_no_room_from_others() -> None:
    pools = gpu_pool("chat", replicas=2), gpu_pool("other", "team-b")
    world = Cluster(tenant("a", NAMESPACE, borrowLimit=0), tenant("b", "team-b", guaranteed=0), *pools)
    await world.settle()
    await roll_out(world)
    assert not any(read_record(pod["metadata"]).reservation for pod in world.pods())
    for kind in ("Ready", "Admitted", "Progressing"):
        told = condition(world.status("chat"), kind)
        assert told["reason"] == "QuotaExceeded"
        assert "Tenant a holds 2 of at most 2 h100; this needs 1" in told["message"]
        assert "The rollout stands still" in told["message"]
        assert "rollout.maxUnavailable: 1" in told["message"]


async def test_a_rollout_within_a_full_quota_goes_on_where_one_replica_may_be_missing() -> None:
    pool = gpu_pool("chat", replicas=2, rollout={"maxUnavailable": 1})
    world = Cluster(tenant("a", NAMESPACE, borrowLimit=0), pool)
    await world.settle()
    before = world.held(NAMESPACE)
    await roll_out(world)
    assert condition(world.status("chat"))["reason"] == "Ready"
    assert len(world.held(NAMESPACE)) == 2
    assert not set(before) & set(world.held(NAMESPACE))


async def test_a_pool_that_waits_for_its_first_replicas_is_not_told_of_a_rollout() -> None:
    world = Cluster(tenant("a", NAMESPACE, guaranteed=1, borrowLimit=0), gpu_pool("chat", replicas=2))
    await world.settle()
    assert "rollout" not in condition(world.status("chat"), "Admitted")["message"]


async def test_namespaces_of_no_tenant_get_what_the_installation_allows() -> None:
    world = Cluster(tenant("b", "team-b"), gpu_pool("chat", replicas=2), settings=Settings(untenanted=((CLASS, 1),)))
    await world.settle()
    assert len(world.held(NAMESPACE)) == 1


async def test_a_borrower_drains_for_a_guarantee_and_its_replacement_waits() -> None:
    world = Cluster(tenant("a", NAMESPACE), tenant("b", "team-b"), gpu_pool("burst", "team-b", replicas=4))
    await world.settle()
    assert len(world.held("team-b")) == 4
    world.kube.put(gpu_pool("chat", replicas=2))
    await world.turn()
    asked = [pod for pod in world.pods() if pod["metadata"]["labels"][LABEL_SERVING] == "false"]
    assert len(asked) == 2
    assert {read_record(pod["metadata"]).stop is not None for pod in asked} == {True}
    for _ in range(4):
        await world.turn()
        world.end_pods()
        world.bind()
    await world.settle()
    assert (len(world.held("team-b")), len(world.held(NAMESPACE))) == (2, 2)
    waiting = [pod for pod in world.pods() if world.is_gated(pod)]
    assert [pod["metadata"]["namespace"] for pod in waiting] == ["team-b"] * len(waiting)
    assert len(waiting) == 2
    assert condition(world.status("burst", "team-b"), "Admitted")["reason"] == "QuotaExceeded"
    status = world.tenant_status("b")
    assert (status["accelerators"], status["waiting"]) == ("2/2", 2)


async def test_nobody_is_asked_to_go_before_the_minimum_run_time_of_the_installation() -> None:
    settings = Settings(min_run_s=300)
    burst = gpu_pool("burst", "team-b", replicas=4)
    world = Cluster(tenant("a", NAMESPACE), tenant("b", "team-b"), burst, settings=settings)
    await world.settle()

    def asked() -> int:
        return sum(pod["metadata"]["labels"][LABEL_SERVING] == "false" for pod in world.pods())

    world.kube.put(gpu_pool("chat", replicas=2))
    world.pass_time(200)
    await world.turn()
    assert asked() == 0
    world.pass_time(100)
    await world.turn()
    assert asked() == 2


async def test_a_replica_that_is_not_bound_in_time_is_replaced_by_one_that_remembers_its_attempts() -> None:
    world = Cluster(tenant("a", NAMESPACE), gpu_pool("chat"))
    await world.turn()
    (first,) = world.pod_names()
    for attempt in (1, 2):
        world.pass_time(130)
        for _ in range(3):
            await world.turn()
        (pod,) = world.pods()
        record = read_record(pod["metadata"])
        assert (record.attempts, record.is_withdrawn, record.placement) == (attempt, False, None)
        assert pod["metadata"]["name"] != first
        assert world.is_gated(pod)
        assert condition(world.status("chat"), "Admitted")["reason"] == "NotBoundInTime"
        first = pod["metadata"]["name"]
        world.pass_time(40)
        await world.turn()
        assert world.held(NAMESPACE) == [first]
    assert "Unschedulable" not in [event["reason"] for event in world.kube.events]


async def test_a_decision_that_could_not_be_written_is_not_counted_as_one() -> None:
    world = Cluster(tenant("a", NAMESPACE), gpu_pool("chat"))
    passes: list[Pass | None] = []
    world.context.quota.on_pass = passes.append
    world.kube.fail_next("patch", "Pod", Forbidden("a webhook says no"))
    await world.settle()
    actions = [[audit.action for audit in each.audits] for each in passes if each is not None]
    assert actions[0] == [], "it was refused"
    assert [action for of_pass in actions for action in of_pass] == ["admit"]


async def test_pools_learn_that_quota_is_on_also_when_the_first_pass_failed() -> None:
    world = Cluster(gpu_pool("chat"))
    await world.settle()
    world.kube.put(tenant("a", NAMESPACE))
    world.told.clear()
    world.kube.fail_next("list", "Node", Unavailable("etcd is gone"))
    with pytest.raises(Unavailable):
        await world.quota()
    assert world.told == []
    await world.quota()
    assert Key("InferencePool", NAMESPACE, "chat") in world.told


async def test_how_things_stand_is_told_once_a_second_where_telling_takes_long_and_decided_all_the_same() -> None:
    world = Cluster(tenant("a", NAMESPACE, guaranteed=1, borrowLimit=0), gpu_pool("chat", replicas=2))
    await world.settle()
    board, passes = world.context.quota, list[Pass]()
    board.on_pass = lambda each: passes.append(each) if each is not None else None

    async def look(after_s: float) -> float | None:
        world.pass_time(after_s)
        board.next_pass = None
        return (await RECONCILERS[QUOTA.kind](world.context, QUOTA)).requeue_after_s

    board.note_report(world.context.now(), 0.03)
    world.kube.put(tenant("a", NAMESPACE, guaranteed=2, borrowLimit=0))
    assert await look(0.3) == RECLAIM_S, "it is told then"
    (silent,) = passes
    assert (silent.report, [audit.action for audit in silent.audits]) == (None, ["admit"])
    assert board.pool(Key("InferencePool", NAMESPACE, "chat")) is not None, "what was told last stands"
    await look(0.31)
    assert passes[-1].report is not None
    assert board.pool(Key("InferencePool", NAMESPACE, "chat")) is None
    board.note_report(world.context.now(), 0.005)
    await look(0.0)
    assert passes[-1].report is not None, "what costs little is always told"


async def test_gates_are_lifted_when_the_last_tenant_is_deleted() -> None:
    world = Cluster(tenant("a", NAMESPACE, guaranteed=0, borrowLimit=0), gpu_pool("chat", replicas=2))
    await world.settle()
    assert world.held(NAMESPACE) == []
    await world.kube.delete(TENANTS, "a")
    await world.reconcile("Tenant", "a", "")
    await world.settle()
    assert len(world.held(NAMESPACE)) == 2
    assert "Admitted" not in [each["type"] for each in world.status("chat")["status"]["conditions"]]
    world.kube.forget_writes()
    for _ in range(3):
        world.pass_time(60)
        await world.turn()
    assert world.kube.changes == []


async def test_pods_that_ran_before_the_first_tenant_stay_and_count() -> None:
    world = Cluster(gpu_pool("chat", replicas=3))
    await world.settle()
    before = world.held(NAMESPACE)
    world.kube.put(tenant("a", NAMESPACE))
    await world.settle()
    assert world.held(NAMESPACE) == before
    status = world.tenant_status("a")
    assert (status["accelerators"], status["borrowed"]) == ("3/2", 1)


async def test_pods_that_had_no_node_when_the_first_tenant_came_hold_their_quota() -> None:
    world = Cluster(gpu_pool("chat", replicas=2))
    await world.turn()
    assert not any(pod["spec"].get("nodeName") for pod in world.pods())
    world.kube.put(tenant("a", NAMESPACE, borrowLimit=0))
    world.kube.put(gpu_pool("late"))
    for _ in range(3):
        await world.turn()
    assert world.tenant_status("a")["accelerators"] == "2/2"
    assert condition(world.status("late"), "Admitted")["reason"] == "QuotaExceeded"
    await world.settle()
    assert len(world.held(NAMESPACE)) == 2


async def test_a_pod_from_before_the_first_tenant_that_finds_no_node_is_replaced_by_one_that_waits() -> None:
    world = Cluster(gpu_pool("chat"))
    await world.turn()
    world.kube.put(tenant("a", NAMESPACE, guaranteed=0, borrowLimit=0))
    world.pass_time(130)
    for _ in range(4):
        await world.turn()
    (only,) = world.pods()
    assert world.is_gated(only)
    assert world.tenant_status("a")["accelerators"] == "0/0"


async def test_more_guaranteed_than_there_is_is_told_with_its_numbers() -> None:
    world = Cluster(tenant("a", NAMESPACE, guaranteed=3), tenant("b", "team-b", guaranteed=3))
    await world.settle()
    for name in ("a", "b"):
        told = condition({"status": world.tenant_status(name)}, "Guaranteed")
        assert (told["status"], told["reason"]) == ("False", "Overcommitted")
        assert "6 h100 are guaranteed to all together, and the nodes have 4" in told["message"]


async def test_a_pod_that_nobody_may_change_does_not_hold_up_the_others() -> None:
    world = Cluster(tenant("a", NAMESPACE), tenant("b", "team-b"), gpu_pool("chat"), gpu_pool("other", "team-b"))
    merge = world.kube.merge

    async def refuse(resource: Any, name: str, namespace: str, patch: Any) -> Any:
        if namespace == NAMESPACE:
            raise Forbidden("a webhook says no")
        return await merge(resource, name, namespace, patch)

    world.kube.merge = refuse  # type: ignore[method-assign]  # a webhook of the cluster
    await world.settle()
    assert (len(world.held(NAMESPACE)), len(world.held("team-b"))) == (0, 1)
    assert world.tenant_status("b")["accelerators"] == "1/2"


async def test_each_decision_is_one_line_of_the_audit_log(caplog: pytest.LogCaptureFixture) -> None:
    world = Cluster(tenant("a", NAMESPACE), gpu_pool("chat"))
    with caplog.at_level(logging.INFO, logger="llmos.audit"):
        await world.settle()
    (line,) = [record for record in caplog.records if record.name == "llmos.audit"]
    audit = vars(line)["fields"]["audit"]
    assert json.dumps(audit)
    assert (
        audit
        | {
            "action": "admit",
            "tenant": "a",
            "pool": f"{NAMESPACE}/chat",
            "accelerators": 1,
            "old": "waiting",
            "new": "n1 (h100)",
            "why": "The guarantee of its tenant covers it.",
        }
        == audit
    )
