"""What went wrong in a pod, read from its status alone.

A worker writes a termination message (JSON with reason, message and last lines); where there is none (image pull,
scheduling,
eviction, a kill by the kernel) Kubernetes' own words are translated. Pure: a dict in, a `Failure` or None out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from llmos.api.names import ANNOTATION_ATTEMPT, ANNOTATION_FAILURE
from llmos.api.reasons import REASONS, Reason

JsonObject = Mapping[str, Any]

_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_STORAGE_WORDS = ("persistentvolumeclaim", "persistent volume", "storageclass", "pvc(s)", "enough free storage")
_PLACE_WORDS = ("volume node affinity", "persistentvolume's node affinity", "volume zone")
"""A bound volume keeps the pod from some nodes; those that it can reach are full or do not fit."""
_PLACE_REMEDY = (
    "Its files lie in a volume that only some nodes can reach: make room there, or keep them with accessMode "
    "ReadWriteMany where the StorageClass can do that."
)
_EXIT_KILLED = 137
_OUT_OF_MEMORY_KILL = "OOMKilled"
_MESSAGE_LIMIT = 1200
_ATTEMPT_DIGITS = 9


@dataclass(frozen=True)
class Failure:
    """Why something does not work: a reason of the table, and the cause and remedy in words."""

    reason: Reason
    message: str

    @property
    def may_retry(self) -> bool:
        """Whether trying again without a change can help."""
        return REASONS[self.reason].retry == "back-off"

    def to_json(self) -> str:
        """Return the form that stands in a termination message or an annotation."""
        return json.dumps({"reason": self.reason.value, "message": self.message})


def failure_from_json(text: str) -> Failure | None:
    """Read a worker's termination message; None if it is not one."""
    try:
        data = json.loads(text)
        reason = Reason(data["reason"])
        message = str(data["message"])
        detail = str(data.get("detail") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not REASONS[reason].problem:
        return None
    if detail:
        message = f"{message} Last lines: {detail}"
    return Failure(reason, _shorten(message))


def describe(reason: Reason, detail: str = "") -> str:
    """Return cause and remedy from the table with the particular detail between them."""
    info = REASONS[reason]
    parts = (info.cause, detail.strip(), info.remedy)
    return " ".join(part for part in parts if part)


def build_failure(reason: Reason, detail: str = "") -> Failure:
    """Return a failure whose message is made from the table and a detail."""
    return Failure(reason, _shorten(describe(reason, detail)))


def name_model(failure: Failure, name: str) -> Failure:
    """Return the failure with a remedy that can be typed as it stands: the table does not know the model's name."""
    if failure.reason is not Reason.ModelNotReady:
        return failure
    return Failure(failure.reason, failure.message.replace("llmmodel NAME", f"llmmodel {name}"))


def describe_fields(error: ValidationError) -> str:
    """Return which fields of an object cannot be read, and why."""
    return "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5])


def _shorten(text: str) -> str:
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 1] + "…"


def container_statuses(pod: JsonObject) -> list[JsonObject]:
    """Return the statuses of all containers, init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def failure_of_finished_pod(pod: JsonObject) -> Failure:
    """Say why a pod of phase Failed failed."""
    noted = pod["metadata"].get("annotations", {}).get(ANNOTATION_FAILURE, "")
    if noted and (failure := failure_from_json(noted)):
        return failure
    bad_ends = _bad_ends(pod)
    if failure := _failure_in_words(bad_ends):
        return failure
    status = pod.get("status", {})
    # A kubelet that ends a pod itself (eviction, deadline, shutdown) says why; the exit codes are only its signal.
    if bad_ends and not status.get("reason"):
        return _failure_of_termination(pod, *bad_ends[0])
    words = ": ".join(word for word in (status.get("reason", ""), status.get("message", "")) if word)
    return build_failure(Reason.ReplicaFailed, f"Pod {pod['metadata']['name']} failed ({words or 'no reason given'}).")


def failure_of_own_end(pod: JsonObject) -> Failure | None:
    """Say why a pod ended that was about to be ended; None if nothing tells that it ended by itself.

    A worker that is asked to end leaves no termination message, and the kernel kills for memory only.
    """
    bad_ends = _bad_ends(pod)
    killed = [named for named in bad_ends if named[1].get("reason") == _OUT_OF_MEMORY_KILL]
    return _failure_in_words(bad_ends) or (_failure_of_termination(pod, *killed[0]) if killed else None)


def _failure_in_words(bad_ends: Iterable[tuple[str, JsonObject]]) -> Failure | None:
    """Return what a worker left as its termination message."""
    told = (failure_from_json(end.get("message", "")) for _, end in bad_ends)
    return next((failure for failure in told if failure is not None), None)


def _bad_ends(pod: JsonObject) -> list[tuple[str, JsonObject]]:
    """Return the ends of containers that ended badly, with their names."""
    ends = ((status.get("name", ""), _termination(status)) for status in container_statuses(pod))
    return [(name, end) for name, end in ends if end.get("exitCode", 0) != 0]


def _termination(status: JsonObject) -> JsonObject:
    return status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}


def _failure_of_termination(pod: JsonObject, container: str, terminated: JsonObject) -> Failure:
    name = pod["metadata"]["name"]
    code = terminated.get("exitCode", 0)
    if terminated.get("reason") == _OUT_OF_MEMORY_KILL:
        return build_failure(
            Reason.OutOfMemory,
            f"The kernel killed container {container} of pod {name} at its memory limit (host memory, not the "
            f"accelerator's).",
        )
    killed = " (killed)" if code == _EXIT_KILLED else ""
    lines = terminated.get("message", "").strip()
    detail = f"Container {container} of pod {name} ended with exit code {code}{killed}."
    return build_failure(Reason.EngineCrashed, f"{detail} Last lines: {lines}" if lines else detail)


def failure_of_waiting_pod(pod: JsonObject) -> Failure | None:
    """Say what keeps a pod from starting: image, secret, container configuration. None if it just takes its time."""
    name = pod["metadata"]["name"]
    for status in container_statuses(pod):
        waiting = status.get("state", {}).get("waiting")
        if not waiting:
            continue
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _IMAGE_REASONS:
            return build_failure(
                Reason.ImagePullFailed, f"Image {status.get('image', '')} of pod {name}: {message or reason}."
            )
        if reason == "CreateContainerConfigError" and "secret" in message:
            return build_failure(Reason.SecretNotFound, f"Pod {name}: {message}.")
        if reason in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
            return build_failure(Reason.ReplicaFailed, f"Pod {name}: {message or reason}.")
    return None


def failure_of_unscheduled_pod(pod: JsonObject, now: datetime, after_s: float) -> Failure | None:
    """Say why the scheduler finds no node, once that has lasted `after_s` seconds."""
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition.get("type") != "PodScheduled" or condition.get("status") != "False":
            continue
        if condition.get("reason") != "Unschedulable":
            return None
        since = read_time(condition.get("lastTransitionTime"))
        if since is not None and (now - since).total_seconds() < after_s:
            return None
        message = condition.get("message", "")
        if any(word in message.lower() for word in _STORAGE_WORDS):
            return build_failure(Reason.ClaimNotBound, f"The scheduler says: {message}")
        told = f"{_describe_devices(pod, message)}The scheduler says: {message}"
        is_kept_away = any(word in message.lower() for word in _PLACE_WORDS)
        return build_failure(Reason.Unschedulable, f"{told} {_PLACE_REMEDY}" if is_kept_away else told)
    return None


def _describe_devices(pod: JsonObject, message: str) -> str:
    """Return which accelerators a pod asks for, by the names of their resources; nothing if it asks for none."""
    wanted = {
        name: number
        for container in pod.get("spec", {}).get("containers", ())
        for name, number in (container.get("resources", {}).get("limits") or {}).items()
        if "/" in name
    }
    if not wanted:
        return ""
    asks = f"Pod {pod['metadata']['name']} asks for {', '.join(f'{number} {name}' for name, number in wanted.items())}"
    # A taint, a selector or a volume may be what keeps it waiting, while accelerators are free.
    is_short = any(f"Insufficient {name}" in message for name in wanted)
    return f"{asks} and no node has that free. " if is_short else f"{asks}. "


def failure_of_slow_creation(pod: JsonObject, now: datetime, after_s: float, reason: Reason) -> Failure | None:
    """Say that a pod has lain on its node for `after_s` seconds while none of its containers gets on.

    What holds it up (a volume that cannot be mounted, a network that cannot be had) Kubernetes tells in Events only.
    """
    status = pod.get("status", {})
    if status.get("phase") != "Pending" or not pod.get("spec", {}).get("nodeName"):
        return None
    if any(container.get("state", {}).get("running") for container in container_statuses(pod)):
        return None
    moments = [status.get("startTime"), *(_termination(s).get("finishedAt") for s in container_statuses(pod))]
    since = max((moment for text in moments if (moment := read_time(text))), default=None)
    if since is None or (now - since).total_seconds() < after_s:
        return None
    name = pod["metadata"]["name"]
    return build_failure(
        reason,
        f"Pod {name} is on its node, but no container has started since {since:%H:%M:%S} UTC: a volume, the network or "
        f"a large image. kubectl describe pod {name} tells which.",
    )


def read_time(text: str | None) -> datetime | None:
    """Read a Kubernetes time stamp; None if there is none, or if a person wrote something else in its place."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def read_attempt(metadata: JsonObject) -> int:
    """Read the number of the attempt that a pod or Job is; 0 if the annotation holds no number."""
    text = metadata.get("annotations", {}).get(ANNOTATION_ATTEMPT, "")
    return int(text) if text.isdecimal() and len(text) <= _ATTEMPT_DIGITS else 0
