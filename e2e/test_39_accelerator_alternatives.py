"""Story 39: a pool names two accelerator classes. When the first one is full its replicas take the other, stay there
when the first one is free again, and new ones go back to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.cluster import Cluster
from e2e.cluster.node import PRETEND_GPUS
from e2e.support.api import Api, Object
from e2e.support.objects import KWOK_CLASS, PRETEND_CLASS, build_model, build_pool, wait_ready
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.tenants import tenants
from e2e.support.waiting import eventually
from e2e.test_08_scale_kwok import have_kwok_nodes
from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS, LABEL_POOL

pytestmark = [pytest.mark.timeout(900)]

MIXED = "mixed"
OTHERS = 2
"""Replicas that find no room of the first class."""
QUOTA = [
    {"class": PRETEND_CLASS, "guaranteed": PRETEND_GPUS},
    # No more than these: the one in a lost one's place is to wait for the first class until the lost one has ended.
    {"class": KWOK_CLASS, "guaranteed": OTHERS, "borrowLimit": 0},
]


@pytest.fixture
def kwok_node(machine: Cluster) -> Iterator[None]:
    """At least one simulated node; afterwards as many as before."""
    before = sum(node["name"].startswith("kwok-") for node in machine.status()["nodes"])
    have_kwok_nodes(max(1, before))
    yield
    have_kwok_nodes(before)


async def read_classes(api: Api, namespace: str) -> dict[str, str]:
    """The class of each pod of the pool, by its name."""
    pods = await api.list("Pod", namespace, selector=f"{LABEL_POOL}={MIXED}")
    return {pod["metadata"]["name"]: pod["metadata"]["annotations"][ANNOTATION_ACCELERATOR_CLASS] for pod in pods}


async def wait_for_counts(api: Api, namespace: str, what: str, **wanted: int) -> Object:
    """Wait until so many replicas of each class answer; return the pool."""

    async def observe() -> Object:
        return await api.get("InferencePool", MIXED, namespace) or {}

    def has_come(pool: Object) -> bool:
        told = pool.get("status", {}).get("acceleratorClasses", ())
        ready = {each["class"]: each["readyReplicas"] for each in told}
        return ready == {PRETEND_CLASS: wanted["first"], KWOK_CLASS: wanted["other"]}

    return await eventually(what, observe, has_come, timeout_s=240)


async def test_replicas_take_the_class_that_has_room_and_stay_there(
    api: Api, kwok_node: None, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await eventually(
        "the class of the simulated GPUs",
        lambda: api.get("AcceleratorClass", KWOK_CLASS),
        lambda found: found and found.get("status", {}).get("capacity", 0) >= OTHERS,
    )
    async with tenants(api, team=PRETEND_GPUS, within={"team": namespace}):
        await api.patch("Tenant", "team", "", {"spec": {"quota": QUOTA}})
        await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
        pool = build_pool(namespace, name=MIXED, replicas=PRETEND_GPUS + OTHERS)
        pool["spec"]["accelerator"] = {"class": PRETEND_CLASS, "count": 1, "alternatives": [KWOK_CLASS]}
        await api.create(pool)
        await wait_for_counts(api, namespace, "the rest takes the other class", first=PRETEND_GPUS, other=OTHERS)
        for pod in await api.list("Pod", namespace, selector=f"{LABEL_POOL}={MIXED}"):
            is_simulated = pod["spec"]["nodeName"].startswith("kwok-")
            made_for = pod["metadata"]["annotations"][ANNOTATION_ACCELERATOR_CLASS]
            assert made_for == (KWOK_CLASS if is_simulated else PRETEND_CLASS)

        # One of the first class is lost: the one in its place goes there again, and nobody else moves.
        before = await read_classes(api, namespace)
        lost = next(name for name, made_for in before.items() if made_for == PRETEND_CLASS)
        await api.delete("Pod", lost, namespace)
        await eventually(
            "another pod is there",
            lambda: read_classes(api, namespace),
            lambda seen: lost not in seen and len(seen) == len(before),
            timeout_s=240,
        )
        await wait_for_counts(api, namespace, "as many as before", first=PRETEND_GPUS, other=OTHERS)
        after = await read_classes(api, namespace)
        others = {name for name, made_for in before.items() if made_for == KWOK_CLASS}
        assert others <= set(after), "what runs stays where it is"
