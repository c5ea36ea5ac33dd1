"""Follows the pods of a pool by a watch, so that no state between two looks is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from e2e.support.api import Api, Object
from e2e.support.objects import is_active, pool_selector
from llmos.api.names import LABEL_SERVING


@dataclass(frozen=True)
class Moment:
    """The pods at one moment: how many hold resources, and how many get new requests and answer them."""

    holding: int
    serving: int


@dataclass
class History:
    """Every moment since the watch began; `seen` are the uids of all pods there ever were."""

    moments: list[Moment] = field(default_factory=list)
    seen: dict[str, str] = field(default_factory=dict)
    _pods: dict[str, Object] = field(default_factory=dict)

    def add(self, event: str, pod: Object) -> None:
        """Take in one event of the watch."""
        uid = pod["metadata"]["uid"]
        self.seen[uid] = pod["metadata"]["name"]
        if event == "DELETED":
            self._pods.pop(uid, None)
        else:
            self._pods[uid] = pod
        pods = self._pods.values()
        self.moments.append(Moment(sum(map(is_active, pods)), sum(map(is_serving, pods))))

    def mark(self) -> int:
        """Begin a phase; the present moment is its first."""
        return max(0, len(self.moments) - 1)

    def most_holding(self, since: int) -> int:
        """The most pods that held resources since a mark."""
        return max(moment.holding for moment in self.moments[since:])

    def fewest_serving(self, since: int) -> int:
        """The fewest pods that served since a mark."""
        return min(moment.serving for moment in self.moments[since:])


def is_serving(pod: Object) -> bool:
    """Whether the Service sends requests to a pod and the pod answers them."""
    if "deletionTimestamp" in pod["metadata"] or not is_active(pod):
        return False
    conditions = pod.get("status", {}).get("conditions", [])
    answers = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return answers and pod["metadata"]["labels"].get(LABEL_SERVING) == "true"


@asynccontextmanager
async def follow_pods(api: Api, namespace: str, pool: str = "pool") -> AsyncIterator[History]:
    """Follow the pods of a pool for the length of a block; a watch that breaks fails the story."""
    history = History()

    async def follow() -> None:
        async for event, pod in api.watch("Pod", namespace, pool_selector(pool)):
            history.add(event, pod)

    task = asyncio.create_task(follow())
    try:
        yield history
        assert not task.done(), f"the watch ended: {task}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
