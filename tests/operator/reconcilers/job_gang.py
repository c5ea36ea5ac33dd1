"""A world with a FineTuneJob whose attempts are gangs of several pods."""

from __future__ import annotations

from typing import Any

from tests.operator.reconcilers.job_world import JobWorld

SHARED = {"storage": {"accessMode": "ReadWriteMany"}}
LEADER, WORKER = "tune-train-1", "tune-train-1-1"


def on_nodes(nodes: int = 2, **trainer: Any) -> dict[str, Any]:
    """The part of a job's spec that has it train on several nodes."""
    return {"trainer": {"accelerator": {"class": "cpu"}, "nodes": nodes, **trainer}, "checkpoint": SHARED}


class GangWorld(JobWorld):
    """Reconcile a job of two nodes, and play its pods."""

    def __init__(self, *objects: dict[str, Any], nodes: int = 2, **spec: Any) -> None:
        super().__init__(*objects, **{**on_nodes(nodes), **spec})
        self.nodes = nodes

    def gang(self, number: int = 1) -> list[str]:
        """Names of the pods of an attempt, the leader first."""
        leader = f"tune-train-{number}"
        return [leader, *(f"{leader}-{rank}" for rank in range(1, self.nodes))]

    async def train(self, number: int = 1) -> None:
        """All pods of an attempt run."""
        for name in self.gang(number):
            self.run_pod(name)
        await self.step()

    def going(self) -> list[str]:
        """Names of the job's pods that were asked to go."""
        return [name for name in self.job_pods() if "deletionTimestamp" in self.pod(name)["metadata"]]

    def lose_peer(self, name: str) -> None:
        """A rank ends because it has lost another one."""
        self.end_pod(name, code=1, reason="PeerLost", message="Rank 1 ended without a word.")
