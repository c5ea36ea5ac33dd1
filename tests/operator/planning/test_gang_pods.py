"""Replicas of several pods: one unit from the first pod that is made to the last one that is gone."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Reason
from llmos_operator.planning.gang_endings import pods_to_remove, pods_to_retire
from llmos_operator.planning.gangs import PodTimes, build_replicas, is_lost
from llmos_operator.planning.quota import Placement
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation
from llmos_operator.planning.replicas import Replica, ReplicaState
from tests.operator.planning.pods import NOW, build_pod, ready, running, stamp, terminated

TIMES = PodTimes(unschedulable_after_s=10, start_timeout_s=600, bind_after_s=120)


def member(rank: int = 0, *, size: int = 2, **more: Any) -> dict[str, Any]:
    labels = {"llmos.dev/gang-size": str(size), **more.pop("labels", {})}
    return build_pod(rank=rank, labels=labels, **more)


def serving(rank: int = 0, **more: Any) -> dict[str, Any]:
    return member(rank, phase="Running", conditions=[ready(since_s=100)], containerStatuses=[running(120)], **more)


def starting(rank: int = 0, **more: Any) -> dict[str, Any]:
    unready = ready(since_s=30, value="False")
    return member(rank, phase="Running", conditions=[unready], containerStatuses=[running(30)], **more)


def failed(rank: int = 0, *, ago_s: float = 5, message: str = "", **more: Any) -> dict[str, Any]:
    ends = [terminated(started_s=200, finished_s=ago_s, message=message)]
    return member(rank, phase="Failed", containerStatuses=ends, **more)


def says(reason: str, text: str = "it broke") -> str:
    return json.dumps({"reason": reason, "message": text})


def read(*pods: dict[str, Any]) -> Replica:
    (replica,) = build_replicas(pods, times=TIMES, now=NOW, in_flight={})
    return replica


def test_a_gang_serves_only_when_all_its_pods_are_there_and_ready() -> None:
    assert read(serving(), serving(1)).state is ReplicaState.READY
    assert read(starting(1), serving()).state is ReplicaState.STARTING


def test_a_worker_that_is_there_says_nothing_about_requests() -> None:
    assert not read(starting(), serving(1)).was_ready
    assert read(serving(), starting(1)).was_ready


def test_a_gang_of_which_only_workers_were_made_is_completed() -> None:
    lonely = member(1, node="", phase="Pending")
    replica = read(lonely)
    assert (replica.state, replica.incomplete) == (ReplicaState.STARTING, True)
    assert pods_to_retire([lonely], TIMES, NOW) == []
    assert pods_to_remove([lonely], NOW) == []


@pytest.mark.parametrize("left", [serving(), starting(), starting(1)])
def test_a_gang_that_lost_a_pod_has_failed_and_the_rest_is_ended(left: dict[str, Any]) -> None:
    replica = read(left)
    assert (replica.state, replica.incomplete, replica.is_ending) == (ReplicaState.FAILED, False, True)
    assert replica.failure is not None
    assert replica.failure.reason is Reason.GangBroken
    gone = "chat-abc-0-1" if left["metadata"]["name"] == "chat-abc-0" else "chat-abc-0"
    assert f"gone: {gone}." in replica.failure.message
    ((name, why),) = pods_to_retire([left], TIMES, NOW)
    assert (name, why) == (left["metadata"]["name"], replica.failure)


def test_the_failure_of_one_pod_is_the_gang_s_and_ends_the_others() -> None:
    pods = [serving(), failed(1, message=says("OutOfMemory")), member(2, node="", phase="Pending")]
    for pod in pods:
        pod["metadata"]["labels"]["llmos.dev/gang-size"] = "3"
    replica = read(*pods)
    assert (replica.state, replica.is_ending) == (ReplicaState.FAILED, True)
    assert replica.failure is not None
    assert replica.failure.message == "Pod chat-abc-0-1: it broke"
    assert pods_to_retire(pods, TIMES, NOW) == [("chat-abc-0", replica.failure)]
    assert [pod["metadata"]["name"] for pod in pods_to_remove(pods, NOW)] == ["chat-abc-0-2"]


def test_the_cause_is_what_the_pod_says_that_failed_first() -> None:
    first = failed(1, ago_s=9, message=says("OutOfMemory"))
    assert reason_of(failed(ago_s=5, message=says("EngineCrashed")), first) is Reason.OutOfMemory
    follower = failed(1, ago_s=9, message=says("GangBroken"))
    assert reason_of(failed(ago_s=5, message=says("EngineCrashed")), follower) is Reason.EngineCrashed
    crashed, killed = says("EngineCrashed", "closed"), says("EngineCrashed", "killed")
    tie = read(failed(ago_s=9, message=crashed), failed(1, ago_s=8, message=killed)).failure
    assert tie is not None
    assert tie.message == "Pod chat-abc-0-1: killed", "a second is what kubelets can tell apart"
    retired = failed(ago_s=1, annotations={"llmos.dev/failure": says("OutOfMemory")})
    assert reason_of(retired, first) is Reason.OutOfMemory
    told = {"llmos.dev/failure": says("ImagePullFailed", "Image of pod chat-abc-0: gone.")}
    both = read(failed(ago_s=2, annotations=told), failed(1, ago_s=1, annotations=told)).failure
    assert both is not None
    assert both.message == "Image of pod chat-abc-0: gone.", "who was ended with it is not blamed"


def reason_of(*pods: dict[str, Any]) -> Reason | None:
    failure = read(*pods).failure
    return failure.reason if failure else None


def retire(pods: list[dict[str, Any]]) -> None:
    """End the pods that have to end, as the reconcile does."""
    failures = dict(pods_to_retire(pods, TIMES, NOW))
    for pod in pods:
        if failure := failures.get(pod["metadata"]["name"]):
            pod["metadata"]["annotations"].setdefault("llmos.dev/failure", failure.to_json())


def test_a_pod_that_had_ended_before_it_was_to_be_ended_is_heard() -> None:
    pods = [failed(ago_s=4, message=says("EngineCrashed", "closed")), serving(1)]
    retire(pods)
    pods[1]["status"] = failed(1, ago_s=4, message=says("EngineCrashed", "killed"))["status"]
    failure = read(*pods).failure
    assert failure is not None
    assert failure.message == "Pod chat-abc-0-1: killed"
    pods[1]["status"]["containerStatuses"] = [terminated(finished_s=4, code=137, reason="OOMKilled")]
    assert reason_of(*pods) is Reason.OutOfMemory


def test_a_pod_that_was_ended_and_says_nothing_or_spoke_long_after_is_not_blamed() -> None:
    pods = [failed(ago_s=9, message=says("EngineCrashed", "killed")), serving(1)]
    retire(pods)
    for end in (terminated(finished_s=9, code=137), terminated(finished_s=6, message=says("EngineHung"))):
        pods[1]["status"] = member(1, phase="Failed", containerStatuses=[end])["status"]
        failure = read(*pods).failure
        assert failure is not None
        assert failure.message == "Pod chat-abc-0: killed"


def test_a_pod_that_was_ended_for_what_it_is_itself_keeps_that_cause() -> None:
    noted = {"llmos.dev/failure": says("ReadinessNeverReached", "never")}
    assert reason_of(failed(annotations=noted, message=says("EngineHung"), size=1)) is Reason.ReadinessNeverReached


@st.composite
def gangs_that_ended(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Pods of a gang that have all ended by themselves, in the order in which their ends are reported."""
    size = draw(st.integers(2, 4))
    words = st.sampled_from(["EngineCrashed", "GangBroken", "OutOfMemory", "EngineHung"]).map(
        lambda reason: {"message": says(reason)}
    )
    ends = st.builds(
        lambda ago_s, end: terminated(finished_s=ago_s, **end),
        st.integers(0, 6),
        st.one_of(words, st.just({"reason": "OOMKilled", "code": 137})),
    )
    pods = [member(rank, size=size, phase="Failed", containerStatuses=[draw(ends)]) for rank in range(size)]
    return draw(st.permutations(pods))


@given(reported=gangs_that_ended())
def test_whom_a_gang_blames_does_not_depend_on_the_order_in_which_ends_are_reported(
    reported: list[dict[str, Any]],
) -> None:
    pods = [serving(rank, size=len(reported)) for rank in range(len(reported))]
    for ended in reported:
        pods[int(ended["metadata"]["labels"]["llmos.dev/rank"])]["status"] = ended["status"]
        retire(pods)
    told, at_once = read(*pods), read(*reported)
    assert (told.failure, told.retry_at) == (at_once.failure, at_once.retry_at)


@given(reported=gangs_that_ended())
def test_one_of_those_that_ended_first_is_blamed_and_none_that_only_followed(reported: list[dict[str, Any]]) -> None:
    ends = {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["state"]["terminated"] for pod in reported}
    causes = {name: end for name, end in ends.items() if "GangBroken" not in end.get("message", "")} or ends
    failure = read(*reported).failure
    assert failure is not None
    blamed = re.findall(r"[Pp]od (chat-abc-0(?:-\d)?)\b", failure.message)[0]
    first = min(end["finishedAt"] for end in causes.values())
    assert datetime.fromisoformat(causes[blamed]["finishedAt"]) - datetime.fromisoformat(first) <= timedelta(seconds=2)


def test_an_evicted_pod_takes_its_gang_along_and_is_named() -> None:
    evicted = member(1, phase="Failed", reason="Evicted", message="The node was low on memory.")
    replica = read(serving(), evicted)
    assert replica.failure is not None
    assert "chat-abc-0-1 failed (Evicted: The node was low on memory.)" in replica.failure.message


def test_a_failed_gang_is_tried_again_by_its_first_failure_once_all_its_pods_have_ended() -> None:
    replica = read(failed(ago_s=2, message=says("GangBroken")), failed(1, ago_s=4))
    assert not replica.is_ending
    assert replica.retry_at == NOW + timedelta(seconds=6)


def test_that_its_workers_ran_long_does_not_make_a_gang_stable() -> None:
    never = [ready(since_s=300, value="False")]
    leader = failed(message=says("EngineCrashed"), annotations={"llmos.dev/attempt": "3"}, conditions=never)
    leader["status"]["containerStatuses"] = [terminated(started_s=300, finished_s=5, message=says("EngineCrashed"))]
    leader["status"]["conditions"][0]["lastTransitionTime"] = stamp(300)
    worker = failed(1, ago_s=4, conditions=[ready(since_s=100)])
    assert read(leader, worker).attempt == 3


def test_one_deleted_pod_takes_its_gang_along() -> None:
    deleted = serving(1, deleted=stamp(-100))
    replica = read(serving(), deleted)
    assert (replica.state, replica.is_torn) == (ReplicaState.TERMINATING, True)
    assert not read(serving(deleted=stamp(-100)), deleted).is_torn
    ended = member(1, deleted=stamp(-100), phase="Succeeded")
    for left in (deleted, ended):
        assert read(serving(), left).is_torn
        assert pods_to_retire([serving(), left], TIMES, NOW) == [], "it drains as a deleted replica does"


def test_a_gang_is_lost_when_nothing_of_it_lives_and_until_then_the_rest_is_deleted() -> None:
    lost, alive = member(deleted=stamp(999)), serving(1)
    assert (is_lost(lost, NOW), is_lost(alive, NOW)) == (True, False)
    replica = read(lost, alive)
    assert (replica.state, replica.is_torn) == (ReplicaState.TERMINATING, True)
    assert read(lost, member(1, deleted=stamp(999))).state is ReplicaState.LOST
    assert read(lost, failed(1)).state is ReplicaState.LOST


def test_a_gang_drains_from_the_time_of_its_last_pod() -> None:
    drained = {"llmos.dev/serving": "false"}
    leader = member(labels=drained, phase="Running")
    worker = member(1, labels=drained, annotations={"llmos.dev/drain-started": stamp(2)}, phase="Running")
    replica = read(leader, worker)
    assert (replica.state, replica.drain_started) == (ReplicaState.DRAINING, NOW - timedelta(seconds=2))


def unscheduled(rank: int, since_s: float) -> dict[str, Any]:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "lastTransitionTime": stamp(since_s),
    }
    return member(rank, node="", phase="Pending", conditions=[condition])


def test_half_a_gang_does_not_hold_for_ever_what_the_other_half_does_not_find() -> None:
    half = starting()
    assert pods_to_retire([half, unscheduled(1, 119)], TIMES, NOW) == []
    ((name, why),) = pods_to_retire([half, unscheduled(1, 121)], TIMES, NOW)
    assert (name, why.reason) == ("chat-abc-0", Reason.Unschedulable)
    assert pods_to_retire([unscheduled(0, 999), unscheduled(1, 999)], TIMES, NOW) == [], "it holds nothing"


def test_that_a_gang_waited_for_kueue_does_not_count_when_its_pods_are_bound() -> None:
    queued = {"kueue.x-k8s.io/queue-name": "default"}

    def retired(admitted_ago_s: float | None) -> list[Any]:
        admitted = NOW.timestamp() - (admitted_ago_s or 0)
        noted = build_record_annotation(QuotaRecord(admitted_s=admitted)) if admitted_ago_s is not None else {}
        return pods_to_retire([starting(labels=queued, annotations=noted), unscheduled(1, 3600)], TIMES, NOW)

    assert retired(None) == [], "its admission is noted at the end of this look"
    assert retired(119) == []
    assert [name for name, _ in retired(121)] == ["chat-abc-0"]


def test_the_ledger_withdraws_whom_it_admitted() -> None:
    placed = build_record_annotation(QuotaRecord(placement=Placement("h100", ("a", "b")), admitted_s=1.0))
    assert pods_to_retire([starting(annotations=placed), unscheduled(1, 500)], TIMES, NOW) == []


def test_one_that_is_withdrawn_while_a_pod_of_it_does_not_end_is_replaced_nevertheless() -> None:
    withdrawn = build_record_annotation(QuotaRecord(attempts=1, is_withdrawn=True))
    replica = read(serving(annotations=withdrawn))
    assert (replica.state, replica.is_ending, replica.retry_at) == (ReplicaState.FAILED, False, NOW)


def test_replicas_of_an_earlier_size_are_read_by_their_own() -> None:
    old = build_pod(phase="Running", conditions=[ready(since_s=60)], containerStatuses=[running(90)])
    assert read(old).state is ReplicaState.READY
