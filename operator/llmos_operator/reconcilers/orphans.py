"""Pods whose owner is gone, on nodes that are gone: nobody else ends them, and each keeps its accelerators until then.

Garbage collection asks for their end, the kubelet that should report it is silent. The rule is the one for pods whose
owner is there (`planning.gangs.is_lost`): a minute after the grace period, force.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmos.api.names import LABEL_MANAGED_BY, MANAGED_BY
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Conflict
from llmos_operator.kube.resources import PODS
from llmos_operator.planning.gangs import find_lost_at, is_lost
from llmos_operator.reconcilers.base import Context, Key, Result


async def tend_orphans(context: Context, label: str, owner: Key) -> Result:
    """Remove lost pods of an owner that is gone; look again while others are ending."""
    pods = await context.kube.list(PODS, namespace=owner.namespace, label_selector=f"{label}={owner.name}")
    ours = (pod for pod in pods if pod["metadata"]["labels"].get(LABEL_MANAGED_BY) == MANAGED_BY)
    return Result(requeue_after_s=await remove_lost_pods(context, ours))


async def remove_lost_pods(context: Context, pods: Iterable[Object]) -> float | None:
    """Remove those that are lost; return after how many seconds the next one will be, if it does not end before."""
    waits: list[float] = []
    for pod in pods:
        metadata, lost_at = pod["metadata"], find_lost_at(pod)
        if is_lost(pod, context.now()):
            await _remove(context, metadata)
        elif lost_at is not None:
            waits.append((lost_at - context.now()).total_seconds())
    return min(waits, default=None)


async def _remove(context: Context, metadata: Object) -> None:
    try:
        await context.kube.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"], grace_period_s=0)
    except Conflict:
        return  # It ended, and another one has its name.
