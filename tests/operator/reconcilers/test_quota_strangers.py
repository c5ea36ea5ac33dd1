"""Pods that only look like replicas, and passes that fail."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from llmos.api.names import (
    ANNOTATION_QUOTA,
    COMPONENT_REPLICA,
    LABEL_COMPONENT,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
)
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import PODS
from llmos_operator.planning.quota import Placement
from llmos_operator.planning.quota_record import QuotaRecord, build_record_annotation
from llmos_operator.reconcilers.base import Key
from llmos_operator.reconcilers.quota_board import QUOTA
from llmos_operator.reconcilers.registry import RECONCILERS
from llmos_operator.runtime.workqueue import WorkQueue
from tests.operator.reconcilers.quota_world import CLASS, GPU, Cluster, gpu_pool, tenant
from tests.operator.reconcilers.world import NAMESPACE


def pretender(replica: str, gpus: int, **annotations: str) -> dict[str, Any]:
    """A pod that a person made, with the labels of a replica; not ours: it has no managed-by."""
    labels = {LABEL_POOL: "chat", LABEL_REPLICA: replica, LABEL_RANK: "0", LABEL_COMPONENT: COMPONENT_REPLICA}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a-notebook", "namespace": NAMESPACE, "labels": labels, "annotations": annotations},
        "spec": {
            "nodeName": "n1",
            "nodeSelector": {"gpu": "h100"},
            "containers": [{"name": "x", "resources": {"limits": {GPU: str(gpus)}}}],
        },
        "status": {"phase": "Running"},
    }


async def test_a_strangers_pod_with_the_labels_of_a_replica_takes_its_accelerators_away() -> None:
    world = Cluster(tenant("a", NAMESPACE, guaranteed=1), tenant("b", "team-b", guaranteed=3), gpu_pool("chat"))
    await world.settle()
    (replica,) = world.pods()
    world.kube.put(pretender(replica["metadata"]["labels"][LABEL_REPLICA], 3))
    world.pass_time(61)
    world.kube.put(gpu_pool("other", "team-b"))
    await world.settle(2)
    assert world.held("team-b") == []  # n1 has 4: one is the replica's, three are the stranger's.


async def test_a_strangers_pod_with_the_labels_of_a_replica_is_neither_patched_nor_deleted() -> None:
    world = Cluster(tenant("a", NAMESPACE, guaranteed=0), tenant("b", "team-b", guaranteed=4), gpu_pool("chat"))
    await world.settle()
    (replica,) = world.pods()
    world.kube.put(pretender(replica["metadata"]["labels"][LABEL_REPLICA], 1))
    world.pass_time(61)
    world.kube.put(gpu_pool("other", "team-b", replicas=4))
    await world.reconcile("InferencePool", "other", "team-b")
    world.kube.forget_writes()
    for _ in range(6):  # The pass alone: pools are shown the pods of ours only (`StoredKube`), which the fake is not.
        world.pass_time(60)
        await world.quota()
    assert not [write for write in world.kube.writes if "a-notebook" in str(write)]


async def test_a_strangers_pod_does_not_hold_a_tenants_quota_and_its_record_counts_for_nothing() -> None:
    """Whoever may make a pod in a namespace could say of it whatever he likes: here, that it holds 1 of class h100 on a
    node that he has never seen."""
    record = build_record_annotation(QuotaRecord(Placement(CLASS, ("n1", "n1", "n1")), 5.0))
    world = Cluster(tenant("a", NAMESPACE, guaranteed=4), gpu_pool("chat", replicas=0))
    await world.settle(2)
    world.kube.put(pretender("chat-mine", 1, **{ANNOTATION_QUOTA: record[ANNOTATION_QUOTA]}))
    world.pass_time(61)
    await world.settle(2)
    assert world.tenant_status("a")["accelerators"] == "0/4"


async def test_a_pass_whose_writes_fail_is_tried_again_ever_more_seldom() -> None:
    world = Cluster(tenant("a", NAMESPACE), gpu_pool("chat"))
    await world.reconcile("InferencePool", "chat")
    tries, delays = 0, []
    world.context = type(world.context)(
        kube=world.kube,
        settings=world.context.settings,
        now=lambda: datetime.now(UTC),
        observe_in_flight=world.context.observe_in_flight,
    )
    slow_list = world.kube.list

    async def list_slowly(resource: Any, **which: Any) -> Any:
        if resource is PODS:
            await asyncio.sleep(0.15)  # as with some thousand pods
        return await slow_list(resource, **which)

    async def fail(*_: Any) -> Any:
        nonlocal tries
        tries += 1
        raise Unavailable("etcd is gone")

    world.kube.list = list_slowly  # type: ignore[method-assign]
    world.kube.merge = fail  # type: ignore[method-assign, assignment]

    async def process(key: Key) -> float | None:
        return (await RECONCILERS[key.kind](world.context, key)).requeue_after_s

    queue = WorkQueue[Key](
        process,
        workers=1,
        on_failure=lambda _key, _error, delay_s: delays.append(delay_s),
        own_workers=frozenset({QUOTA}),
        chance=lambda: 0.5,
    )
    queue.add(QUOTA)
    await asyncio.sleep(5)
    await queue.drain(1)
    assert max(delays) > 1, delays
