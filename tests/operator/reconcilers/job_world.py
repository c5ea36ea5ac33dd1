"""A world with a FineTuneJob, and what kubelet and workers do to its pods."""

from __future__ import annotations

import json
from typing import Any

from llmos.api.names import API_VERSION, CONTAINER_PREPARE, CONTAINER_TRAIN
from llmos_operator.kube.resources import FINE_TUNE_JOBS, LLM_MODELS, PODS
from llmos_operator.planning.settings import Settings
from tests.operator.reconcilers.quota_world import Cluster
from tests.operator.reconcilers.world import NAMESPACE, RESOLVED, build_model

JOB = "tune"
CHECKPOINT = {"step": 40, "time": "2026-01-01T12:00:00Z", "uri": "pvc://tune-work/checkpoints/step-40", "sha256": "ab"}
REPORT = {"digest": "sha256:d", "lines": 200, "trainExamples": 190, "evalExamples": 10, "trainTokens": 5000}
METRIC = {"name": "eval_loss", "base": 2.0, "result": 1.0, "examples": 10}


def build_job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "FineTuneJob",
        "metadata": {"name": JOB, "namespace": NAMESPACE},
        "spec": {
            "baseModelRef": {"name": "smollm2"},
            "dataset": {"source": {"uri": "https://data/set"}},
            "trainer": {"accelerator": {"class": "cpu"}},
            "output": {"name": "support"},
            **spec,
        },
    }


def build_base(digest: str = "sha256:0123") -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Available",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    model = build_model()
    return {**model, "status": {"resolved": {**RESOLVED, "digest": digest}, "sourceHash": "h", "conditions": [ready]}}


class JobWorld(Cluster):
    """Reconcile one job, and play its pods."""

    def __init__(self, *objects: dict[str, Any], settings: Settings | None = None, **spec: Any) -> None:
        super().__init__(build_job(**spec), *objects, settings=settings)
        self.kube.put(build_base())

    async def step(self) -> dict[str, Any]:
        """One pass; return the job's status."""
        await self.reconcile("FineTuneJob", JOB)
        return self.status_now()

    async def go(self, passes: int = 3) -> dict[str, Any]:
        """Passes until everything that is due at once was done."""
        for _ in range(passes):
            await self.step()
        return self.status_now()

    def status_now(self) -> dict[str, Any]:
        return dict(self.kube.stored(FINE_TUNE_JOBS, NAMESPACE, JOB).get("status", {}))

    def change(self, **spec: Any) -> None:
        job = self.kube.stored(FINE_TUNE_JOBS, NAMESPACE, JOB)
        self.kube.put({**job, "spec": {**job["spec"], **spec}})

    def ready(self) -> tuple[str, str]:
        return self.condition("Ready")

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(c for c in self.status_now()["conditions"] if c["type"] == kind)
        return found["status"], found["reason"]

    def job_pods(self) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods() if "llmos.dev/job" in pod["metadata"]["labels"]]

    def pod(self, name: str) -> dict[str, Any]:
        return self.kube.stored(PODS, NAMESPACE, name)

    def run_pod(self, name: str) -> None:
        """The kubelet starts the main container."""
        pod = self.pod(name)
        self.kube.put({**pod, "spec": {**pod["spec"], "nodeName": pod["spec"].get("nodeName", "n1")}})
        started = {"running": {"startedAt": self.stamp()}}
        self._set(name, "Running", started)

    def end_pod(self, name: str, *, code: int = 0, by: str = "", **message: Any) -> None:
        """The main container ends with a termination message."""
        self.end_pod_with(name, json.dumps(message) if message else "", code=code, by=by)

    def end_pod_with(self, name: str, text: str, *, code: int = 0, by: str = "") -> None:
        terminated = {"exitCode": code, "message": text, "finishedAt": self.stamp()} | ({"reason": by} if by else {})
        self._set(name, "Succeeded" if code == 0 else "Failed", {"terminated": terminated})

    def _set(self, name: str, phase: str, state: dict[str, Any]) -> None:
        container = CONTAINER_PREPARE if "-prepare-" in name else CONTAINER_TRAIN
        statuses = [{"name": container, "state": state}]
        self.kube.set_status(PODS, name, NAMESPACE, phase=phase, startTime=self.stamp(), containerStatuses=statuses)

    def set_statuses(self, name: str, phase: str, init: list[dict[str, Any]], containers: list[dict[str, Any]]) -> None:
        """What the kubelet says of all containers of a pod."""
        statuses = {"initContainerStatuses": init, "containerStatuses": containers}
        self.kube.set_status(PODS, name, NAMESPACE, phase=phase, startTime=self.stamp(), **statuses)

    def tell(self, name: str, **line: Any) -> None:
        """The trainer writes a progress line."""
        text = json.dumps({"event": "progress", "phase": "training", **line})
        self.kube.logs[NAMESPACE, name, CONTAINER_TRAIN, False] = f"a line for people\n{text}\nanother\n"

    async def prepare(self) -> None:
        """Up to the first train pod."""
        await self.go()
        self.run_pod("tune-prepare-1")
        await self.step()
        self.end_pod("tune-prepare-1", outcome="prepared", report=REPORT)
        await self.go(2)

    async def train(self, number: int = 1) -> None:
        self.run_pod(f"tune-train-{number}")
        await self.step()

    def complete(self, number: int = 1, **more: Any) -> None:
        self.end_pod(
            f"tune-train-{number}",
            outcome="complete",
            evaluation={"metrics": [METRIC]},
            output={"digest": "sha256:out", "kind": "adapter"},
            lastCheckpoint=CHECKPOINT,
            progress={"step": 100, "totalSteps": 100, "loss": 0.5},
            **more,
        )

    def output(self, name: str = "support") -> dict[str, Any]:
        """The model that the job made."""
        return self.kube.stored(LLM_MODELS, NAMESPACE, name)

    def models(self) -> list[str]:
        """Names of the models beside the job."""
        return [
            item["metadata"]["name"] for item in self.kube.all(LLM_MODELS) if item["metadata"]["namespace"] == NAMESPACE
        ]
