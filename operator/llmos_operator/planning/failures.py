"""What went wrong in a pod, read from its status alone.

A worker writes a termination message (JSON with reason, message and last lines); where there is none (image pull,
scheduling,
eviction, a kill by the kernel) Kubernetes' own words are translated. Pure: a dict in, a `Failure` or None out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmos.api.names import ANNOTATION_FAILURE
from llmos.api.reasons import REASONS, Reason

JsonObject = Mapping[str, Any]

_IMAGE_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_EXIT_KILLED = 137
_OUT_OF_MEMORY_KILL = "OOMKilled"
_MESSAGE_LIMIT = 1200


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
    except (ValueError, KeyError, TypeError, AttributeError):
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
    for status in container_statuses(pod):
        terminated = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
        if terminated and terminated.get("exitCode", 0) != 0:
            return _failure_of_termination(pod, status.get("name", ""), terminated)
    status = pod.get("status", {})
    words = ": ".join(word for word in (status.get("reason", ""), status.get("message", "")) if word)
    return build_failure(Reason.ReplicaFailed, f"Pod {pod['metadata']['name']} failed ({words or 'no reason given'}).")


def _failure_of_termination(pod: JsonObject, container: str, terminated: JsonObject) -> Failure:
    if failure := failure_from_json(terminated.get("message", "")):
        return failure
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
        if condition["type"] != "PodScheduled" or condition["status"] != "False":
            continue
        if condition.get("reason") != "Unschedulable":
            return None
        since = read_time(condition.get("lastTransitionTime"))
        if since is not None and (now - since).total_seconds() < after_s:
            return None
        message = condition.get("message", "")
        if any(word in message.lower() for word in ("persistentvolumeclaim", "storageclass")):
            return build_failure(Reason.ClaimNotBound, f"The scheduler says: {message}")
        return build_failure(Reason.Unschedulable, f"The scheduler says: {message}")
    return None


def read_time(text: str | None) -> datetime | None:
    """Read a Kubernetes time stamp."""
    return datetime.fromisoformat(text) if text else None
