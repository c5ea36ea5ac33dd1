"""The quota in a small cluster: tenants, pools and the pass that gives out accelerators, against a fake API server."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from llmos.api.names import ANNOTATION_QUOTA, GATE_QUOTA, LABEL_SERVING
from llmos_operator.kube.errors import Forbidden, Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS, PODS, TENANTS
from llmos_operator.planning.quota_record import read_record
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.keys import Key
from llmos_operator.reconcilers.quota_board import QUOTA, Pass
from tests.operator.reconcilers.tenants import surroundings
from tests.operator.reconcilers.world import NAMESPACE, World, build_model, condition

GPU = "nvidia.com/gpu"
CLASS = "h100"


def tenant(name: str, *namespaces: str, guaranteed: int = 2, cohort: str = "all", **quota: int) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": {
            "namespaces": list(namespaces),
            "cohort": cohort,
            "quota": [{"class": CLASS, "guaranteed": guaranteed, **quota}],
        },
    }


def node(name: str = "n1", gpus: int = 4) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"gpu": "h100"}},
        "spec": {},
        "status": {"allocatable": {GPU: str(gpus)}, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def accelerator() -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "AcceleratorClass",
        "metadata": {"name": CLASS},
        "spec": {"memory": "80Gi", "nodeSelector": {"gpu": "h100"}},
        "status": {"observedGeneration": 1, "largestNode": 4, "capacity": 4, "nodes": 1},
    }


def gpu_pool(name: str, namespace: str = NAMESPACE, replicas: int = 1, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "llmos.dev/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "modelRef": {"name": "smollm2"},
            "engine": {"name": "simulator"},
            "accelerator": {"class": CLASS, "count": 1},
            "replicas": replicas,
            **spec,
        },
    }


class Cluster(World):
    """A world whose pools and quota are reconciled in turns, and whose scheduler obeys gates and pins."""

    def __init__(self, *objects: dict[str, Any], settings: Settings | None = None) -> None:
        models = [build_model() | {"metadata": {"name": "smollm2", "namespace": ns}} for ns in (NAMESPACE, "team-b")]
        super().__init__(node(), accelerator(), *models, *objects, settings=settings)
        self.told: list[Key] = []
        self.context.quota.on_news = self.told.append

    async def turn(self) -> None:
        """Everything that is due: pools, the quota, then whoever has news."""
        for item in self.kube.all(INFERENCE_POOLS):
            await self.reconcile("InferencePool", item["metadata"]["name"], item["metadata"]["namespace"])
        await self.quota()
        while self.told:
            key = self.told.pop()
            await self.reconcile(*key[::2], key.namespace)

    async def quota(self) -> None:
        self.pass_time(2)
        await self.reconcile(*QUOTA)

    async def settle(self, turns: int = 6) -> None:
        for _ in range(turns):
            await self.turn()
            self.bind()

    def bind(self) -> None:
        """Pods without a gate start on the node that they are pinned to."""
        for pod in self.pods():
            if self.is_gated(pod) or pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
                continue
            place = self.pin(pod) or "n1"
            namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
            self.kube.put({**pod, "spec": {**pod["spec"], "nodeName": place}})
            self.kube.set_status(
                PODS,
                name,
                namespace,
                phase="Running",
                startTime=self.stamp(),
                podIP="10.0.0.1",
                conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": self.stamp()}],
                containerStatuses=[{"name": "engine", "state": {"running": {"startedAt": self.stamp()}}}],
            )

    def end_pods(self) -> None:
        for pod in self.pods():
            if "deletionTimestamp" in pod["metadata"]:
                self.kube.finish_deletion(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])

    @staticmethod
    def is_gated(pod: dict[str, Any]) -> bool:
        return {"name": GATE_QUOTA} in pod["spec"].get("schedulingGates", [])

    @staticmethod
    def pin(pod: dict[str, Any]) -> str:
        affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
        terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
        return terms[0]["matchFields"][0]["values"][0] if terms else ""

    def held(self, namespace: str) -> list[str]:
        """Names of pods that hold an accelerator."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods()
            if pod["metadata"]["namespace"] == namespace and not self.is_gated(pod)
        ]

    def status(self, name: str, namespace: str = NAMESPACE) -> dict[str, Any]:
        return self.kube.stored(INFERENCE_POOLS, namespace, name)

    def tenant_status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.kube.stored(TENANTS, "", name)["status"]
        return status


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


def closing_world(*objects: dict[str, Any]) -> Cluster:
    """Tenant a holds its guarantee in a namespace that is kept apart; others may be there."""
    places = surroundings(NAMESPACE, "team-b")
    return Cluster(*places, tenant("a", NAMESPACE), gpu_pool("chat", replicas=2), *objects)


async def scale(world: Cluster, replicas: int) -> None:
    pool = world.status("chat")
    world.kube.put({**pool, "spec": {**pool["spec"], "replicas": replicas}})
    await world.settle(3)


def break_tenant(world: Cluster, name: str) -> None:
    """Store what a newer version might have written."""
    stored = world.kube.stored(TENANTS, "", name)
    world.kube.put({**stored, "spec": {**stored["spec"], "weight": "heavy"}})


async def test_the_only_tenant_keeps_the_quota_on_until_it_is_gone_and_gets_nothing_more() -> None:
    world = closing_world()
    await world.settle()
    await world.kube.delete(TENANTS, "a")
    await world.reconcile("Tenant", "a", "")
    await scale(world, 3)
    assert condition({"status": world.tenant_status("a")})["reason"] == "Offboarding"
    assert len(world.held(NAMESPACE)) == 2
    told = condition(world.status("chat"), "Admitted")
    assert told["reason"] == "TenantClosed"
    assert "Tenant a is being deleted" in told["message"]
    await world.kube.delete(INFERENCE_POOLS, "chat", NAMESPACE)
    await world.kube.delete(LLM_MODELS, "smollm2", NAMESPACE)
    world.kube.collect_garbage()
    await world.reconcile("Tenant", "a", "")
    assert world.kube.all(TENANTS) == []


async def test_a_tenant_that_is_being_deleted_loses_no_namespace_to_a_younger_one_and_lends_what_it_leaves() -> None:
    world = closing_world(gpu_pool("other", "team-b", replicas=2))
    await world.settle()
    await world.kube.delete(TENANTS, "a")
    world.pass_time(10)
    world.kube.put(tenant("b", NAMESPACE, "team-b", guaranteed=2, borrowLimit=0))
    await world.reconcile("Tenant", "b", "")
    await scale(world, 3)
    told = condition({"status": world.tenant_status("b")}, "NamespacesOwned")
    assert (told["reason"], f"{NAMESPACE} belongs to Tenant a" in told["message"]) == ("NamespaceTaken", True)
    assert (len(world.held(NAMESPACE)), len(world.held("team-b"))) == (2, 2)
    assert world.tenant_status("b")["accelerators"] == "2/2"


async def test_a_tenant_that_cannot_be_read_keeps_what_runs_gets_nothing_more_and_says_what_is_wrong() -> None:
    world = closing_world()
    await scale(world, 3)
    held = world.held(NAMESPACE)
    assert len(held) == 3, "one of them is borrowed"
    break_tenant(world, "a")
    world.pass_time(10)
    world.kube.put(tenant("b", NAMESPACE, "team-b", guaranteed=4))
    world.kube.put(gpu_pool("other", "team-b", replicas=2))
    for name in ("a", "b"):
        await world.reconcile("Tenant", name, "")
    await scale(world, 4)
    for _ in range(3):
        await world.turn()
        world.end_pods()
        world.bind()
    assert world.held(NAMESPACE) == held
    told = condition(world.status("chat"), "Admitted")
    assert told["reason"] == "TenantClosed"
    assert "Tenant a cannot be read (spec.weight: " in told["message"]
    assert "spec.weight" in condition({"status": world.tenant_status("a")})["message"]
    assert condition({"status": world.tenant_status("b")}, "NamespacesOwned")["reason"] == "NamespaceTaken"
    assert len(world.held("team-b")) == 1


async def test_a_tenant_that_can_be_read_again_goes_on_where_it_was() -> None:
    world = closing_world()
    await world.settle()
    seconds = world.tenant_status("a")["thisMonth"]["gpuSeconds"]
    break_tenant(world, "a")
    await scale(world, 3)
    stored = world.kube.stored(TENANTS, "", "a")
    world.kube.put({**stored, "spec": {**stored["spec"], "weight": 1}})
    world.pass_time(60)
    await world.settle()
    assert len(world.held(NAMESPACE)) == 3
    assert seconds < world.tenant_status("a")["thisMonth"]["gpuSeconds"] < seconds + 3 * 120


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


async def test_an_operator_that_is_killed_after_any_write_ends_where_it_would_have_ended() -> None:
    for survived in range(12):
        world = Cluster(tenant("a", NAMESPACE), tenant("b", "team-b"), gpu_pool("burst", "team-b", replicas=4))
        await world.settle()
        world.kube.put(gpu_pool("chat", replicas=2))
        await world.reconcile("InferencePool", "chat")
        await cut_off(world, survived)
        reborn = restart(world)
        for _ in range(6):
            await reborn.turn()
            reborn.end_pods()
            reborn.bind()
            assert len(reborn.held(NAMESPACE)) + len(reborn.held("team-b")) <= 4
        assert (len(reborn.held("team-b")), len(reborn.held(NAMESPACE))) == (2, 2), f"after {survived} writes"


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


async def cut_off(world: Cluster, survived: int) -> None:
    """A pass of which only the first writes reach the API server."""
    merge, left = world.kube.merge, [survived]

    async def refuse(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Unavailable("killed")
        return await merge(*arguments)

    world.kube.merge = refuse  # type: ignore[method-assign,assignment]  # the process ends here
    try:
        await world.quota()
    except Unavailable:
        pass
    finally:
        world.kube.merge = merge  # type: ignore[method-assign]  # and another begins


def restart(world: Cluster) -> Cluster:
    """The same cluster, seen by a new operator."""
    reborn = Cluster()
    reborn.kube, reborn.time = world.kube, world.time
    reborn.kube.now = lambda: reborn.time
    reborn.context = type(reborn.context)(
        kube=reborn.kube,
        settings=Settings(),
        now=lambda: reborn.time,
        observe_in_flight=reborn.context.observe_in_flight,
    )
    reborn.context.quota.on_news = reborn.told.append
    return reborn


async def test_accelerator_seconds_are_counted_over_restarts_and_not_twice() -> None:
    world = Cluster(tenant("a", NAMESPACE), gpu_pool("chat", replicas=2))
    await world.settle()
    began = world.tenant_status("a")["thisMonth"]["gpuSeconds"]
    for _ in range(30):
        world.pass_time(58)
        await world.turn()
    reborn = restart(world)
    reborn.pass_time(300)
    await reborn.turn()
    month = reborn.tenant_status("a")["thisMonth"]
    elapsed_s = 30 * 60 + 302
    assert month["month"] == "2026-01"
    assert 2 * elapsed_s - 4 <= month["gpuSeconds"] - began <= 2 * elapsed_s + 24


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
