"""The baseline in real time: each workload is made when it is due, deleted when it has run for its time, and made
anew if it had to go.

A workload runs from when all its pods do; or, where no scheduler is to bind them, from when it is admitted. That is
what Kueue's runner counts from: it has neither pods nor nodes.

Each goes its own way and is told by a watch how its pods are, as Kueue's runner is: a workload of a fifth of a second
must not stay longer because others are being made. How late workloads were deleted stands in the result, for what they
hold meanwhile counts against the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any, Final

from bench.operator.stage import POSTS_AT_ONCE, Cluster
from bench.operator.watching import watch
from bench.quota.manifests import BASELINE_CLASS, NO_SCHEDULER, Object, build_pod
from bench.quota.workload import QUOTA, SIZES, Size
from llmos.api.names import LABEL_POOL, LABEL_REPLICA
from llmos_operator.kube.errors import Conflict
from llmos_operator.kube.resources import PODS

QUEUES: Final = 6
MOST_PER_POD: Final = 10
TIMEOUT_S: Final = 900.0
PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
_ENDED: Final = frozenset({"Succeeded", "Failed"})


@dataclass
class Job:
    """One workload of the baseline."""

    tenant: str
    size: Size
    number: int
    due_s: float
    tries: int = 0
    waited_s: float | None = None
    """From when it was due until it ran first."""
    made_late_s: float = 0.0
    """How long after it was due all its pods were made first: a part of its wait that no quota can shorten."""
    late_s: float = 0.0
    """How much longer than its time it ran, until its deletion was answered."""

    @property
    def replica(self) -> str:
        """Name of the gang; another one with each try."""
        return f"{self.tenant}-{self.size.name}-x-{self.number * 1000 + self.tries}"


@dataclass
class Track:
    """What was told of the pods of one try."""

    pods: int
    running: set[str] = field(default_factory=set)
    turned: asyncio.Event = field(default_factory=asyncio.Event)
    """All run, or one is gone."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """One of them is gone, or has to go."""

    def see(self, pod: Object) -> None:
        """Take note of a pod as an event shows it."""
        phase = pod["status"].get("phase")
        if "deletionTimestamp" in pod["metadata"] or phase in _ENDED:
            self.lose()
        elif phase == "Running" or (pod["spec"].get("schedulerName") == NO_SCHEDULER and is_admitted(pod)):
            self.running.add(pod["metadata"]["name"])
            if len(self.running) == self.pods:
                self.turned.set()

    def lose(self) -> None:
        """Take note that a pod is gone."""
        self.lost.set()
        self.turned.set()


def is_admitted(pod: Object) -> bool:
    """Whether no gate holds the pod."""
    return not pod["spec"].get("schedulingGates")


class Run:
    """The workloads of all tenants, from the first that is due to the last that has run."""

    def __init__(self, cluster: Cluster, jobs: Iterable[Job], scheduler: str) -> None:
        self._cluster, self._jobs, self._scheduler = cluster, tuple(jobs), scheduler
        self._tracks: dict[str, Track] = {}
        self._creations, self._deletions = asyncio.Semaphore(POSTS_AT_ONCE), asyncio.Semaphore(POSTS_AT_ONCE)
        self._left = len(self._jobs)
        self._began_s = time.perf_counter()

    async def run(self) -> float:
        """Return how long it took until all had run."""
        pods = watch(self._cluster.configuration, PODS, "", self._see, on_gone=self._miss, label_selector=LABEL_POOL)
        try:
            async with asyncio.timeout(TIMEOUT_S), pods:
                self._began_s = time.perf_counter()
                async with asyncio.TaskGroup() as lives:
                    for job in self._jobs:
                        lives.create_task(self._live(job))
        except TimeoutError:
            raise TimeoutError(
                f"{self._left} workloads did not run in {TIMEOUT_S:g} s. See the operator's log."
            ) from None
        return self._now_s()

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s

    def _see(self, pod: Object) -> None:
        if track := self._find_track(pod):
            track.see(pod)

    def _miss(self, pod: Object) -> None:
        if track := self._find_track(pod):
            track.lose()

    def _find_track(self, pod: Object) -> Track | None:
        return self._tracks.get(pod["metadata"]["labels"].get(LABEL_REPLICA, ""))

    async def _live(self, job: Job) -> None:
        await asyncio.sleep(job.due_s - self._now_s())
        while not await self._try(job):
            job.tries += 1
        self._left -= 1

    async def _try(self, job: Job) -> bool:
        """Make a workload and wait for its end. Return whether it has run; False: it had to go."""
        pods = build_pods(job, self._scheduler)
        track = self._tracks[job.replica] = Track(len(pods))
        try:
            await make_gang(self._create, pods)
            if not job.tries:
                job.made_late_s = self._now_s() - job.due_s
            await track.turned.wait()
            return not track.lost.is_set() and await self._let_run(job, track)
        finally:
            del self._tracks[job.replica]

    async def _let_run(self, job: Job, track: Track) -> bool:
        began_s = self._now_s()
        if job.waited_s is None:
            job.waited_s = began_s - job.due_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(job.size.runtime_s):
                await track.lost.wait()
            return False
        # All at once: Kueue's runner ends a workload with one request, and what it holds meanwhile lies idle.
        await asyncio.gather(*(self._delete(pod["metadata"]) for pod in build_pods(job, self._scheduler)))
        job.late_s = self._now_s() - began_s - job.size.runtime_s
        return True

    async def _create(self, pod: Object) -> None:
        """Create a pod; the quota of a namespace that many write at a time is a reason to try again."""
        for pause_s in PAUSES_S:
            with contextlib.suppress(Conflict):
                async with self._creations:
                    await self._cluster.kube.create(pod)
                return
            await asyncio.sleep(pause_s)
        await self._cluster.kube.create(pod)

    async def _delete(self, metadata: Object) -> None:
        async with self._deletions:
            await self._cluster.kube.delete(PODS, metadata["name"], metadata["namespace"], grace_period_s=0)


async def make_gang(create: Callable[[Object], Awaitable[None]], pods: list[Object]) -> None:
    """Make the pods of a gang, the leader last, as pools do: one that is seen without a worker is removed."""
    await asyncio.gather(*map(create, pods[1:]))
    await create(pods[0])


def build_jobs(part: float, prefix: str) -> list[Job]:
    """Return the workloads of one cohort, or a part of them; `prefix` begins the names of their tenants."""
    jobs = [
        Job(f"{prefix}-{queue}", size, number, size.interval_s * (number + 1))
        for queue in range(QUEUES)
        for size in SIZES
        for number in range(count_workloads(size, part))
    ]
    return sorted(jobs, key=lambda job: (job.due_s, job.replica))


def count_workloads(size: Size, part: float) -> int:
    """Return how many workloads of a size each tenant has."""
    return max(1, round(size.count * part))


def build_pods(job: Job, scheduler: str) -> list[Object]:
    """Return the pods of a workload: a large one is a gang."""
    pool, count = f"{job.tenant}-{job.size.name}", -(-job.size.accelerators // MOST_PER_POD)
    kind = (BASELINE_CLASS, per_pod(job.size), job.size.name)
    return [
        build_pod(job.tenant, pool, job.replica, rank, *kind, pods=count, scheduler=scheduler) for rank in range(count)
    ]


def per_pod(size: Size) -> int:
    """Accelerators of one pod of a workload."""
    return size.accelerators // -(-size.accelerators // MOST_PER_POD)


def build_figures(jobs: list[Job], took_s: float) -> dict[str, Any]:
    """Return what a run found."""
    work_s = sum(job.size.runtime_s * job.size.accelerators for job in jobs)
    waits = {size.name: [job.waited_s or 0.0 for job in jobs if job.size is size] for size in SIZES}
    made = {size.name: [job.made_late_s for job in jobs if job.size is size] for size in SIZES}
    late_s = [job.late_s for job in jobs]
    return {
        "workloads": len(jobs),
        "took_s": round(took_s, 1),
        "use": round(work_s / (took_s * QUEUES * QUOTA), 3),
        "asked_to_go": sum(job.tries for job in jobs),
        "mean_wait_s": {name: round(mean(each), 1) for name, each in waits.items() if each},
        "made_late_s": {name: round(mean(each), 1) for name, each in made.items() if each},
        "deleted_late_s": {"mean": round(mean(late_s), 2), "p95": round(quantiles(late_s, n=20)[-1], 2)},
    }
