"""The quota on a real API server: an etcd, a kube-apiserver, the scheduler, simulated nodes and the shipped operator.

Two scenarios, both with the workloads as gated pods of pools, made by this program: a pool makes its own pods with a
Service and a status of its own, and would be measured instead of the quota. Nothing else is left out: the operator
watches, plans, lifts gates and pins, the scheduler binds, kwok has the pods run.

- **burst**: 3,000 pods wait, and there is room for all. Time from the first Tenant to the last lifted gate.
- **baseline**: Kueue's baseline cut to one of its five cohorts (3,000 workloads, see `workload`), in real time. A large
  workload is a gang of two pods of 10. Each is deleted when it has run for its time, and made anew if it had to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Final

from kubernetes.aio.client import ApiClient, SchedulingV1Api

from bench.operator.objects import ACCELERATOR as BURST_CLASS
from bench.operator.objects import build_namespace
from bench.operator.stage import POSTS_AT_ONCE, Cluster, Operator, run_all, start_stage
from bench.operator.waiting import wait_until
from bench.quota.workload import QUOTA, SIZES, Size
from e2e.cluster.objects import build_kwok_node
from llmos.api.names import (
    API_VERSION,
    GATE_QUOTA,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    LABEL_RANK,
    LABEL_REPLICA,
    LABEL_REVISION,
    LABEL_SERVING,
    MANAGED_BY,
)
from llmos_operator.kube.errors import Conflict
from llmos_operator.kube.resources import PODS, TENANTS
from llmos_operator.manifests.common import build_container_security, build_pod_security

Object = dict[str, Any]

QUEUES: Final = 6
BASELINE_CLASS: Final = "quota-gpu"
NODE_INDEX: Final = 900
POLL_S: Final = 0.1
TIMEOUT_S: Final = 900.0
MOST_PER_POD: Final = 10
POOL_LIMIT: Final = 1000
"""Most replicas of a pool."""
BURST_POOL: Final = 500
PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
DECISIONS: Final = "llmos_operator_quota_decisions_total"


@dataclass
class Job:
    """One workload of the baseline."""

    tenant: str
    size: Size
    number: int
    due_s: float
    tries: int = 0
    started_s: float | None = None
    waited_s: list[float] = field(default_factory=list)

    @property
    def replica(self) -> str:
        """Name of the gang; another one with each try."""
        return f"{self.tenant}-{self.size.name}-x-{self.number * 1000 + self.tries}"


async def run_end_to_end(part: float) -> dict[str, Any]:
    """Run both scenarios with a part of the workloads; return their figures."""
    with tempfile.TemporaryDirectory() as folder, start_stage(Path(folder)) as stage:
        await stage.prepare()
        async with stage.connect() as cluster:
            await _prepare(cluster)
            async with cluster.operator() as operator:
                burst = await _run_burst(cluster, operator, round(3000 * part))
                baseline = await _run_baseline(cluster, part)
                metrics = await operator.metrics()
                usage = operator.usage()
    return {
        "burst": burst,
        "baseline": baseline,
        "operator": {"rss_mib": round(usage.rss_bytes / 2**20), "cpu_s": round(usage.cpu_s, 1)},
        "passes": metrics.get("llmos_operator_quota_pass_seconds_count", 0),
        "pass_s": metrics.get("llmos_operator_quota_pass_seconds_sum", 0),
    }


async def _prepare(cluster: Cluster) -> None:
    node = dict(build_kwok_node(NODE_INDEX))
    room = {**node["status"]["capacity"], "nvidia.com/gpu": str(QUEUES * QUOTA), "pods": "1000"}
    node["metadata"] = {**node["metadata"], "labels": {**node["metadata"]["labels"], "nvidia.com/gpu.product": "Quota"}}
    node["status"] = {"capacity": room, "allocatable": room}
    await cluster.core.create_node(node)
    spec = {
        "nodeSelector": {"nvidia.com/gpu.product": "Quota"},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
        "memory": "80Gi",
    }
    await cluster.kube.create(_build("AcceleratorClass", BASELINE_CLASS, "", spec))
    async with ApiClient(cluster.configuration) as client:
        for size in SIZES:
            await SchedulingV1Api(client).create_priority_class(
                {"metadata": {"name": size.name}, "value": size.priority}
            )


async def _run_burst(cluster: Cluster, operator: Operator, count: int) -> dict[str, Any]:
    namespace = "burst"
    await cluster.core.create_namespace(build_namespace(namespace))
    pools = [f"burst-{number}" for number in range(-(-count // BURST_POOL))]
    await run_all(cluster.kube.create, (_build_pool(namespace, pool, BURST_CLASS, 1) for pool in pools), POSTS_AT_ONCE)
    places = ((pools[number % len(pools)], number) for number in range(count))
    pods = (_build_pod(namespace, pool, f"{pool}-x-{n}", 0, BURST_CLASS, 1, "small") for pool, n in places)
    await run_all(cluster.kube.create, pods, POSTS_AT_ONCE)
    await operator.wait_until_idle()
    before = (await operator.metrics()).get(DECISIONS, 0.0)
    began_s = time.perf_counter()
    await cluster.kube.create(_build_tenant("burst", namespace, BURST_CLASS, count))

    async def is_done() -> bool:
        return (await operator.metrics()).get(DECISIONS, 0.0) - before >= count

    await wait_until(is_done, what="That all are admitted", timeout_s=TIMEOUT_S, poll_s=POLL_S)
    took_s = time.perf_counter() - began_s
    left = [pod for pod in await cluster.kube.list(PODS, namespace=namespace) if pod["spec"].get("schedulingGates")]
    assert not left, f"{len(left)} still wait"
    await cluster.core.delete_namespace(namespace)
    await cluster.kube.delete(TENANTS, "burst")
    await wait_until(
        lambda: _is_empty(cluster, namespace), what="That the burst is gone", timeout_s=TIMEOUT_S, poll_s=1.0
    )
    return {"gangs": count, "took_s": round(took_s, 1), "admissions_per_s": round(count / took_s, 1)}


async def _is_empty(cluster: Cluster, namespace: str) -> bool:
    return not await cluster.kube.list(PODS, namespace=namespace)


async def _run_baseline(cluster: Cluster, part: float) -> dict[str, Any]:
    jobs = _build_jobs(part)
    for tenant in sorted({job.tenant for job in jobs}):
        await cluster.core.create_namespace(build_namespace(tenant))
        await cluster.kube.create(_build_tenant(tenant, tenant, BASELINE_CLASS, QUOTA))
        for size in SIZES:
            await cluster.kube.create(_build_pool(tenant, f"{tenant}-{size.name}", BASELINE_CLASS, _per_pod(size)))
    run = _Run(cluster, deque(jobs))
    took_s = await run.run()
    work_s = sum(job.size.runtime_s * job.size.accelerators for job in jobs)
    waits = {size.name: [job.waited_s[0] for job in jobs if job.size is size] for size in SIZES}
    return {
        "workloads": len(jobs),
        "took_s": round(took_s, 1),
        "use": round(work_s / (took_s * QUEUES * QUOTA), 3),
        "asked_to_go": sum(job.tries for job in jobs),
        "mean_wait_s": {name: round(mean(each), 1) for name, each in waits.items() if each},
    }


def _build_jobs(part: float) -> list[Job]:
    jobs = [
        Job(f"queue-{queue}", size, number, size.interval_s * (number + 1))
        for queue in range(QUEUES)
        for size in SIZES
        for number in range(max(1, round(size.count * part)))
    ]
    return sorted(jobs, key=lambda job: (job.due_s, job.replica))


class _Run:
    """Makes workloads when they are due, ends them when they have run, makes those anew that had to go."""

    def __init__(self, cluster: Cluster, due: deque[Job]) -> None:
        self._cluster, self._due = cluster, due
        self._jobs: dict[str, Job] = {}
        self._left = len(due)
        self._node = str(build_kwok_node(NODE_INDEX)["metadata"]["name"])
        self._began_s = time.perf_counter()

    async def run(self) -> float:
        """Return how long it took until all had run."""
        while self._left:
            if self._now_s() > TIMEOUT_S:
                raise TimeoutError(f"{self._left} workloads did not run in {TIMEOUT_S:g} s.")
            began_s = time.perf_counter()
            await self._make_due()
            await self._look()
            await asyncio.sleep(max(0.0, POLL_S - (time.perf_counter() - began_s)))
        return self._now_s()

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s

    async def _make_due(self) -> None:
        due: list[Job] = []
        while self._due and self._due[0].due_s <= self._now_s():
            due.append(self._due.popleft())
        await self._make(due)

    async def _make(self, jobs: Iterable[Job]) -> None:
        pods = []
        for job in jobs:
            self._jobs[job.replica] = job
            pods += _build_pods(job)
        await run_all(self._create, pods, POSTS_AT_ONCE)

    async def _create(self, pod: Object) -> None:
        """Create a pod; the quota of a namespace that many write at a time is a reason to try again."""
        for pause_s in PAUSES_S:
            with contextlib.suppress(Conflict):
                await self._cluster.kube.create(pod)
                return
            await asyncio.sleep(pause_s)
        await self._cluster.kube.create(pod)

    async def _look(self) -> None:
        """See who runs; a field selector keeps the thousands that wait out of the answer."""
        response = await self._cluster.core.list_pod_for_all_namespaces_without_preload_content(
            field_selector=f"spec.nodeName={self._node}", resource_version="0"
        )
        bound: dict[str, list[Object]] = {}
        for pod in json.loads(await response.read())["items"]:
            bound.setdefault(pod["metadata"]["labels"][LABEL_REPLICA], []).append(pod)
        done, lost = [], []
        for name, job in list(self._jobs.items()):
            pods = [pod for pod in bound.get(name, ()) if "deletionTimestamp" not in pod["metadata"]]
            if job.started_s is None:
                if len(pods) == _count_pods(job.size) and all(p["status"].get("phase") == "Running" for p in pods):
                    job.started_s = self._now_s()
                    job.waited_s.append(job.started_s - job.due_s)
            elif not pods:
                lost.append(job)
            elif self._now_s() - job.started_s >= job.size.runtime_s:
                done.append(job)
        await self._end(done)
        for job in lost:
            del self._jobs[job.replica]
            job.tries, job.started_s = job.tries + 1, None
        await self._make(lost)

    async def _end(self, jobs: list[Job]) -> None:
        names = [pod["metadata"] for job in jobs for pod in _build_pods(job)]

        async def delete(metadata: Object) -> None:
            await self._cluster.kube.delete(PODS, metadata["name"], metadata["namespace"], grace_period_s=0)

        await run_all(delete, names, POSTS_AT_ONCE)
        for job in jobs:
            del self._jobs[job.replica]
            self._left -= 1


def _count_pods(size: Size) -> int:
    return -(-size.accelerators // MOST_PER_POD)


def _per_pod(size: Size) -> int:
    return size.accelerators // _count_pods(size)


def _build_pods(job: Job) -> list[Object]:
    pool, size = f"{job.tenant}-{job.size.name}", job.size
    return [
        _build_pod(job.tenant, pool, job.replica, rank, BASELINE_CLASS, _per_pod(size), size.name)
        for rank in range(_count_pods(size))
    ]


def _build_pod(namespace: str, pool: str, replica: str, rank: int, class_name: str, gpus: int, priority: str) -> Object:
    product = "Quota" if class_name == BASELINE_CLASS else "NVIDIA-H100-80GB-HBM3"
    labels = {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_POOL: pool,
        "llmos.dev/component": "replica",
        LABEL_REPLICA: replica,
        LABEL_RANK: str(rank),
        LABEL_REVISION: "x",
        LABEL_SERVING: "true",
    }
    container = {
        "name": "engine",
        "image": "none",
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
        "securityContext": build_container_security(),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": replica if not rank else f"{replica}-{rank}", "namespace": namespace, "labels": labels},
        "spec": {
            "containers": [container],
            "securityContext": build_pod_security(),
            "schedulingGates": [{"name": GATE_QUOTA}],
            "priorityClassName": priority,
            "automountServiceAccountToken": False,
            "nodeSelector": {"nvidia.com/gpu.product": product},
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
        },
    }


def _build_pool(namespace: str, name: str, class_name: str, gpus: int) -> Object:
    """A pool without a plan, for its model does not exist: it makes no pods, and keeps those that there are."""
    spec = {
        "modelRef": {"name": "absent"},
        "engine": {"name": "simulator"},
        "accelerator": {"class": class_name, "count": gpus},
        "replicas": POOL_LIMIT,
    }
    return _build("InferencePool", name, namespace, spec)


def _build_tenant(name: str, namespace: str, class_name: str, guaranteed: int) -> Object:
    # Without a borrow limit: the ResourceQuota that follows from one counts pods that wait, too. There is no more to
    # borrow than the limit of Kueue's baseline allows anyway.
    quota = {"class": class_name, "guaranteed": guaranteed}
    spec = {"namespaces": [namespace], "cohort": "all", "quota": [quota], "priorityRange": {"min": 0, "max": 200}}
    return _build("Tenant", name, "", spec)


def _build(kind: str, name: str, namespace: str, spec: Object) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
