"""A world whose job has a result to roll out, a pool that serves adapters, and gateways that deal out requests."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from llmos.api import LLMModel
from llmos.api.load import LATENCY_BUCKETS_S, ArmLoad, CanaryLoad, GatewayLoad, Latencies, PoolLoad
from llmos_operator.kube.resources import INFERENCE_POOLS, LLM_MODELS
from llmos_operator.planning.adapter_weights import compute_weights
from tests.operator.reconcilers.job_world import JobWorld
from tests.operator.reconcilers.world import NAMESPACE, build_model, build_pool

POOL_ID = f"{NAMESPACE}/chat"
RESULT = "support-v2"
TARGET = {"pool": "chat", "replaces": "support", "weight": 10, "promoteAfter": "30m"}
ADAPTER = {"baseModelRef": {"name": "smollm2"}, "attachTo": ["chat"]}


class CanaryWorld(JobWorld):
    """A job whose result is to take the place of the adapter `support`."""

    def __init__(self, *, target: dict[str, Any] | None = None, incumbents: tuple[str, ...] = ("support",)) -> None:
        super().__init__(output={"name": RESULT, "attachTo": [TARGET if target is None else target]})
        self.kube.put(build_pool(adapters={"maxLoaded": 4}))
        for name in incumbents:
            self.kube.put(build_model(name, adapter=ADAPTER))
        self.boot, self.counts = "first", [[0, 0], [0, 0]]
        self.is_served = True
        self.ready_replicas = 0

    async def register(self) -> dict[str, Any]:
        """Up to the LLMModel of the result."""
        self.serve()
        await self.prepare()
        await self.train()
        self.complete()
        return await self.go()

    def serve(self) -> None:
        """The pool's pass: it loads what is attached, and says which shares there are."""
        bodies = [item for item in self.kube.all(LLM_MODELS) if item["metadata"]["namespace"] == NAMESPACE]
        models = [LLMModel.model_validate(body) for body in bodies]
        attached = [m for m in models if m.spec.adapter is not None and "chat" in m.spec.adapter.attach_to]
        weights = compute_weights(sorted(attached, key=lambda m: m.metadata.name), "chat")
        entries = []
        for model in attached:
            name, weight = weights.get(model.metadata.name, (None, None))
            serves = self.is_served or model.metadata.name != RESULT
            share = {} if name is None else {"replaces": name, "weight": weight}
            pods = ["chat-0"] if serves else []
            entries.append({"name": model.metadata.name, "digest": "sha256:1", "replicas": pods, **share})
        facts = {"adapters": entries, "observedGeneration": 1, "readyReplicas": self.ready_replicas}
        self.kube.set_status(INFERENCE_POOLS, "chat", NAMESPACE, **facts)

    def ask(
        self, result: tuple[int, int] = (0, 0), incumbent: tuple[int, int] = (0, 0), *, ttft_s: float = 0.0
    ) -> None:
        """Requests and how many of them failed; `ttft_s` is that of all of the result's, the incumbent's is 0.1."""
        for total, (requests, failed) in zip(self.counts, (result, incumbent), strict=True):
            total[0] += requests
            total[1] += failed
        weight = next((w for name, w in self.weights().items() if name == RESULT), 0)
        mine, theirs = (
            ArmLoad(requests_total=requests, failed_total=failed, ttft=_all_alike(value_s, requests))
            for (requests, failed), value_s in zip(self.counts, (ttft_s, 0.1 if ttft_s else 0.0), strict=True)
        )
        canary = CanaryLoad(replaces="support", weight=weight, result=mine, incumbent=theirs)
        load = GatewayLoad(gateway="g", boot=self.boot, pools={POOL_ID: PoolLoad(canaries={RESULT: canary})})
        self.context.canaries.take(load)

    def weights(self) -> dict[str, int]:
        """Shares that the pool's status tells."""
        status = self.kube.stored(INFERENCE_POOLS, NAMESPACE, "chat").get("status", {})
        return {entry["name"]: entry["weight"] for entry in status.get("adapters", ()) if "weight" in entry}

    async def go_on(self, seconds: float = 5.0) -> dict[str, Any]:
        """Some time, the pool, then the job."""
        self.pass_time(seconds)
        if self.kube.all(INFERENCE_POOLS):
            self.serve()
        await self.step()
        return self.status_now()

    @property
    def canary(self) -> dict[str, Any]:
        (found,) = self.status_now()["canaries"]
        return dict(found)

    @property
    def adapter(self) -> dict[str, Any]:
        """What the LLMModel of the result says of itself as an adapter."""
        return dict(self.output(RESULT)["spec"]["adapter"])


def _all_alike(value_s: float, count: int) -> Latencies:
    counts = list(Latencies().counts)
    counts[bisect_left(LATENCY_BUCKETS_S, value_s)] = count if value_s else 0
    return Latencies(counts=tuple(counts), sum_s=value_s * count)
