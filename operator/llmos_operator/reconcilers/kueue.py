"""What a pass over a pool reads from Kueue, and writes on pods that wait for it.

Kueue's objects are not watched: they may come and go with their kinds, and the operator runs without them. They are
read with each pass over a pool of which a replica waits, and passes come every `LOOK_S` at least; that a gate was
lifted comes as an event of its pod.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from llmos.api.names import LABEL_REPLICA
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Conflict, Forbidden, Invalid, NotFound
from llmos_operator.kube.resources import CUSTOM_RESOURCE_DEFINITIONS, LOCAL_QUEUES, PODS, WORKLOADS, Resource
from llmos_operator.planning.failures import Failure
from llmos_operator.planning.kueue import (
    Owner,
    Sight,
    build_group,
    build_queue_labels,
    choose_version,
    explain_foreign_gate,
    explain_stops,
    explain_waiting,
    find_admitted,
    find_misplaced,
    find_superseded,
    is_gated_by_kueue,
    workload_selector,
)
from llmos_operator.reconcilers.base import Context

LOOK_S: Final = 15.0
QUEUE_CRD: Final = "localqueues.kueue.x-k8s.io"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KueueLook:
    """What Kueue means for one pool."""

    waits: Failure | None = None
    """Why replicas wait."""
    stopped: str = ""
    look_again_s: float | None = None


async def look_at_kueue(context: Context, queue: str, pods: Sequence[Object]) -> KueueLook:
    """Say why replicas of a pool wait for Kueue.

    Args:
        context: the surroundings.
        queue: the pool's LocalQueue; empty if its replicas do not wait for Kueue.
        pods: pods of the pool.
    """
    gated = [pod for pod in pods if is_gated_by_kueue(pod) and "deletionTimestamp" not in pod["metadata"]]
    stopped = explain_stops(pods)
    if not queue:
        return KueueLook(explain_foreign_gate(gated, context.settings), stopped)
    if not gated:
        return KueueLook(stopped=stopped)
    first = min(gated, key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
    sight = await _observe(context, queue, first)
    return KueueLook(explain_waiting(queue, first, sight), stopped, LOOK_S)


async def is_kueue_installed(context: Context) -> bool:
    """Whether the cluster has Kueue's kinds, in a version that we can read."""
    return bool(await _observe_version(context))


async def _observe_version(context: Context) -> str:
    return choose_version(await context.kube.get(CUSTOM_RESOURCE_DEFINITIONS, QUEUE_CRD))


async def _observe(context: Context, queue: str, pod: Object) -> Sight:
    version = await _observe_version(context)
    if not version:
        return Sight(is_installed=False)
    try:
        return Sight(
            is_installed=True,
            queue=await context.kube.get(_at(LOCAL_QUEUES, version), queue, pod["metadata"]["namespace"]),
            workload=await _observe_workload(context, version, pod),
        )
    except NotFound:
        # The kinds went away between two reads, or are not served yet.
        return Sight(is_installed=False)


async def _observe_workload(context: Context, version: str, pod: Object) -> Object | None:
    name, selector = workload_selector(pod)
    namespace = pod["metadata"]["namespace"]
    if name:
        return await context.kube.get(_at(WORKLOADS, version), name, namespace)
    found = await context.kube.list(_at(WORKLOADS, version), namespace=namespace, label_selector=selector)
    return found[0] if found else None


def _at(resource: Resource, version: str) -> Resource:
    return replace(resource, version=version)


def build_kueue_metadata(
    context: Context, pool: Owner, queue: str, replica: str, size: int, pods: Sequence[Object]
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return labels and annotations of the pods of a replica that is to wait for Kueue."""
    members = [pod for pod in pods if pod["metadata"]["labels"].get(LABEL_REPLICA) == replica]
    labels, annotations = build_group(replica, size, members, context.now())
    return {**build_queue_labels(pool, queue), **labels}, annotations


async def tend_pods(context: Context, pool: Owner, queue: str, pods: Sequence[Object], *, has_quota: bool) -> None:
    """Note which pods were admitted, move those that wait in the wrong queue, and delete those behind a wrong gate."""
    if queue:
        labels = build_queue_labels(pool, queue)
        for pod, noted in find_admitted(pods, context.now()):
            await _patch(context, pod, annotations=noted)
        for pod in find_misplaced(pods, labels):
            if not await _patch(context, pod, labels=labels):
                # It holds nothing, and the next one is made where the pool says.
                await _delete(context, pod)
    for pod in find_superseded(pods, context.settings.admission, has_quota=has_quota):
        await _delete(context, pod)


async def _delete(context: Context, pod: Mapping[str, Any]) -> None:
    metadata = pod["metadata"]
    try:
        await context.kube.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
    except Conflict:
        return


async def _patch(
    context: Context,
    pod: Mapping[str, Any],
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bool:
    """Write; False if a webhook or policy refuses it, which must not keep the pool from telling its state."""
    metadata = pod["metadata"]
    try:
        await context.kube.patch_metadata(
            PODS, metadata["name"], metadata["namespace"], labels=labels, annotations=annotations
        )
    except NotFound:
        return True
    except (Forbidden, Invalid) as error:
        _logger.warning(
            "A change of pod %s/%s is refused; see which webhook or policy of the cluster refuses it: %s",
            metadata["namespace"],
            metadata["name"],
            error,
        )
        return False
    return True
