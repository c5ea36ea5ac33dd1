"""Many pools at once: without replicas until each has a status, and with one simulated replica each until all answer.

KubeAI's method, step 2: POST with 16 in parallel, timed from the first one.
"""

from __future__ import annotations

import asyncio

from bench.operator.figures import Outcome, Row, compute_spread, format_spread
from bench.operator.objects import Object, build_names, build_pool
from bench.operator.scenarios.throughput import has_status
from bench.operator.stage import Cluster, build_namespace_name
from bench.operator.watching import Sightings, watch
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS

ROUNDS = 3
AFTER_S = 5.0
TIMEOUT_S = 300.0
KUBEAI_STATUS_S = 4.2
KUBEAI_CPU_S = 0.89
TARGET_READY_S = 20.0
MIB = 1024**2


async def measure_empty(cluster: Cluster, count: int) -> Outcome:
    """Pools without replicas."""
    rounds = [await _measure_empty_round(cluster, count) for _ in range(ROUNDS)]
    spreads = {step: compute_spread([r[step] for r in rounds]) for step in rounds[0]}
    took, cpu = spreads["status_s"], spreads["cpu_s"]
    rows = (
        Row(
            "burst",
            f"{count} pools without replicas, all with a first status",
            format_spread(took, "s"),
            f"<= {KUBEAI_STATUS_S} s",
            took.median <= KUBEAI_STATUS_S,
            "KubeAI: 4.20 s (4.07-4.27)",
        ),
        Row(
            "burst",
            "operator CPU until then",
            format_spread(cpu, "s"),
            f"<= {KUBEAI_CPU_S} s",
            cpu.median <= KUBEAI_CPU_S,
            "KubeAI: 0.89 s",
        ),
        Row("burst", "operator CPU 5 s later", format_spread(spreads["cpu_after_s"], "s"), peer="KubeAI: 1.38 s"),
        Row("burst", "operator RSS after", format_spread(spreads["rss_mib"], "MiB", 0), peer="KubeAI: 73 MiB"),
    )
    return Outcome(rows, {"rounds": rounds, "objects": count})


async def _measure_empty_round(cluster: Cluster, count: int) -> dict[str, float]:
    namespace = await cluster.add_namespace(build_namespace_name("burst"))
    names = build_names(count)
    seen = Sightings(has_status)
    async with cluster.operator() as operator, watch(cluster.configuration, INFERENCE_POOLS, namespace, seen.see):
        before = operator.usage()
        began_s = await cluster.create_all(build_pool(namespace, name) for name in names)
        done_s = await seen.wait(names, TIMEOUT_S)
        done = operator.usage()
        await asyncio.sleep(AFTER_S)
        after = operator.usage()
    await cluster.clean(namespace)
    return {
        "status_s": done_s - began_s,
        "cpu_s": done.cpu_s - before.cpu_s,
        "cpu_after_s": after.cpu_s - before.cpu_s,
        "rss_mib": after.rss_bytes / MIB,
    }


def _is_ready(pool: Object) -> bool:
    return has_status(pool) and int(pool["status"].get("readyReplicas", 0)) == pool["spec"]["replicas"]


def _is_pod_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


async def measure_ready(cluster: Cluster, count: int) -> Outcome:
    """Pools with one replica each."""
    rounds = [await _measure_ready_round(cluster, count) for _ in range(ROUNDS)]
    spreads = {step: compute_spread([r[step] for r in rounds]) for step in rounds[0]}
    ready = spreads["ready_s"]
    rows = (
        Row("ready", f"{count} pools with one replica, last Pod created", format_spread(spreads["created_s"], "s")),
        Row("ready", "last Pod ready (scheduler and kwok)", format_spread(spreads["pods_ready_s"], "s")),
        Row(
            "ready",
            "all pools say that their replica answers",
            format_spread(ready, "s"),
            f"<= {TARGET_READY_S:.0f} s",
            ready.median <= TARGET_READY_S,
            "KubeAI: 10 Models take 27.3 s to be reconciled, 31.9 s to be ready",
        ),
        Row("ready", "operator CPU until then", format_spread(spreads["cpu_s"], "s")),
    )
    return Outcome(rows, {"rounds": rounds, "objects": count})


async def _measure_ready_round(cluster: Cluster, count: int) -> dict[str, float]:
    namespace = await cluster.add_namespace(build_namespace_name("ready"))
    names = build_names(count)
    created, pods_ready, ready = Sightings(lambda _pod: True), Sightings(_is_pod_ready), Sightings(_is_ready)
    async with (
        cluster.operator() as operator,
        watch(cluster.configuration, PODS, namespace, created.see, pods_ready.see),
        watch(cluster.configuration, INFERENCE_POOLS, namespace, ready.see),
    ):
        before = operator.usage()
        began_s = await cluster.create_all(build_pool(namespace, name, replicas=1) for name in names)
        done_s = await ready.wait(names, TIMEOUT_S)
        used_s = operator.usage().cpu_s - before.cpu_s
    await cluster.clean(namespace)
    return {
        "created_s": max(created.first_s.values()) - began_s,
        "pods_ready_s": max(pods_ready.first_s.values()) - began_s,
        "ready_s": done_s - began_s,
        "cpu_s": used_s,
    }
