"""Story 28: an adapter is attached to a running pool, is on a new replica before its first request, is replaced by its
next version under the same name, and is taken away again. No pod of the pool is restarted for any of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

from e2e.cluster.objects import Kubectl
from e2e.support.api import Api, Object
from e2e.support.gateway import SYSTEM_NAMESPACE
from e2e.support.objects import (
    build_adapter,
    build_model,
    build_namespace,
    build_pool,
    is_active,
    pool_selector,
    read_condition,
    wait_ready,
)
from e2e.support.operator import OperatorProcess
from e2e.support.source import Source
from e2e.support.waiting import eventually
from llmos.api.names import ENGINE_PORT

pytestmark = [pytest.mark.core, pytest.mark.timeout(900)]

NAME = "support"


@pytest.fixture
def system_namespace(kubectl: Kubectl) -> None:
    """Where the operator keeps the key for tokens. Here it is a process, so that nobody else has made its namespace."""
    if not kubectl("get", "namespace", SYSTEM_NAMESPACE, "--ignore-not-found", "--output=name").strip():
        kubectl.apply([build_namespace(SYSTEM_NAMESPACE)])


async def test_adapters_come_change_and_go_while_the_pool_runs(
    api: Api, system_namespace: None, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    pool = await api.create(build_pool(namespace, replicas=2, adapters={"maxLoaded": 2}))
    await wait_ready(api, pool, timeout_s=240)
    before = {pod["metadata"]["uid"] for pod in await find_pods(api, namespace)}

    # Attached: both replicas have it, and none was restarted.
    await api.create(build_adapter(namespace, f"{source.url}/adapter", name=NAME, attach_to=("pool",)))
    first = await wait_for_adapter(api, namespace, lambda status: len(status["replicas"]) == 2)
    pods = await find_pods(api, namespace)
    assert {pod["metadata"]["uid"] for pod in pods} == before
    assert set(first["replicas"]) == {pod["metadata"]["name"] for pod in pods}
    for pod in pods:
        assert NAME in await ask_models(pod)
        assert (await say(pod, NAME)) != (await say(pod, "tiny"))

    # A replica goes: its successor has the adapter before it is ready.
    victim, other = pods
    await api.delete("Pod", victim["metadata"]["name"], namespace)
    successor = await eventually(
        "another replica is ready",
        lambda: find_pods(api, namespace),
        lambda found: (
            len([pod for pod in found if is_ready_pod(pod)]) == 2
            and victim["metadata"]["uid"] not in {pod["metadata"]["uid"] for pod in found}
        ),
        timeout_s=180,
        poll_s=0.1,
    )
    for pod in successor:
        assert NAME in await ask_models(pod)
    assert other["metadata"]["uid"] in {pod["metadata"]["uid"] for pod in successor}
    await wait_for_adapter(api, namespace, lambda status: set(status["replicas"]) == set(map(name_of, successor)))

    # The next version under the same name is really loaded.
    texts = {name_of(pod): await say(pod, NAME) for pod in successor}
    roots = {name_of(pod): (await ask_models(pod))[NAME] for pod in successor}
    await api.patch("LLMModel", NAME, namespace, {"spec": {"source": {"uri": f"{source.url}/adapter-next"}}})
    second = await wait_for_adapter(
        api, namespace, lambda status: status["digest"] != first["digest"] and len(status["replicas"]) == 2
    )
    assert set(second["replicas"]) == set(map(name_of, successor))
    for pod in successor:
        assert (await ask_models(pod))[NAME] != roots[name_of(pod)]
        assert await say(pod, NAME) != texts[name_of(pod)]

    # One that does not fit is named, and changes nothing.
    await api.create(build_adapter(namespace, f"{source.url}/adapter-large", name="large", attach_to=("pool",)))
    await eventually(
        "the large adapter is refused",
        lambda: api.get("InferencePool", "pool", namespace),
        lambda found: read_condition(found, "AdaptersReady").get("reason") == "AdapterTooLarge",
        timeout_s=120,
    )
    await api.delete("LLMModel", "large", namespace)

    # Detached: it is gone, the base model is not.
    await api.delete("LLMModel", NAME, namespace)
    for pod in successor:
        await eventually(f"{name_of(pod)} lets it go", partial(ask_models, pod), lambda names: NAME not in names)
        assert await say(pod, "tiny")
    found = await eventually(
        "status names no adapter",
        lambda: api.get("InferencePool", "pool", namespace),
        lambda found: not (found or {}).get("status", {}).get("adapters"),
    )
    assert read_condition(found, "AdaptersReady")["status"] == "True"
    assert {pod["metadata"]["uid"] for pod in await find_pods(api, namespace)} == {
        pod["metadata"]["uid"] for pod in successor
    }
    await eventually(
        "nothing is shared any more",
        lambda: api.list("Pod", namespace, "llmos.dev/component=share"),
        lambda shares: not shares,
    )


async def test_adapters_take_turns_where_there_are_fewer_slots(
    api: Api, system_namespace: None, operator: OperatorProcess, source: Source, namespace: str
) -> None:
    await wait_ready(api, await api.create(build_model(namespace, f"{source.url}/tiny")))
    pool = await api.create(build_pool(namespace, replicas=1, adapters={"maxLoaded": 2, "slots": 1}))
    await wait_ready(api, pool, timeout_s=240)
    for name, folder in ((NAME, "adapter"), ("sales", "adapter-next")):
        await api.create(build_adapter(namespace, f"{source.url}/{folder}", name=name, attach_to=("pool",)))
    await eventually(
        "both adapters are there",
        lambda: api.get("InferencePool", "pool", namespace),
        lambda found: [len(entry["replicas"]) for entry in (found or {})["status"].get("adapters", [])] == [1, 1],
        timeout_s=180,
    )
    (pod,) = await find_pods(api, namespace)
    turns = [[await say(pod, name) for name in (NAME, "sales", "tiny")] for _ in range(3)]
    assert len(set(turns[0])) == 3
    assert turns[1:] == turns[:1] * 2
    # All at once: who has no slot waits, nobody is refused.
    told = await asyncio.gather(*(say(pod, name) for name in (NAME, "sales") * 4))
    assert set(told[::2]) == {turns[0][0]}
    assert set(told[1::2]) == {turns[0][1]}


def name_of(pod: Object) -> str:
    """The name of a pod."""
    return str(pod["metadata"]["name"])


def is_ready_pod(pod: Object) -> bool:
    """Whether a pod is ready, and not on its way out."""
    conditions = pod.get("status", {}).get("conditions", [])
    is_ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return is_ready and "deletionTimestamp" not in pod["metadata"]


async def find_pods(api: Api, namespace: str) -> list[Object]:
    """The pods of the pool that run."""
    return [pod for pod in await api.list("Pod", namespace, pool_selector("pool")) if is_active(pod)]


async def wait_for_adapter(api: Api, namespace: str, is_so: Callable[[Any], bool]) -> Object:
    """Wait until the adapter's entry in the pool's status is as wanted, and return it."""

    async def look() -> Object:
        pool = await api.get("InferencePool", "pool", namespace) or {}
        entries = pool.get("status", {}).get("adapters", [])
        return next((entry for entry in entries if entry["name"] == NAME), {"replicas": [], "digest": ""})

    return await eventually("the adapter is as wanted", look, is_so, timeout_s=180)


async def ask_models(pod: Object) -> dict[str, str]:
    """The adapters that a replica's engine serves, with their folders."""
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(f"http://{pod['status']['podIP']}:{ENGINE_PORT}/v1/models")
    return {card["id"]: card["root"] for card in answer.json()["data"] if card.get("parent")}


async def say(pod: Object, model: str) -> str:
    """What a replica answers."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 8, "temperature": 0}
    async with httpx.AsyncClient(timeout=30) as client:
        answer = await client.post(f"http://{pod['status']['podIP']}:{ENGINE_PORT}/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])
