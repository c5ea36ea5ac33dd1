"""A small world for reconciler tests: objects in a fake cluster, a clock, and what kubelet and Job controller would
do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from llmos.api import REASONS, Reason
from llmos.api.names import API_VERSION, CONTAINER_ENGINE
from llmos.api.scaling import ScalingStatus
from llmos_operator.kube.client import Object
from llmos_operator.kube.resources import INFERENCE_POOLS, JOBS, LLM_MODELS, PODS, RESOURCE_QUOTAS
from llmos_operator.planning.settings import Settings
from llmos_operator.reconcilers.base import Context, Key, Result
from llmos_operator.reconcilers.registry import RECONCILERS
from tests.operator.fake_kube import FakeKube, Place

NAMESPACE = "team-a"

RESOLVED = {
    "digest": "sha256:0123",
    "revision": "main-commit",
    "format": "safetensors",
    "architecture": "LlamaForCausalLM",
    "parameters": 134515008,
    "layers": 30,
    "kvHeads": 3,
    "headDim": 64,
    "vocabulary": 49152,
    "maxContext": 8192,
    "weightsBytes": 269030016,
    "dtype": "bfloat16",
    "config": {
        "name": "LlamaForCausalLM",
        "family": "llama",
        "layers": 30,
        "hiddenSize": 576,
        "attentionHeads": 9,
        "keyValueHeads": 3,
        "headDim": 64,
        "vocabularySize": 49152,
        "maxContextTokens": 8192,
        "cache": [{"kind": "full", "layers": 30, "heads": 3, "keyDim": 64, "valueDim": 64}],
        "weights": [{"part": "mlp", "parameters": 134515008, "bytes": 269030016, "split": "tensor"}],
    },
}


def build_model(name: str = "smollm2", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "LLMModel",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"source": {"uri": "hf://org/name@main"}, "format": "auto", **spec},
    }


def build_pool(name: str = "chat", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "modelRef": {"name": "smollm2"},
            "engine": {"name": "simulator"},
            "accelerator": {"class": "cpu", "count": 1},
            "replicas": 1,
            **spec,
        },
    }


def build_scaled_pool(name: str = "chat", **scaling: Any) -> dict[str, Any]:
    pool = build_pool(name, scaling=scaling)
    del pool["spec"]["replicas"]
    return pool


class TellingKube(FakeKube):
    """A cluster in which no condition says what the table of reasons, and with it the documentation, does not."""

    async def apply_status(self, manifest: Mapping[str, Any]) -> Object:
        told = manifest["status"].get("conditions", ())
        unknown = [c["reason"] for c in told if manifest["kind"] not in REASONS[Reason(c["reason"])].kinds]
        assert unknown == [], f"the table has them for other kinds than {manifest['kind']}"
        return await super().apply_status(manifest)

    counts_quotas = True
    """Whether there is a quota controller, which is so quick here that whoever makes a quota finds it counted."""

    def _commit(self, verb: str, place: Place, item: Object) -> Object:
        if place.resource == RESOURCE_QUOTAS and self.counts_quotas:
            hard = item["spec"]["hard"]
            item = {**item, "status": {"hard": hard, "used": dict.fromkeys(hard, "0")}}
        return super()._commit(verb, place, item)


class World:
    """Reconcile keys against a fake cluster and play the other controllers."""

    def __init__(self, *objects: dict[str, Any], settings: Settings | None = None) -> None:
        self.time = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
        self.kube: FakeKube = TellingKube(*objects, now=lambda: self.time)
        self.in_flight: dict[str, int] = {}
        self.context = Context(
            kube=self.kube, settings=settings or Settings(), now=lambda: self.time, observe_in_flight=self._in_flight
        )

    async def _in_flight(self, replicas: Any) -> dict[str, int]:
        return {name: count for name, count in self.in_flight.items() if name in replicas}

    async def reconcile(self, kind: str, name: str, namespace: str = NAMESPACE) -> Result:
        return await RECONCILERS[kind](self.context, Key(kind, namespace, name))

    async def pool(self, name: str = "chat") -> dict[str, Any]:
        """Reconcile a pool and return it."""
        await self.reconcile("InferencePool", name)
        return self.kube.stored(INFERENCE_POOLS, NAMESPACE, name)

    def decide(self, desired: int, name: str = "chat", **more: Any) -> None:
        """Write a decision on the board, as the load task would."""
        status = ScalingStatus(desired=desired, since=self.time, **more)
        self.context.board.decide(Key("InferencePool", NAMESPACE, name), status)

    async def model(self, name: str = "smollm2") -> dict[str, Any]:
        """Reconcile a model and return it."""
        await self.reconcile("LLMModel", name)
        return self.kube.stored(LLM_MODELS, NAMESPACE, name)

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def stamp(self) -> str:
        return self.time.strftime("%Y-%m-%dT%H:%M:%SZ")

    def pods(self) -> list[dict[str, Any]]:
        return self.kube.all(PODS)

    def pod_names(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods()]

    def start_pods(self, *names: str) -> None:
        """Every pod that has not finished, or those of these names, becomes Ready, as the kubelet would report it."""
        for pod in self.pods():
            if names and pod["metadata"]["name"] not in names:
                continue
            if pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}:
                continue
            # The API server deletes a pod that has no node at once; one that has waits for its kubelet.
            self.kube.put({**pod, "spec": {**pod["spec"], "nodeName": "node-1"}})
            self.kube.set_status(
                PODS,
                pod["metadata"]["name"],
                NAMESPACE,
                phase="Running",
                startTime=self.stamp(),
                podIP="10.0.0.1",
                conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": self.stamp()}],
                containerStatuses=[{"name": CONTAINER_ENGINE, "state": {"running": {"startedAt": self.stamp()}}}],
            )

    def fail_pod(self, name: str, reason: Reason | None, message: str = "it broke", exit_code: int = 1) -> None:
        """The engine of a pod ends with a termination message, or without one."""
        text = json.dumps({"reason": reason.value, "message": message}) if reason else ""
        terminated = {
            "exitCode": exit_code,
            "message": text,
            "startedAt": self.stamp(),
            "finishedAt": self.stamp(),
        }
        self.kube.set_status(
            PODS,
            name,
            NAMESPACE,
            phase="Failed",
            conditions=[{"type": "Ready", "status": "False", "lastTransitionTime": self.stamp()}],
            containerStatuses=[{"name": CONTAINER_ENGINE, "state": {"terminated": terminated}}],
        )

    def finish_deletions(self) -> None:
        for pod in self.pods():
            if "deletionTimestamp" in pod["metadata"]:
                self.kube.finish_deletion(PODS, pod["metadata"]["name"], NAMESPACE)

    def jobs(self) -> list[dict[str, Any]]:
        return self.kube.all(JOBS)

    def finish_job(self, name: str, message: str, *, succeeded: bool = True) -> None:
        """The pod of a Job ends, and the Job controller reports it."""
        job = self.kube.stored(JOBS, NAMESPACE, name)
        self.kube.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{name}-pod",
                    "namespace": NAMESPACE,
                    "labels": {**job["spec"]["template"]["metadata"]["labels"], "job-name": name},
                },
                "spec": job["spec"]["template"]["spec"],
            }
        )
        terminated = {"exitCode": 0 if succeeded else 1, "message": message, "finishedAt": self.stamp()}
        container = job["spec"]["template"]["spec"]["containers"][0]["name"]
        self.kube.set_status(
            PODS,
            f"{name}-pod",
            NAMESPACE,
            phase="Succeeded" if succeeded else "Failed",
            containerStatuses=[{"name": container, "state": {"terminated": terminated}}],
        )
        condition = {
            "type": "Complete" if succeeded else "Failed",
            "status": "True",
            "lastTransitionTime": self.stamp(),
        }
        self.kube.set_status(JOBS, name, NAMESPACE, conditions=[condition])


def condition(item: dict[str, Any], kind: str = "Ready") -> dict[str, Any]:
    """Return one condition of an object."""
    return next(c for c in item["status"]["conditions"] if c["type"] == kind)
