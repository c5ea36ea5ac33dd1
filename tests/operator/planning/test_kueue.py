"""Kueue in place of the ledger: queues, labels, gates and words."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.api import InferencePool, Reason, Tenant
from llmos.api.names import (
    GATE_QUOTA,
    KUEUE_GATE,
    KUEUE_GROUP,
    KUEUE_GROUP_RETRIABLE,
    KUEUE_GROUP_SIZE,
    KUEUE_PRIORITY,
    KUEUE_QUEUE,
)
from llmos_operator.planning.gangs import PodTimes, build_replicas
from llmos_operator.planning.kueue import (
    Sight,
    build_group,
    build_queue_labels,
    choose_queue,
    choose_version,
    explain_foreign_gate,
    explain_waiting,
    find_admitted,
    find_misplaced,
    find_superseded,
)
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation
from llmos_operator.planning.replicas import Replica, ReplicaState
from llmos_operator.planning.settings import Admitter, Settings
from tests.operator.planning.pods import NOW, build_pod, ready, running, stamp

KUEUE = Settings(admission=Admitter.KUEUE, kueue_queue="fallback")
STOPPED = {
    "type": "TerminationTarget",
    "status": "True",
    "reason": "Preempted",
    "message": "Preempted to accommodate a workload",
}


def pool(accelerator: str = "h100", **labels: str) -> InferencePool:
    metadata = {"name": "chat", "namespace": "team-a", "labels": labels}
    spec = {"modelRef": {"name": "m"}, "accelerator": {"class": accelerator}, "replicas": 1}
    manifest = {"apiVersion": "llmos.dev/v1alpha1", "kind": "InferencePool", "metadata": metadata, "spec": spec}
    return InferencePool.model_validate(manifest)


def tenant(*namespaces: str, queue: str = "") -> Tenant:
    spec = {"namespaces": list(namespaces), "kueue": {"queueName": queue}}
    manifest = {"apiVersion": "llmos.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": "a"}, "spec": spec}
    return Tenant.model_validate(manifest)


def gated(*gates: str, replica: str = "chat-abc-0", rank: int = 0, **more: Any) -> dict[str, Any]:
    pod = build_pod(replica, rank=rank, node="", phase="Pending", **more)
    pod["metadata"] |= {"namespace": "team-a", "uid": f"uid-{replica}-{rank}"}
    pod["spec"] = {"schedulingGates": [{"name": gate} for gate in gates]}
    return pod


def read(*pods: dict[str, Any], gang_size: int = 1) -> Replica:
    (replica,) = build_replicas(pods, times=PodTimes(10, 600), now=NOW, in_flight={})
    return replica


class TestTheQueue:
    def test_is_what_the_pool_says_then_its_tenant_then_the_installation(self) -> None:
        named = tenant("team-a", queue="research")
        assert choose_queue(pool(**{KUEUE_QUEUE: "urgent"}), [named], KUEUE) == "urgent"
        assert choose_queue(pool(), [named], KUEUE) == "research"
        assert choose_queue(pool(), [tenant("team-a")], KUEUE) == "fallback"
        assert choose_queue(pool(), [tenant("team-b", queue="research")], KUEUE) == "fallback"

    def test_is_none_on_the_processor_or_where_the_ledger_admits(self) -> None:
        assert choose_queue(pool("cpu"), [tenant("team-a", queue="research")], KUEUE) == ""
        assert choose_queue(pool(), [tenant("team-a", queue="research")], Settings()) == ""

    def test_and_the_priority_stand_on_the_pods(self) -> None:
        assert build_queue_labels(pool(), "q") == {KUEUE_QUEUE: "q"}
        assert build_queue_labels(pool(**{KUEUE_PRIORITY: "high"}), "q") == {KUEUE_QUEUE: "q", KUEUE_PRIORITY: "high"}


class TestAGang:
    def test_of_one_pod_is_no_group(self) -> None:
        assert build_group("chat-abc-0", 1, [], NOW) == ({}, {})

    def test_of_several_pods_is_a_group_that_is_not_mended(self) -> None:
        labels, annotations = build_group("chat-abc-0", 2, [], NOW)
        assert labels[KUEUE_GROUP].startswith("chat-abc-0-")
        assert annotations == {KUEUE_GROUP_SIZE: "2", KUEUE_GROUP_RETRIABLE: "false"}

    def test_that_lacks_a_pod_keeps_its_name(self) -> None:
        first = gated(KUEUE_GATE, labels={KUEUE_GROUP: "known"})
        assert build_group("chat-abc-0", 2, [first], NOW)[0] == {KUEUE_GROUP: "known"}

    def test_has_a_name_that_a_label_may_hold(self) -> None:
        assert len(build_group("x" * 63, 2, [], NOW)[0][KUEUE_GROUP]) <= 63


class TestAReplica:
    @pytest.mark.parametrize("gate", [GATE_QUOTA, KUEUE_GATE])
    def test_waits_behind_either_gate(self, gate: str) -> None:
        assert read(gated(gate)).is_gated

    def test_that_has_lost_some_gates_does_not_wait(self) -> None:
        assert not read(gated(KUEUE_GATE), gated(rank=1)).is_gated

    def test_that_kueue_stopped_has_not_failed(self) -> None:
        running_pod: dict[str, Any] = {
            "conditions": [ready(since_s=60), STOPPED],
            "containerStatuses": [running(90)],
        }
        assert read(build_pod(phase="Running", **running_pod)).state is ReplicaState.TERMINATING
        ended = read(build_pod(deleted=stamp(-10), phase="Failed", **running_pod))
        assert (ended.state, ended.failure) == (ReplicaState.TERMINATING, None)

    def test_begins_when_it_was_admitted(self) -> None:
        pod = gated(labels={KUEUE_QUEUE: "q"})
        ((found, noted),) = find_admitted([pod, gated(KUEUE_GATE, labels={KUEUE_QUEUE: "q"}), gated()], NOW)
        assert found is pod
        assert read(gated(annotations=dict(noted), labels={KUEUE_QUEUE: "q"})).began == NOW
        assert not find_admitted([gated(annotations=dict(noted), labels={KUEUE_QUEUE: "q"})], NOW)


class TestWhatWaits:
    def test_behind_the_ledgers_gate_is_made_anew_where_kueue_admits(self) -> None:
        old, new = gated(GATE_QUOTA), gated(KUEUE_GATE, replica="chat-abc-1")
        assert find_superseded([old, new], Admitter.KUEUE, has_quota=True) == [old]

    def test_behind_kueues_gate_is_made_anew_where_the_ledger_admits(self) -> None:
        alone, both = gated(KUEUE_GATE), gated(GATE_QUOTA, KUEUE_GATE, replica="chat-abc-1")
        admitted = gated(
            KUEUE_GATE, replica="chat-abc-2", annotations=build_record_annotation(QuotaRecord(admitted_s=1))
        )
        assert find_superseded([alone, both, admitted], Admitter.LLMOS, has_quota=True) == [alone]
        assert find_superseded([alone], Admitter.LLMOS, has_quota=False) == []

    def test_is_not_made_anew_once_a_pod_of_it_may_run(self) -> None:
        assert find_superseded([gated(GATE_QUOTA), gated(rank=1)], Admitter.KUEUE, has_quota=True) == []

    def test_in_another_queue_is_moved(self) -> None:
        old = gated(KUEUE_GATE, labels={KUEUE_QUEUE: "old", KUEUE_PRIORITY: "kueues-default"})
        assert find_misplaced([old], {KUEUE_QUEUE: "new"}) == [old]
        assert find_misplaced([old], {KUEUE_QUEUE: "old"}) == []
        assert find_misplaced([old], {KUEUE_QUEUE: "old", KUEUE_PRIORITY: "high"}) == [old]
        assert find_misplaced([gated(labels={KUEUE_QUEUE: "old"})], {KUEUE_QUEUE: "new"}) == []


MANAGED = gated(KUEUE_GATE, labels={"kueue.x-k8s.io/managed": "true"})
ACTIVE = {"status": {"pendingWorkloads": 3, "conditions": [{"type": "Active", "status": "True"}]}}


class TestTheReason:
    def test_is_what_kueue_says(self) -> None:
        said = {"type": "QuotaReserved", "status": "False", "message": "insufficient unused quota"}
        sight = Sight(is_installed=True, queue=ACTIVE, workload={"status": {"conditions": [said]}})
        failure = explain_waiting("q", MANAGED, sight)
        assert failure.reason is Reason.WaitsForKueue
        assert "Kueue's admission in queue q. Kueue says: insufficient unused quota. " in failure.message

    def test_is_what_keeps_kueue_from_looking(self) -> None:
        inactive = {"status": {"conditions": [{"type": "Active", "status": "False", "message": "no ClusterQueue"}]}}
        for pod, sight, reason, words in (
            (MANAGED, Sight(is_installed=False), Reason.KueueNotInstalled, "Install Kueue"),
            (MANAGED, Sight(is_installed=True), Reason.QueueNotFound, "no LocalQueue q"),
            (MANAGED, Sight(is_installed=True, queue=inactive), Reason.QueueInactive, "no ClusterQueue"),
            (gated(KUEUE_GATE), Sight(is_installed=True, queue=ACTIVE), Reason.NotManagedByKueue, "webhook"),
        ):
            failure = explain_waiting("q", pod, sight)
            assert failure.reason is reason
            assert words in failure.message

    def test_is_told_where_kueue_is_not_followed_at_all(self) -> None:
        failure = explain_foreign_gate([MANAGED], Settings())
        assert failure is not None
        assert "does not follow Kueue" in failure.message
        assert explain_foreign_gate([MANAGED], KUEUE) is None
        assert explain_foreign_gate([gated(GATE_QUOTA, KUEUE_GATE)], Settings()) is None


def test_the_best_version_that_is_served_is_read() -> None:
    def crd(**served: bool) -> dict[str, Any]:
        return {"spec": {"versions": [{"name": name, "served": is_served} for name, is_served in served.items()]}}

    assert choose_version(crd(v1beta1=True, v1beta2=True)) == "v1beta2"
    assert choose_version(crd(v1beta1=True, v1beta2=False)) == "v1beta1"
    assert choose_version(crd(v1=True)) == ""
    assert choose_version(None) == ""
