"""What went wrong in a pod, in the words of kubelet, scheduler and worker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.reasons import REASONS, Reason
from llmos_operator.planning.failures import (
    Failure,
    build_failure,
    failure_from_json,
    failure_of_finished_pod,
    failure_of_slow_creation,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_attempt,
    read_time,
)
from tests.operator.planning.pods import NOW, any_pod, build_pod, running, stamp, terminated, waiting

SAID = json.dumps({"reason": "OutOfMemory", "message": "CUDA out of memory. Lower it."})
NOTED = {"llmos.dev/failure": Failure(Reason.ImagePullFailed, "no such image").to_json()}
EVICTED: dict[str, Any] = {"reason": "Evicted", "message": "The node was low on resource: memory."}

FINISHED: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "the worker's own message wins": (
        build_pod(phase="Failed", containerStatuses=[terminated(message=SAID)]),
        Reason.OutOfMemory,
        "CUDA out of memory",
    ),
    "the fetch step of a pod speaks before its engine, which never ran": (
        build_pod(
            phase="Failed",
            initContainerStatuses=[terminated(name="fetch", message=SAID)],
            containerStatuses=[waiting("PodInitializing")],
        ),
        Reason.OutOfMemory,
        "CUDA",
    ),
    "a sidecar that also ended badly does not hide the worker's message": (
        build_pod(
            phase="Failed",
            initContainerStatuses=[terminated(name="proxy", code=143)],
            containerStatuses=[terminated(message=SAID)],
        ),
        Reason.OutOfMemory,
        "CUDA",
    ),
    "what the operator noted before it ended the pod wins over the exit code": (
        build_pod(phase="Failed", annotations=NOTED, reason="DeadlineExceeded", containerStatuses=[terminated()]),
        Reason.ImagePullFailed,
        "no such image",
    ),
    "a kill at the memory limit": (
        build_pod(phase="Failed", containerStatuses=[terminated(code=137, reason="OOMKilled")]),
        Reason.OutOfMemory,
        "host memory",
    ),
    "a kill by somebody else": (
        build_pod(phase="Failed", containerStatuses=[terminated(code=137, reason="Error")]),
        Reason.EngineCrashed,
        "exit code 137 (killed)",
    ),
    "a message that is no JSON is shown as the last lines": (
        build_pod(phase="Failed", containerStatuses=[terminated(message="ValueError: no\n")]),
        Reason.EngineCrashed,
        "Last lines: ValueError: no",
    ),
    "an eviction, whose exit codes are only the signal": (
        build_pod(phase="Failed", **EVICTED, containerStatuses=[terminated(code=137)]),
        Reason.ReplicaFailed,
        "Evicted: The node was low on resource: memory.",
    ),
    "a pod that its kubelet refused has no containers at all": (
        build_pod(phase="Failed", reason="UnexpectedAdmissionError", message="no device", startTime=stamp()),
        Reason.ReplicaFailed,
        "UnexpectedAdmissionError: no device",
    ),
    "a container that the kubelet lost": (
        build_pod(
            phase="Failed",
            containerStatuses=[
                {
                    "name": "engine",
                    "state": {
                        "terminated": {
                            "exitCode": 137,
                            "reason": "ContainerStatusUnknown",
                            "message": "The container could not be located when the pod was terminated",
                            "startedAt": None,
                            "finishedAt": None,
                        }
                    },
                }
            ],
        ),
        Reason.EngineCrashed,
        "could not be located",
    ),
    "nothing is said at all": (build_pod(phase="Failed"), Reason.ReplicaFailed, "no reason given"),
}


@pytest.mark.parametrize(("pod", "reason", "words"), FINISHED.values(), ids=FINISHED.keys())
def test_a_pod_that_failed_is_explained(pod: dict[str, Any], reason: Reason, words: str) -> None:
    failure = failure_of_finished_pod(pod)
    assert failure.reason is reason
    assert words in failure.message


WAITING: dict[str, tuple[dict[str, Any], Reason | None]] = {
    "an image that cannot be pulled": (waiting("ErrImagePull", "not found"), Reason.ImagePullFailed),
    "an image whose pull is put off": (waiting("ImagePullBackOff"), Reason.ImagePullFailed),
    "an image whose name is none": (waiting("InvalidImageName"), Reason.ImagePullFailed),
    "a registry that is away": (waiting("RegistryUnavailable"), Reason.ImagePullFailed),
    "an image whose signature is refused": (waiting("SignatureValidationFailed"), Reason.ImagePullFailed),
    "a Secret that does not exist": (
        waiting("CreateContainerConfigError", 'secret "hf-token" not found'),
        Reason.SecretNotFound,
    ),
    "another mistake in the container": (waiting("CreateContainerConfigError", "no such user"), Reason.ReplicaFailed),
    "a program that is not in the image": (waiting("RunContainerError", "exec: python"), Reason.ReplicaFailed),
    "a container that is being created": (waiting("ContainerCreating"), None),
    "a container that waits for its init containers": (waiting("PodInitializing"), None),
    "a container that runs": (running(1), None),
}


@pytest.mark.parametrize(("status", "reason"), WAITING.values(), ids=WAITING.keys())
def test_what_keeps_a_pod_from_starting_is_told(status: dict[str, Any], reason: Reason | None) -> None:
    failure = failure_of_waiting_pod(build_pod(phase="Pending", containerStatuses=[status]))
    assert (failure.reason if failure else None) is reason


def unscheduled(message: str, *, since_s: float = 60, reason: str = "Unschedulable") -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    return build_pod(node="", phase="Pending", conditions=[{**condition, "lastTransitionTime": stamp(since_s)}])


UNSCHEDULED: dict[str, tuple[dict[str, Any], Reason | None]] = {
    "no free accelerator": (unscheduled("0/3 nodes: 3 Insufficient nvidia.com/gpu."), Reason.Unschedulable),
    "a claim that is not bound": (
        unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        Reason.ClaimNotBound,
    ),
    "a claim that does not exist": (unscheduled('persistentvolumeclaim "x" not found'), Reason.ClaimNotBound),
    "no volume to bind": (
        unscheduled("0/1 nodes: 1 node(s) didn't find available persistent volumes to bind."),
        Reason.ClaimNotBound,
    ),
    "a claim whose volume is gone": (
        unscheduled("0/1 nodes: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."),
        Reason.ClaimNotBound,
    ),
    "a volume on another node": (
        unscheduled("0/2 nodes: 1 Insufficient nvidia.com/gpu, 1 node(s) had volume node affinity conflict."),
        Reason.Unschedulable,
    ),
    "it is only for a moment yet": (unscheduled("0/3 nodes", since_s=5), None),
    "a gate that someone set on purpose": (unscheduled("gated", reason="SchedulingGated"), None),
    "a pod that has its node": (build_pod(phase="Pending"), None),
}


@pytest.mark.parametrize(("pod", "reason"), UNSCHEDULED.values(), ids=UNSCHEDULED.keys())
def test_the_words_of_the_scheduler_are_told_after_a_while(pod: dict[str, Any], reason: Reason | None) -> None:
    failure = failure_of_unscheduled_pod(pod, NOW, 10)
    assert (failure.reason if failure else None) is reason


CREATING = [waiting("ContainerCreating")]
SLOW: dict[str, tuple[dict[str, Any], bool]] = {
    "its volumes cannot be mounted": (
        build_pod(phase="Pending", startTime=stamp(900), containerStatuses=CREATING),
        True,
    ),
    "it has just come": (build_pod(phase="Pending", startTime=stamp(5), containerStatuses=CREATING), False),
    "it still fetches": (
        build_pod(
            phase="Pending",
            startTime=stamp(900),
            initContainerStatuses=[running(890, "fetch")],
            containerStatuses=CREATING,
        ),
        False,
    ),
    "it has fetched a moment ago": (
        build_pod(
            phase="Pending",
            startTime=stamp(900),
            initContainerStatuses=[terminated(name="fetch", code=0, finished_s=3)],
            containerStatuses=CREATING,
        ),
        False,
    ),
    "it has no node": (build_pod(node="", phase="Pending", startTime=stamp(900)), False),
    "it runs": (build_pod(phase="Running", startTime=stamp(900), containerStatuses=[running(5)]), False),
}


@pytest.mark.parametrize(("pod", "is_slow"), SLOW.values(), ids=SLOW.keys())
def test_a_pod_that_hangs_on_its_node_is_told(pod: dict[str, Any], is_slow: bool) -> None:
    failure = failure_of_slow_creation(pod, NOW, 600, Reason.ReplicaFailed)
    assert (failure is not None) is is_slow


@pytest.mark.parametrize(
    "text",
    ["", "killed", "[]", "null", "7", '{"reason": "Nonsense", "message": ""}', '{"reason": ["x"]}', "[" * 4000],
    ids=["empty", "words", "a list", "null", "a number", "an unknown reason", "a reason of a wrong type", "depth"],
)
def test_what_is_no_termination_message_is_none(text: str) -> None:
    assert failure_from_json(text) is None


def test_a_reason_of_success_is_no_failure_even_if_a_worker_says_so() -> None:
    for reason in Reason:
        failure = failure_from_json(json.dumps({"reason": reason.value, "message": "m"}))
        assert (failure is not None) is REASONS[reason].problem


@given(reason=st.sampled_from([r for r in Reason if REASONS[r].problem]), message=st.text(max_size=200))
def test_a_failure_survives_the_way_through_an_annotation(reason: Reason, message: str) -> None:
    failure = Failure(reason, message)
    assert failure_from_json(failure.to_json()) == failure


@given(detail=st.text(max_size=5000))
def test_a_message_has_a_limit(detail: str) -> None:
    assert len(build_failure(Reason.EngineCrashed, detail).message) <= 1200


@given(pod=any_pod)
def test_any_status_can_be_read(pod: dict[str, Any]) -> None:
    assert REASONS[failure_of_finished_pod(pod).reason].problem
    for failure in (
        failure_of_waiting_pod(pod),
        failure_of_unscheduled_pod(pod, NOW, 10),
        failure_of_slow_creation(pod, NOW, 10, Reason.FetchFailed),
    ):
        assert failure is None or failure.message
    assert read_attempt(pod["metadata"]) >= 0


@given(text=st.one_of(st.none(), st.text(max_size=30), st.datetimes().map(lambda moment: moment.isoformat())))
def test_a_time_is_read_with_its_zone_or_not_at_all(text: str | None) -> None:
    moment = read_time(text)
    assert moment is None or moment.tzinfo is not None


def test_a_pod_that_finds_no_node_says_which_accelerators_it_asks_for() -> None:
    pod = unscheduled("0/3 nodes: 3 Insufficient nvidia.com/gpu.")
    pod["spec"]["containers"] = [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "4", "memory": "8Gi"}}}]
    failure = failure_of_unscheduled_pod(pod, NOW, 10)
    assert failure is not None
    assert "asks for 4 nvidia.com/gpu and no node has that free" in failure.message
    assert "3 Insufficient nvidia.com/gpu" in failure.message
    assert "memory" not in failure.message


@pytest.mark.parametrize(
    "words",
    [
        "1 node(s) didn't match PersistentVolume's node affinity",
        "1 node(s) had volume node affinity conflict",
        "1 node(s) had no available volume zone",
    ],
    ids=["Kubernetes 1.34", "before", "zones"],
)
def test_a_pod_that_its_volume_keeps_from_free_accelerators_says_so(words: str) -> None:
    pod = unscheduled(f"0/2 nodes are available: 1 node(s) had untolerated taint, {words}.")
    pod["spec"]["containers"] = [{"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]
    failure = failure_of_unscheduled_pod(pod, NOW, 10)
    assert failure is not None
    assert failure.reason is Reason.Unschedulable
    assert "asks for 1 nvidia.com/gpu. " in failure.message
    assert "ReadWriteMany" in failure.message
    assert "no node has that free" not in failure.message
