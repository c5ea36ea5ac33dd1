"""The pod that gives an adapter's files to replicas: there is one while a pool wants the adapter. Pure.

Its containers are started again by the kubelet, with its growing pauses. What is left to do here is to replace a pod
that ended as a whole (evicted, its node gone), and one that shares another version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmos.api import LLMModel
from llmos.api.names import LABEL_REVISION, TOKEN_HASH_VARIABLE
from llmos_operator.planning.failures import (
    Failure,
    failure_from_json,
    failure_of_unscheduled_pod,
    failure_of_waiting_pod,
    read_attempt,
)
from llmos_operator.planning.gangs import has_finished, is_deleted, is_lost

Pod = Mapping[str, Any]


@dataclass(frozen=True)
class Removal:
    """A pod to delete; at once if its node will not say that it has ended."""

    pod: Pod
    is_lost: bool


@dataclass(frozen=True)
class SharePlan:
    """What to do now."""

    create_attempt: int | None = None
    delete: tuple[Removal, ...] = ()


def compute_share_version(digest: str) -> str:
    """Return the short name of the files that a pod shares."""
    return digest.partition(":")[2][:8]


def is_wanted_by(pool: Mapping[str, Any], model: LLMModel) -> bool:
    """Whether a pool (as it is written) loads this adapter, as far as it can."""
    metadata, adapters = pool["metadata"], (pool.get("spec") or {}).get("adapters")
    if adapters is None or model.spec.adapter is None or "deletionTimestamp" in metadata:
        return False
    if metadata.get("namespace") != model.metadata.namespace:
        return False
    named = {reference.get("name") for reference in adapters.get("models") or ()}
    return model.metadata.name in named or metadata["name"] in model.spec.adapter.attach_to


def plan_share(pods: Sequence[Pod], *, digest: str, is_wanted: bool, now: datetime, token_hash: str = "") -> SharePlan:
    """Return the next step towards one pod that shares `digest` for the bearer of a token, or towards none.

    Args:
        pods: share pods of the adapter.
        digest: of the files to share.
        is_wanted: whether a pool wants them.
        now: the current time.
        token_hash: what the pod has to know; empty = whatever it knows. It changes with the operator's key.
    """
    version = compute_share_version(digest)
    current = [pod for pod in pods if pod["metadata"]["labels"].get(LABEL_REVISION) == version]
    alive = [pod for pod in current if not is_deleted(pod) and not has_finished(pod) and _knows(pod, token_hash)]
    keep = min(alive, key=_age, default=None) if is_wanted else None
    delete = tuple(
        Removal(pod, is_lost(pod, now))
        for pod in pods
        if pod is not keep and (not is_deleted(pod) or is_lost(pod, now))
    )
    attempts = [read_attempt(pod["metadata"]) for pod in current]
    create = max(attempts, default=-1) + 1 if is_wanted and keep is None else None
    return SharePlan(create, delete)


def failure_of_share(pods: Iterable[Pod], now: datetime, patience_s: float) -> Failure | None:
    """Return why an adapter's files are not shared, None if nothing is known to be wrong."""
    for pod in pods:
        if is_deleted(pod):
            continue
        if found := failure_of_unscheduled_pod(pod, now, patience_s) or _failure_of_last_end(pod):
            return found
        if found := failure_of_waiting_pod(pod):
            return found
    return None


def _failure_of_last_end(pod: Pod) -> Failure | None:
    """A container that the kubelet will start again says why it ended last."""
    status = pod.get("status") or {}
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state, last = container.get("state") or {}, container.get("lastState") or {}
        ended = state.get("terminated") or ({} if "running" in state else last.get("terminated")) or {}
        if ended.get("exitCode") and (failure := failure_from_json(str(ended.get("message", "")))):
            return failure
    return None


def _knows(pod: Pod, token_hash: str) -> bool:
    if not token_hash:
        return True
    variables = (each for container in pod["spec"]["containers"] for each in container.get("env") or ())
    return any(each.get("name") == TOKEN_HASH_VARIABLE and each.get("value") == token_hash for each in variables)


def _age(pod: Pod) -> tuple[str, str]:
    return str(pod["metadata"].get("creationTimestamp", "")), pod["metadata"]["name"]
