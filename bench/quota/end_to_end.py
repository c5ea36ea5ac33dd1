"""The quota on a real API server: an etcd, a kube-apiserver, the scheduler, simulated nodes and the shipped operator.

Three scenarios, each with a control plane and an operator of its own, all with the workloads as gated pods of pools,
made by this program: a pool makes its own pods with a Service and a status of its own, and would be measured instead of
the quota. Nothing else is left out: the operator watches, plans, lifts gates and pins, and but for **admitted** the
scheduler binds and kwok has the pods run.

- **burst**: 3,000 pods wait, and there is room for all. Time from the first Tenant to the last lifted gate.
- **baseline**: Kueue's baseline cut to one of its five cohorts (3,000 workloads, see `workload`), in real time. A large
  workload is a gang of two pods of 10. See `baseline`.
- **admitted**: the same, but no scheduler binds the pods and a workload runs from when it is admitted. That is what
  Kueue's runner does: create, admit, end, without pods and nodes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from kubernetes.aio.client import ApiClient, SchedulingV1Api

from bench.operator.objects import ACCELERATOR as BURST_CLASS
from bench.operator.stage import POSTS_AT_ONCE, Cluster, Operator, run_all, start_stage
from bench.operator.watching import Sightings, watch
from bench.quota.baseline import QUEUES, Run, build_figures, build_jobs, count_workloads, is_admitted, per_pod
from bench.quota.manifests import (
    BASELINE_CLASS,
    NO_SCHEDULER,
    build_class,
    build_node,
    build_pod,
    build_pool,
    build_tenant,
)
from bench.quota.workload import QUOTA, SIZES
from llmos_operator.kube.resources import PODS

TIMEOUT_S: Final = 900.0
BURST_POOL: Final = 500
Scenario = Callable[[Cluster, Operator], Awaitable[dict[str, Any]]]
REQUESTS: Final = {"reads": "llmos_operator_reads_total", "writes": "llmos_operator_writes_total"}


async def run_end_to_end(part: float) -> dict[str, Any]:
    """Run all scenarios with a part of the workloads; return their figures."""
    scenarios: dict[str, Scenario] = {
        "burst": lambda cluster, operator: _run_burst(cluster, operator, round(3000 * part)),
        "admitted": lambda cluster, operator: _run_baseline(cluster, operator, part, "queue", NO_SCHEDULER),
        "baseline": lambda cluster, operator: _run_baseline(cluster, operator, part, "bound", "default-scheduler"),
    }
    return {name: await _run(scenario) for name, scenario in scenarios.items()}


async def _run(scenario: Scenario) -> dict[str, Any]:
    """Run one scenario on a control plane that nothing else was asked of."""
    with tempfile.TemporaryDirectory() as folder, start_stage(Path(folder)) as stage:
        await stage.prepare()
        async with stage.connect() as cluster:
            await _prepare(cluster)
            async with cluster.operator() as operator:
                figures = await scenario(cluster, operator)
                usage, metrics = operator.usage(), await operator.metrics()
    return {
        **figures,
        "operator": {"rss_mib": round(usage.rss_bytes / 2**20), "cpu_s": round(usage.cpu_s, 1)},
        "passes": metrics.get("llmos_operator_quota_pass_seconds_count", 0),
        "pass_s": metrics.get("llmos_operator_quota_pass_seconds_sum", 0),
    }


async def _prepare(cluster: Cluster) -> None:
    await cluster.core.create_node(build_node(QUEUES * QUOTA))
    await cluster.kube.create(build_class())
    async with ApiClient(cluster.configuration) as client:
        for size in SIZES:
            await SchedulingV1Api(client).create_priority_class(
                {"metadata": {"name": size.name}, "value": size.priority}
            )


async def _run_burst(cluster: Cluster, operator: Operator, count: int) -> dict[str, Any]:
    namespace = await cluster.add_namespace("burst")
    pools = [f"burst-{number}" for number in range(-(-count // BURST_POOL))]
    manifests = (build_pool(namespace, pool, BURST_CLASS, 1, BURST_POOL) for pool in pools)
    await run_all(cluster.kube.create, manifests, POSTS_AT_ONCE)
    places = [(pools[number % len(pools)], number) for number in range(count)]
    pods = (build_pod(namespace, pool, f"{pool}-x-{n}", 0, BURST_CLASS, 1, "small") for pool, n in places)
    await run_all(cluster.kube.create, pods, POSTS_AT_ONCE)
    await operator.wait_until_idle()
    released = Sightings(is_admitted)
    names = [f"{pool}-x-{n}" for pool, n in places]
    async with watch(cluster.configuration, PODS, namespace, released.see):
        began_s = time.perf_counter()
        await cluster.kube.create(build_tenant("burst", namespace, BURST_CLASS, count))
        took_s = await released.wait(names, TIMEOUT_S) - began_s
    return {"gangs": count, "took_s": round(took_s, 1), "admissions_per_s": round(count / took_s, 1)}


async def _run_baseline(
    cluster: Cluster, operator: Operator, part: float, prefix: str, scheduler: str
) -> dict[str, Any]:
    jobs = build_jobs(part, prefix)
    tenants = sorted({job.tenant for job in jobs})
    for tenant in tenants:
        await cluster.add_namespace(tenant)
        await cluster.kube.create(build_tenant(tenant, tenant, BASELINE_CLASS, QUOTA))
        for size in SIZES:
            name, count = f"{tenant}-{size.name}", count_workloads(size, part)
            await cluster.kube.create(build_pool(tenant, name, BASELINE_CLASS, per_pod(size), count))
    cpu_s, sent = cluster.cpu_s(), await operator.metrics()
    took_s = await Run(cluster, jobs, scheduler).run()
    used_s, now_sent = cluster.cpu_s(), await operator.metrics()
    return {
        **build_figures(jobs, took_s),
        "cores": {name: round((used_s[name] - cpu_s[name]) / took_s, 2) for name in sorted(cpu_s)},
        "cpu_ms_per_workload": round(1000 * sum(used_s[name] - cpu_s[name] for name in cpu_s) / len(jobs)),
        "operator_requests_per_workload": {
            what: round((now_sent.get(name, 0.0) - sent.get(name, 0.0)) / len(jobs), 2)
            for what, name in REQUESTS.items()
        },
    }
