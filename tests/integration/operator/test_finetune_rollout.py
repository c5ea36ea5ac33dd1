"""Canaries and searches against a real kube-apiserver: it takes each status and model, and quiet is quiet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmos.api.load import ArmLoad, CanaryLoad, GatewayLoad, PoolLoad
from llmos.api.names import ANNOTATION_JUDGED_BY
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS, PODS
from llmos_operator.reconcilers.base import Context
from tests.integration.operator.test_finetune import JOB, Cluster
from tests.operator.reconcilers.world import build_model, build_pool

pytestmark = pytest.mark.apiserver

RESULT = "support-v2"
TARGET = {"pool": "chat", "replaces": "support", "weight": 10, "promoteAfter": "30m"}
RATES = [{"name": "learningRate", "values": [0.001, 0.01]}]


@pytest.fixture
def cluster(real_kube: AioKube, namespace: str) -> Cluster:
    return Cluster(real_kube, namespace)


async def serve(cluster: Cluster, **weights: int) -> None:
    """The pool serves the former adapter and the result."""
    entries: list[dict[str, Any]] = [{"name": "support", "digest": "a", "replicas": ["chat-0"], "reason": "Loaded"}]
    entries += [
        {"name": name, "digest": "b", "replicas": ["chat-0"], "replaces": "support", "weight": weight}
        for name, weight in weights.items()
    ]
    pool = build_pool()
    identity = {"name": "chat", "namespace": cluster.namespace}
    head = {"apiVersion": pool["apiVersion"], "kind": pool["kind"], "metadata": identity}
    await cluster.kube.apply_status({**head, "status": {"adapters": entries, "observedGeneration": 1}})


def count(cluster: Cluster, requests: int, failed: int) -> None:
    """A gateway tells of the canary at its first share."""
    arms = {
        "result": ArmLoad(requests_total=requests, failed_total=failed),
        "incumbent": ArmLoad(requests_total=9 * requests),
    }
    canary = CanaryLoad(replaces="support", weight=10, **arms)
    pools = {f"{cluster.namespace}/chat": PoolLoad(canaries={RESULT: canary})}
    cluster.context.canaries.take(GatewayLoad(gateway="g", boot="b", pools=pools))


async def begin_canary(cluster: Cluster) -> None:
    for made in (build_pool(), build_model("support", adapter={"baseModelRef": {"name": "smollm2"}})):
        identity = {"name": made["metadata"]["name"], "namespace": cluster.namespace}
        await cluster.kube.apply({**made, "metadata": identity}, field_manager="user")
    await serve(cluster)
    await cluster.begin(output={"name": RESULT, "attachTo": [TARGET]})
    await cluster.prepare()
    await cluster.complete("tune-train-1")
    await cluster.go()
    await serve(cluster, **{RESULT: 10})
    await cluster.go(1)


async def read_canary(cluster: Cluster) -> tuple[str, dict[str, Any]]:
    status = await cluster.go(1)
    model = await cluster.get(LLM_MODELS, RESULT)
    return status["canaries"][0]["state"], model["spec"]["adapter"]


async def test_a_canary_is_promoted(cluster: Cluster) -> None:
    await begin_canary(cluster)
    state, adapter = await read_canary(cluster)
    assert (state, adapter["replaces"]) == ("Running", [{"pool": "chat", "name": "support", "weight": 10}])
    count(cluster, 60, 0)
    later = datetime.now(UTC) + timedelta(minutes=31)
    cluster.context = Context(
        kube=cluster.kube, settings=cluster.context.settings, now=lambda: later, canaries=cluster.context.canaries
    )
    status = await cluster.go(2)
    assert (status["phase"], status["canaries"][0]["state"]) == ("Succeeded", "Promoted")
    state, adapter = await read_canary(cluster)
    assert adapter["replaces"][0]["weight"] == 100
    annotations = (await cluster.get(LLM_MODELS, RESULT))["metadata"].get("annotations") or {}
    assert ANNOTATION_JUDGED_BY not in annotations, "it is decided"
    assert await cluster.is_quiet()


async def test_a_canary_is_rolled_back_and_detached(cluster: Cluster) -> None:
    await begin_canary(cluster)
    count(cluster, 20, 12)
    assert (await read_canary(cluster))[0] == "RollingBack"
    assert (await read_canary(cluster))[1]["replaces"][0]["weight"] == 0
    await serve(cluster, **{RESULT: 0})
    state, adapter = await read_canary(cluster)
    assert (state, adapter.get("attachTo", []), adapter.get("replaces", [])) == ("RolledBack", [], [])
    assert await cluster.is_quiet()
    assert "chat" in await cluster.names(INFERENCE_POOLS)


async def test_a_search_has_trials_of_its_own_and_registers_the_best(cluster: Cluster) -> None:
    search = {"algorithm": "grid", "maxTrials": 2, "parallelism": 2, "parameters": RATES}
    await cluster.begin(search=search)
    await cluster.prepare()
    await cluster.go(2)
    pods = [name for name in await cluster.names(PODS) if "-train-" in name]
    assert sorted(pods) == ["tune-train-1-1", "tune-train-2-1"]
    for pod in pods:
        await cluster.report(pod, "Running", running={})
    assert [trial["number"] for trial in (await cluster.go(1))["trials"]] == [1, 2]
    assert await cluster.is_quiet()
    for pod in pods:
        await cluster.complete(pod)
    status = await cluster.go(5)
    assert (status["phase"], status["bestTrial"]) == ("Evaluating", 1)
    await cluster.end("tune-tidy")
    status = await cluster.go(3)
    assert (status["phase"], [trial["filesRemoved"] for trial in status["trials"]]) == ("Succeeded", [False, True])
    assert "tune-tidy" not in await cluster.names(PODS)
    assert (await cluster.get(LLM_MODELS, "support"))["spec"]["source"]["uri"] == f"pvc://{JOB}-work/trials/1/output"
    assert await cluster.is_quiet()
