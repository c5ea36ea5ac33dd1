"""From objects to the ledger's snapshot: whose they are, what holds accelerators, and what a new operator knows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Tenant
from llmos.api.names import (
    ANNOTATION_QUOTA,
    LABEL_FABRIC_DOMAIN,
    LABEL_GANG_SIZE,
)
from llmos.api.tenancy import find_owners
from llmos_operator.planning.quota import (
    GangKind,
    GangState,
    Ledger,
    Placement,
    Quota,
    Reservation,
    Snapshot,
    Stop,
    plan_quota,
)
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation, read_record
from llmos_operator.planning.quota_view import needs_gate
from tests.operator.planning.quota_objects import (
    GPU,
    H100,
    NOW,
    accelerator,
    attempt,
    node,
    pod,
    pool,
    snapshot,
    stranger,
    tenant,
)


class TestTenants:
    def test_a_namespace_stays_with_the_older_of_two_tenants_and_the_younger_is_told(self) -> None:
        owners = find_owners([tenant("young", "x", "y", age_s=1), tenant("old", "y", "z", age_s=2)])
        assert owners.by_namespace == {"x": "young", "y": "old", "z": "old"}
        assert owners.taken == {"young": (("y", "old"),)}

    def test_the_quota_is_what_the_administrator_wrote(self) -> None:
        entry = {"class": H100, "guaranteed": 8, "borrowLimit": 2, "lendLimit": 4}
        (only,) = snapshot(tenants=(tenant("a", "x", cohort="research", weight=2, quota=[entry]),)).tenants
        assert (only.name, only.cohort, only.weight) == ("a", "research", 2)
        assert only.quotas == {H100: Quota(8, 2, 4)}

    def test_namespaces_of_no_tenant_get_nothing_by_default(self) -> None:
        gated = pod("chat-r1-0", namespace="elsewhere", gated=True)
        pools = (pool(namespace="elsewhere"),)
        assert plan_quota(snapshot(gated, pools=pools)).admit == ()
        assert len(plan_quota(snapshot(gated, pools=pools, untenanted={H100: 2})).admit) == 1

    @pytest.mark.parametrize(("tenants", "expected"), [((), False), ((tenant("a", "x"),), True)])
    def test_pods_get_a_gate_as_soon_as_there_is_a_tenant(self, tenants: tuple[Tenant, ...], expected: bool) -> None:
        assert needs_gate(pool().spec.accelerator.class_name, tenants) is expected

    def test_pods_on_the_processor_never_get_one(self) -> None:
        on_cpu = pool(accelerator={"class": "cpu", "count": 1}, replicas=1)
        assert not needs_gate(on_cpu.spec.accelerator.class_name, [tenant("a", "team-a")])
        assert snapshot(pod("chat-r1-0", on="n1"), pools=(on_cpu,)).gangs == ()


class TestPoolsThatChanged:
    def test_replicas_of_an_earlier_revision_count_with_what_they_were_made_with(self) -> None:
        old = pod("chat-r1-0", on="n1")
        old["spec"]["containers"] = [{"resources": {"limits": {GPU: "8"}}}]
        (only,) = snapshot(old, pools=(pool(count=1),)).gangs
        assert only.accelerators == 8

    def test_replicas_of_an_earlier_class_stay_in_that_class(self) -> None:
        classes = (accelerator(nodeSelector={"gpu": "h100"}), accelerator("b200", nodeSelector={"gpu": "b200"}))
        old = pod("chat-r1-0", on="n1")
        old["spec"] |= {"nodeSelector": {"gpu": "h100"}, "containers": [{"resources": {"limits": {GPU: "2"}}}]}
        changed = pool(accelerator={"class": "b200", "count": 1}, replicas=1)
        (only,) = snapshot(old, pools=(changed,), classes=classes).gangs
        assert (only.classes, only.accelerators) == ((H100,), 2)
        assert only.placement == Placement(H100, ("n1",))


class TestNodes:
    def test_pods_that_are_none_of_ours_take_accelerators_away(self) -> None:
        (only,) = snapshot(stranger("n1", 3), stranger("n1", 2, "Succeeded")).nodes
        assert (only.accelerators, only.taken) == (8, 3)

    @pytest.mark.parametrize(
        "spec",
        [
            {"unschedulable": True},
            {"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]},
            {"taints": [{"key": "team", "value": "x", "effect": "NoExecute"}]},
        ],
        ids=["cordoned", "not ready", "tainted"],
    )
    def test_a_node_that_takes_no_new_pods_has_what_stands_on_it_and_no_more(self, spec: dict[str, Any]) -> None:
        closed = snapshot(pod("chat-r1-0", on="n1"), nodes=(node("n1", **spec),))
        assert [each.accelerators for each in closed.nodes] == [2]

    def test_a_taint_that_the_class_tolerates_or_that_is_named_after_the_resource_is_none(self) -> None:
        taints = [{"key": GPU, "effect": "NoSchedule"}, {"key": "team", "value": "x", "effect": "NoSchedule"}]
        tolerant = accelerator(tolerations=[{"key": "team", "value": "x", "effect": "NoSchedule"}])
        (only,) = snapshot(nodes=(node("n1", taints=taints),), classes=(tolerant,)).nodes
        assert only.accelerators == 8

    def test_an_accelerator_is_counted_under_the_most_specific_class(self) -> None:
        classes = (accelerator("any"), accelerator("rack-7", nodeSelector={"rack": "7"}))
        nodes = (node("n1", labels={"rack": "7"}), node("n2"))
        assert [(each.name, each.class_name) for each in snapshot(nodes=nodes, classes=classes).nodes] == [
            ("n1", "rack-7"),
            ("n2", "any"),
        ]

    def test_a_label_tells_the_fast_network(self) -> None:
        (only,) = snapshot(nodes=(node("n1", labels={LABEL_FABRIC_DOMAIN: "pod-3"}),)).nodes
        assert only.domain == "pod-3"


class TestGangs:
    def test_the_life_of_a_gang_is_read_from_its_pods(self) -> None:
        place = QuotaRecord(Placement(H100, ("n1",)), 5.0)
        stopping = QuotaRecord(Placement(H100, ("n1",)), 5.0, stop=Stop("team-b/x", 6.0, 7.0))
        states = {
            "chat-r1-0": pod("chat-r1-0", gated=True),
            "chat-r1-1": pod("chat-r1-1", record=place),
            "chat-r1-2": pod("chat-r1-2", record=place, on="n1"),
            "chat-r1-3": pod("chat-r1-3", record=stopping, on="n1"),
            "chat-r1-4": pod("chat-r1-4", record=stopping, on="n1", ending=True),
            "chat-r1-5": pod("chat-r1-5", on="n1", phase="Failed"),
        }
        found = {gang.id.removeprefix("team-a/"): gang.state for gang in snapshot(*states.values()).gangs}
        assert found == {
            "chat-r1-0": GangState.WAITING,
            "chat-r1-1": GangState.STARTING,
            "chat-r1-2": GangState.RUNNING,
            "chat-r1-3": GangState.STOPPING,
            "chat-r1-4": GangState.ENDING,
        }

    def test_a_gang_of_which_only_some_pods_were_released_was_admitted(self) -> None:
        place = QuotaRecord(Placement(H100, ("n1", "n2")), 5.0)
        (gang,) = snapshot(pod("chat-r1-0", record=place), pod("chat-r1-0", rank=1, gated=True)).gangs
        assert (gang.state, gang.pods, gang.accelerators) == (GangState.STARTING, 2, 4)

    def test_a_gang_that_lost_a_pod_still_holds_what_it_was_admitted_to(self) -> None:
        place = QuotaRecord(Placement(H100, ("n1", "n2")), 5.0)
        (gang,) = snapshot(pod("chat-r1-0", record=place, on="n1")).gangs
        assert (gang.state, gang.accelerators) == (GangState.RUNNING, 4)

    def test_pods_from_before_there_was_a_quota_count_where_they_stand(self) -> None:
        (gang,) = snapshot(pod("chat-r1-0", on="n1", age_s=100)).gangs
        assert (gang.state, gang.placement) == (GangState.RUNNING, Placement(H100, ("n1",)))
        assert gang.admitted_s == NOW.timestamp() - 100

    def test_pods_from_before_there_was_a_quota_that_have_no_node_yet_hold_theirs_all_the_same(self) -> None:
        found = snapshot(pod("chat-r1-0", age_s=20), pod("chat-r1-0", rank=1, on="n1", age_s=20))
        (gang,) = found.gangs
        assert (gang.state, gang.placement) == (GangState.STARTING, Placement(H100, ("n1",)))
        assert (gang.pods, gang.accelerators) == (2, 4)
        assert Ledger(found).report().tenants[0].used == 4

    def test_a_gang_that_ends_before_it_was_admitted_holds_nothing(self) -> None:
        assert snapshot(pod("chat-r1-0", gated=True, ending=True)).gangs == ()

    def test_a_gang_that_ends_behind_the_gate_of_somebody_else_holds_nothing(self) -> None:
        kept = pod("chat-r1-0", ending=True)
        kept["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
        assert snapshot(kept).gangs == ()

    def test_a_gang_that_ends_before_any_of_its_pods_has_a_node_holds_nothing_any_more(self) -> None:
        place = QuotaRecord(Placement(H100, ("n1", "n2")), 5.0)
        pods = (pod("chat-r1-0", record=place, ending=True), pod("chat-r1-0", rank=1, ending=True))
        assert snapshot(*pods).gangs == ()

    def test_an_attempt_that_ends_holds_its_accelerators_as_long_as_one_of_its_pods_has_a_node(self) -> None:
        place = QuotaRecord(Placement(H100, ("n1", "n1")), 5.0)
        ended = attempt("tune-a0", record=place, ending=True)
        assert snapshot(ended, attempt("tune-a0", rank=1, record=place, ending=True)).gangs == ()
        (gang,) = snapshot(ended, attempt("tune-a0", rank=1, record=place, ending=True, on="n1")).gangs
        assert (gang.state, gang.placement, gang.accelerators) == (GangState.ENDING, place.placement, 4)

    @pytest.mark.parametrize("ending", [False, True])
    def test_a_moved_attempt_holds_the_room_for_its_successor_until_one_is_there_that_stays(self, ending: bool) -> None:
        moved = QuotaRecord(Placement(H100, ("n1",)), 5.0, is_moved=True)
        first = attempt("tune-a0", record=moved, gated=True)
        first["metadata"]["uid"] = "first"
        second = attempt("tune-a1", record=QuotaRecord(moved.placement, 5.0, succeeds="first"), ending=ending)
        (gang,) = snapshot(first, second).gangs
        assert (gang.id, gang.placement) == ("team-a/tune-a0" if ending else "team-a/tune-a1", moved.placement)

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param({"on": "n2", "ending": True}, id="it is ended on its node"),
            pytest.param({"on": "n2"}, id="it runs"),
            pytest.param({}, id="it may still be bound"),
            pytest.param({"gated": True}, id="its gate is still to be lifted"),
        ],
    )
    def test_a_gang_of_which_any_pod_has_a_node_or_may_get_one_holds_all(self, other: dict[str, Any]) -> None:
        place = QuotaRecord(Placement(H100, ("n1", "n2")), 5.0)
        found = snapshot(pod("chat-r1-0", record=place, ending=True), pod("chat-r1-0", rank=1, **other))
        (gang,) = found.gangs
        assert (gang.state, gang.placement) == (GangState.ENDING, place.placement)
        assert Ledger(found).report().tenants[0].used == 4

    def test_the_first_min_replicas_are_the_minimum_and_the_others_a_burst(self) -> None:
        scaled = pool(scaling={"minReplicas": 2, "maxReplicas": 5})
        pods = (
            pod("chat-r1-0", gated=True, age_s=90),
            pod("chat-r1-1", on="n1", age_s=30),
            pod("chat-r1-2", on="n1", age_s=20),
            pod("chat-r1-3", on="n1", age_s=10),
        )
        kinds = {gang.id[-1]: gang.kind for gang in snapshot(*pods, pools=(scaled,)).gangs}
        burst, minimum = GangKind.BURST, GangKind.REPLICA
        assert kinds == {"0": burst, "1": minimum, "2": minimum, "3": burst}

    def test_all_of_a_fixed_number_are_the_minimum(self) -> None:
        pods = [pod(f"chat-r1-{number}", on="n1") for number in range(3)]
        assert [gang.kind for gang in snapshot(*pods, pools=(pool(replicas=2),)).gangs] == [
            GangKind.REPLICA,
            GangKind.REPLICA,
            GangKind.BURST,
        ]

    def test_a_priority_is_moved_into_the_tenant_s_range(self) -> None:
        modest = tenant("a", "team-a", priorityRange={"min": -5, "max": 10})
        pods = (pod("chat-r1-0", on="n1", priority=2_000_000), pod("chat-r1-1", on="n1", priority=-100))
        assert sorted(gang.priority for gang in snapshot(*pods, tenants=(modest,)).gangs) == [-5, 10]

    def test_pods_that_a_person_labelled_like_ours_belong_to_no_pool(self) -> None:
        assert snapshot(pod("chat-r1-0", of="unknown", on="n1")).gangs == ()


class TestOrphans:
    """Replicas whose pool is deleted, and whose pods still end."""

    @staticmethod
    def left_over(**more: Any) -> dict[str, Any]:
        left = pod("gone-r1-0", of="gone", **more)
        left["spec"]["containers"] = [{"resources": {"limits": {GPU: "3"}}}]
        return left

    @pytest.mark.parametrize("ending", [True, False])
    def test_one_is_its_tenant_s_until_its_pods_have_ended(self, ending: bool) -> None:
        seen = snapshot(self.left_over(on="n1", ending=ending))
        (only,) = seen.gangs
        assert (only.tenant, only.accelerators, only.kind) == ("a", 3, GangKind.BURST if ending else GangKind.REPLICA)
        assert only.placement == Placement(H100, ("n1",))
        assert only.state is (GangState.ENDING if ending else GangState.RUNNING)
        assert [each.taken for each in seen.nodes] == [0], "it would count twice"

    def test_its_tenant_gets_no_more_than_its_quota_meanwhile(self) -> None:
        waiting = pod("chat-r1-0", gated=True)
        owner = tenant("a", "team-a", quota=[{"class": H100, "guaranteed": 4, "borrowLimit": 0}])

        def admit(phase: str) -> int:
            left = self.left_over(on="n1", ending=True, phase=phase)
            return len(plan_quota(snapshot(left, waiting, tenants=(owner,))).admit)

        assert (admit("Running"), admit("Failed")) == (0, 1)

    def test_one_that_no_class_explains_counts_on_its_node_for_nobody(self) -> None:
        strange = self.left_over(on="n1")
        strange["spec"]["nodeSelector"] = {"by": "hand"}
        seen = snapshot(strange)
        assert (seen.gangs, [each.taken for each in seen.nodes]) == ((), [3])

    def test_one_whose_nodes_others_chose_more_narrowly_is_still_its_class_s(self) -> None:
        narrow = self.left_over(on="n1")
        narrow["spec"]["nodeSelector"] = {"gpu": "h100", "zone": "a"}
        classes = (accelerator(nodeSelector={"gpu": "h100"}), accelerator("other", nodeSelector={"gpu": "l4"}))
        (only,) = snapshot(narrow, classes=classes).gangs
        assert (only.tenant, only.classes) == ("a", (H100,))

    def test_more_pods_than_a_pool_may_have_replicas_count_all(self) -> None:
        left = [
            {**self.left_over(on="n1"), "metadata": pod(f"gone-r1-{number}", of="gone")["metadata"]}
            for number in range(1001)
        ]
        assert len(snapshot(*left).gangs) == 1001

    def test_one_that_waits_holds_nothing(self) -> None:
        assert snapshot(self.left_over(gated=True)).gangs == ()


class TestRecord:
    @given(
        record=st.builds(
            QuotaRecord,
            placement=st.none() | st.builds(Placement, st.text(), st.lists(st.text()).map(tuple)),
            admitted_s=st.floats(0, 1e10),
            reservation=st.none() | st.builds(Reservation, st.just(Placement(H100, ("n",))), st.floats(0, 1e10)),
            stop=st.none() | st.builds(Stop, st.text(), st.floats(0, 1e10), st.floats(0, 1e10), st.booleans()),
            attempts=st.integers(0, 99),
            retry_at_s=st.floats(0, 1e10),
        )
    )
    def test_comes_back_as_it_was_written(self, record: QuotaRecord) -> None:
        assert read_record({"annotations": build_record_annotation(record)}) == record

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"attempts": "many"}', '{"placement": {"nodes": 3}}'])
    def test_that_a_person_wrote_counts_as_nothing(self, text: str) -> None:
        assert read_record({"annotations": {ANNOTATION_QUOTA: text}}) == QuotaRecord()

    def test_is_short(self) -> None:
        assert build_record_annotation(QuotaRecord(attempts=1)) == {ANNOTATION_QUOTA: '{"attempts":1}'}


def member(rank: int, *, gated: bool = True, size: int = 2, gpus: int = 8, **more: Any) -> dict[str, Any]:
    made = pod("chat-r1-0", rank=rank, gated=gated, **more)
    made["metadata"]["labels"][LABEL_GANG_SIZE] = str(size)
    made["spec"]["containers"] = [{"resources": {"limits": {GPU: str(gpus)}}}]
    return made


class TestGangsOfSeveralPods:
    pools = (pool(count=16),)
    nodes = (node("n1"), node("n2"), node("n3"))
    tenants = (tenant("a", "team-a", quota=[{"class": H100, "guaranteed": 16}]),)

    def look(self, *pods: dict[str, Any]) -> Snapshot:
        return snapshot(*pods, pools=self.pools, nodes=self.nodes, tenants=self.tenants)

    def test_each_pod_asks_for_its_part_and_all_are_admitted_to_nodes_of_their_own(self) -> None:
        seen = self.look(member(0), member(1))
        (gang,) = seen.gangs
        assert (gang.pods, gang.accelerators_per_pod, gang.accelerators) == (2, 8, 16)
        (admit,) = plan_quota(seen).admit
        assert len(set(admit.placement.nodes)) == 2

    def test_one_of_which_not_all_pods_were_made_is_not_admitted(self) -> None:
        assert self.look(member(0)).gangs == ()
        assert self.look(member(1)).gangs == ()
        assert plan_quota(self.look(member(1, size=3), member(2, size=3))).admit == ()

    def test_one_that_lost_a_pod_keeps_its_whole_place_until_all_are_gone(self) -> None:
        record = QuotaRecord(placement=Placement(H100, ("n1", "n2")), admitted_s=NOW.timestamp() - 5)
        (gang,) = self.look(member(0, gated=False, on="n1", record=record)).gangs
        assert (gang.pods, gang.placement) == (2, record.placement)

    def test_what_kube_scheduler_bound_before_there_was_a_quota_counts_where_it_stands(self) -> None:
        (gang,) = self.look(member(0, gated=False, on="n1"), member(1, gated=False, on="n3")).gangs
        assert gang.placement == Placement(H100, ("n1", "n3"))
        assert gang.state is GangState.RUNNING

    def test_one_fast_network_is_preferred(self) -> None:
        racks = {"n1": "a", "n2": "b", "n3": "b"}
        nodes = tuple(node(name, labels={LABEL_FABRIC_DOMAIN: rack}) for name, rack in racks.items())
        seen = snapshot(member(0), member(1), pools=self.pools, nodes=nodes, tenants=self.tenants)
        (admit,) = plan_quota(seen).admit
        assert set(admit.placement.nodes) == {"n2", "n3"}


def test_a_pool_is_admitted_from_what_is_observed() -> None:
    gated = [pod(f"chat-r1-{number}", gated=True, age_s=10 - number) for number in range(4)]
    plan = plan_quota(snapshot(*gated, pools=(pool(replicas=4),)))
    assert [admit.gang_id for admit in plan.admit] == [
        "team-a/chat-r1-0",
        "team-a/chat-r1-1",
        "team-a/chat-r1-2",
        "team-a/chat-r1-3",
    ]
    assert [admit.is_borrowed for admit in plan.admit] == [False, False, True, True]
