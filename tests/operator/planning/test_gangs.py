"""From pods to replicas: states, times and failures as a real kubelet and a real scheduler write them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Reason
from llmos_operator.planning.gang_endings import pods_to_retire
from llmos_operator.planning.gangs import PodTimes, build_replicas
from llmos_operator.planning.replicas import Replica, ReplicaState
from tests.operator.planning.pods import NOW, any_pod, build_pod, ready, running, stamp, terminated, waiting

TIMES = PodTimes(unschedulable_after_s=10, start_timeout_s=600, image_pull_timeout_s=60)
OUT_OF_MEMORY = json.dumps({"reason": "OutOfMemory", "message": "CUDA out of memory"})
BAD_ARGUMENT = json.dumps({"reason": "BadEngineArgument", "message": "--frobnicate"})


def read(*pods: dict[str, Any]) -> Replica:
    (replica,) = build_replicas(pods, times=TIMES, now=NOW, in_flight={})
    return replica


READY_POD = build_pod(phase="Running", conditions=[ready(since_s=60)], containerStatuses=[running(90)])

STATES: dict[str, tuple[dict[str, Any], ReplicaState]] = {
    "it was just created": (build_pod(node="", phase="Pending"), ReplicaState.STARTING),
    "it answers": (READY_POD, ReplicaState.READY),
    "it runs and does not answer": (
        build_pod(phase="Running", conditions=[ready(since_s=9, value="False")]),
        ReplicaState.STARTING,
    ),
    "it was taken out of the Service": (
        build_pod(labels={"llmos.dev/serving": "false"}, phase="Running", conditions=[ready(since_s=60)]),
        ReplicaState.DRAINING,
    ),
    "it failed": (build_pod(phase="Failed"), ReplicaState.FAILED),
    "its engine ended without being asked": (build_pod(phase="Succeeded"), ReplicaState.FAILED),
    "it is within its grace period": (build_pod(deleted=stamp(-100), phase="Running"), ReplicaState.TERMINATING),
    "its kubelet is still clearing up after the grace period": (
        build_pod(deleted=stamp(20), phase="Running"),
        ReplicaState.TERMINATING,
    ),
    "its kubelet has not been heard of for a minute after the grace period": (
        build_pod(deleted=stamp(61), phase="Running"),
        ReplicaState.LOST,
    ),
}


@pytest.mark.parametrize(("pod", "state"), STATES.values(), ids=STATES.keys())
def test_the_state_of_a_replica_is_read_from_its_pod(pod: dict[str, Any], state: ReplicaState) -> None:
    assert read(pod).state is state


WAS_READY: dict[str, tuple[dict[str, Any], bool]] = {
    "it answers now": (READY_POD, True),
    "it became unready long after its engine had started": (
        build_pod(phase="Running", conditions=[ready(since_s=5, value="False")], containerStatuses=[running(300)]),
        True,
    ),
    "it has been unready since before its engine started": (
        build_pod(phase="Running", conditions=[ready(since_s=310, value="False")], containerStatuses=[running(300)]),
        False,
    ),
    "it crashed before it answered": (
        build_pod(phase="Failed", conditions=[ready(since_s=310, value="False")], containerStatuses=[terminated()]),
        False,
    ),
    "it crashed after it had answered": (
        build_pod(phase="Failed", conditions=[ready(since_s=0, value="False")], containerStatuses=[terminated()]),
        True,
    ),
    "nobody knows when it became unready": (
        build_pod(phase="Running", conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": None}]),
        False,
    ),
}


@pytest.mark.parametrize(("pod", "was_ready"), WAS_READY.values(), ids=WAS_READY.keys())
def test_whether_a_replica_ever_answered_is_read_from_times(pod: dict[str, Any], was_ready: bool) -> None:
    assert read(pod).was_ready is was_ready


def crashed(
    *, started_s: float, finished_s: float, was_ready: bool, attempt: int = 0, message: str = ""
) -> dict[str, Any]:
    return build_pod(
        annotations={"llmos.dev/attempt": str(attempt)},
        phase="Failed",
        conditions=[ready(since_s=finished_s if was_ready else started_s + 5, value="False")],
        containerStatuses=[terminated(started_s=started_s, finished_s=finished_s, message=message)],
    )


RETRIES: dict[str, tuple[dict[str, Any], float | None]] = {
    "the first failure waits ten seconds": (crashed(started_s=20, finished_s=4, was_ready=False), 10 - 4),
    "the third waits four times as long": (crashed(started_s=20, finished_s=4, was_ready=False, attempt=2), 40 - 4),
    "a replica that answered for long is tried again at once": (
        crashed(started_s=300, finished_s=4, was_ready=True, attempt=7),
        -4,
    ),
    "a replica that answered for a moment only is not": (
        crashed(started_s=30, finished_s=4, was_ready=True, attempt=1),
        20 - 4,
    ),
    "what only a change can mend is never tried again": (
        crashed(started_s=20, finished_s=4, was_ready=False, message=BAD_ARGUMENT),
        None,
    ),
    "a pod that its kubelet refused counts from its arrival there": (
        build_pod(phase="Failed", reason="UnexpectedAdmissionError", startTime=stamp(3)),
        10 - 3,
    ),
    "a container that the kubelet lost counts from the pod's last change": (
        build_pod(
            phase="Failed",
            conditions=[ready(since_s=2, value="False")],
            containerStatuses=[{"name": "engine", "state": {"terminated": {"exitCode": 137, "finishedAt": None}}}],
        ),
        10 - 2,
    ),
    "a pod of which nothing is known counts from its creation": (build_pod(phase="Failed"), 10 - 600),
    "an attempt that a person overwrote counts as the first": (
        build_pod(phase="Failed", startTime=stamp(0), annotations={"llmos.dev/attempt": "many"}),
        10,
    ),
}


@pytest.mark.parametrize(("pod", "wait_s"), RETRIES.values(), ids=RETRIES.keys())
def test_when_a_failed_replica_is_tried_again(pod: dict[str, Any], wait_s: float | None) -> None:
    assert read(pod).retry_at == (None if wait_s is None else NOW + timedelta(seconds=wait_s))


def test_the_time_of_the_next_attempt_does_not_move_with_the_clock() -> None:
    """Or it would never come."""
    for pod, _ in RETRIES.values():
        later = build_replicas([pod], times=TIMES, now=NOW + timedelta(hours=1), in_flight={})
        assert later[0].retry_at == read(pod).retry_at


IMAGE = waiting("ImagePullBackOff", "back-off")
RETIRED: dict[str, tuple[list[dict[str, Any]], list[tuple[str, Reason]]]] = {
    "an image that cannot be pulled": (
        [build_pod(phase="Pending", startTime=stamp(61), containerStatuses=[IMAGE])],
        [("chat-abc-0", Reason.ImagePullFailed)],
    ),
    "the same, but it may still come": (
        [build_pod(phase="Pending", startTime=stamp(20), containerStatuses=[IMAGE])],
        [],
    ),
    "an engine that never answers": (
        [build_pod(phase="Running", conditions=[ready(since_s=700, value="False")], containerStatuses=[running(601)])],
        [("chat-abc-0", Reason.ReadinessNeverReached)],
    ),
    "an engine that answered once is the business of its own watchdog": (
        [build_pod(phase="Running", conditions=[ready(since_s=5, value="False")], containerStatuses=[running(9999)])],
        [],
    ),
    "a volume that is never mounted": (
        [build_pod(phase="Pending", startTime=stamp(601), containerStatuses=[waiting("ContainerCreating")])],
        [("chat-abc-0", Reason.ReplicaFailed)],
    ),
    "a pod without a node holds nothing": (
        [build_pod(node="", phase="Pending", startTime=stamp(9999), containerStatuses=[IMAGE])],
        [],
    ),
    "a pod that is being deleted already": (
        [build_pod(deleted=stamp(-9), phase="Pending", startTime=stamp(9999), containerStatuses=[IMAGE])],
        [],
    ),
    "the rest of a gang that has failed": (
        [
            build_pod(phase="Failed", containerStatuses=[terminated(message=OUT_OF_MEMORY)]),
            build_pod(rank=1, phase="Running", containerStatuses=[running(50)]),
            build_pod("chat-abc-1", phase="Running", containerStatuses=[running(50)]),
        ],
        [("chat-abc-0-1", Reason.OutOfMemory)],
    ),
}


@pytest.mark.parametrize(("pods", "retired"), RETIRED.values(), ids=RETIRED.keys())
def test_pods_that_hold_accelerators_in_vain_are_ended(
    pods: list[dict[str, Any]], retired: list[tuple[str, Reason]]
) -> None:
    assert [(name, failure.reason) for name, failure in pods_to_retire(pods, TIMES, NOW)] == retired


def test_a_terminating_replica_knows_when_it_counts_as_lost() -> None:
    assert read(build_pod(deleted=stamp(-30))).lost_at == NOW + timedelta(seconds=90)


def test_a_pod_with_borrowed_labels_is_no_replica() -> None:
    strangers = [build_pod("", name="debug"), build_pod("chat", name="chat-copy"), build_pod("chat-abc-x", name="x")]
    replicas = build_replicas([*strangers, READY_POD], times=TIMES, now=NOW, in_flight={})
    assert [replica.name for replica in replicas] == ["chat-abc-0"]


def test_how_busy_a_replica_is_is_asked_of_its_leader() -> None:
    (replica,) = build_replicas([READY_POD], times=TIMES, now=NOW, in_flight={"chat-abc-0": 4})
    assert replica.in_flight == 4


@given(pods=st.lists(any_pod, max_size=4), size=st.sampled_from(["", "1", "3", "x"]))
def test_any_pods_can_be_read(pods: list[dict[str, Any]], size: str) -> None:
    for pod in pods:
        pod["metadata"]["labels"]["llmos.dev/gang-size"] = size
    pods_to_retire(pods, TIMES, NOW)
    for replica in build_replicas(pods, times=TIMES, now=NOW, in_flight={}):
        assert (replica.failure is not None) == (replica.state is ReplicaState.FAILED)
        assert replica.stuck is None or replica.state is ReplicaState.STARTING
        assert replica.retry_at is None or replica.failure is not None
    names = {pod["metadata"]["name"] for pod in pods}
    assert {name for name, _ in pods_to_retire(pods, TIMES, NOW)} <= names
