"""What thousands of pools cost at rest: memory at several sizes, CPU while nothing changes, and writes.

Rest is looked at twice: for as long as the resync takes that is shipped, in which every object is looked at once, and
across a restart, in which all are looked at at once. Neither may write anything. That is asked of the API server too,
whose resource versions must stay, and not only of the operator's own counter.
"""

from __future__ import annotations

import asyncio
import time

from bench.operator.figures import Line, Outcome, Row, compute_line
from bench.operator.objects import build_names, build_pool
from bench.operator.scenarios.burst import MIB
from bench.operator.stage import Cluster, Operator, build_namespace_name
from bench.operator.waiting import wait_until
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES

REPLICAS = 2
TARGET_RSS_MIB = 250
TARGET_CPU_SHARE = 0.02
LEAST_CORRELATION = 0.95
TIMEOUT_S = 1500.0
_WRITES = "llmos_operator_writes_total"


def plan_sizes(pools: int) -> list[int]:
    """At how many pools memory is measured."""
    return sorted({0, pools // 4, pools // 2, pools})


async def measure(cluster: Cluster, pools: int, rest_s: float) -> Outcome:
    """Grow to `pools` pools, rest, and restart the operator."""
    namespace = await cluster.add_namespace(build_namespace_name("footprint"))
    async with cluster.operator() as operator:
        points = [await _grow(cluster, operator, namespace, size) for size in plan_sizes(pools)]
        rest = await _observe_rest(cluster, operator, namespace, rest_s)
    versions = await _read_versions(cluster, namespace)
    async with cluster.operator() as restarted:
        await restarted.wait_until_idle(reconciled=pools)
        again = await restarted.metrics()
        fresh = restarted.usage()
    restart = {
        "reconciles": again["llmos_operator_reconcile_seconds_count"],
        "writes": again.get(_WRITES, 0.0),
        "changed_objects": _count_changes(versions, await _read_versions(cluster, namespace)),
        "cpu_s": fresh.cpu_s,
        "rss_mib": fresh.rss_bytes / MIB,
    }
    line = compute_line(points)
    raw = {"rss_mib_by_pools": points, "line": vars(line), "rest": rest, "restart": restart}
    return Outcome(_build_rows(points, line, rest, restart), raw)


async def _grow(cluster: Cluster, operator: Operator, namespace: str, size: int) -> tuple[float, float]:
    """Have `size` pools with ready replicas; return the size and the RSS in MiB at rest."""
    existing = {pool["metadata"]["name"] for pool in await cluster.kube.list(INFERENCE_POOLS, namespace=namespace)}
    names = [name for name in build_names(size) if name not in existing]
    await cluster.create_all(build_pool(namespace, name, replicas=REPLICAS) for name in names)

    async def are_ready() -> bool:
        pools = await cluster.kube.list(INFERENCE_POOLS, namespace=namespace)
        ready = [pool for pool in pools if pool.get("status", {}).get("readyReplicas", 0) == REPLICAS]
        return len(ready) == size

    await wait_until(are_ready, what=f"That {size} pools are ready", timeout_s=TIMEOUT_S, poll_s=3.0)
    await operator.wait_until_idle()
    await asyncio.sleep(5.0)
    return float(size), operator.usage().rss_bytes / MIB


async def _observe_rest(cluster: Cluster, operator: Operator, namespace: str, rest_s: float) -> dict[str, float]:
    versions = await _read_versions(cluster, namespace)
    metrics, before, began_s = await operator.metrics(), operator.usage(), time.perf_counter()
    await asyncio.sleep(rest_s)
    took_s, after, metrics_after = time.perf_counter() - began_s, operator.usage(), await operator.metrics()
    done = "llmos_operator_reconcile_seconds_count"
    return {
        "seconds": took_s,
        "cpu_share": (after.cpu_s - before.cpu_s) / took_s,
        "rss_mib": after.rss_bytes / MIB,
        "reconciles": metrics_after[done] - metrics[done],
        "writes": metrics_after.get(_WRITES, 0.0) - metrics.get(_WRITES, 0.0),
        "changed_objects": _count_changes(versions, await _read_versions(cluster, namespace)),
    }


async def _read_versions(cluster: Cluster, namespace: str) -> dict[tuple[str, str], str]:
    versions = {}
    for kind in (INFERENCE_POOLS, SERVICES, PODS):
        for (place, name), version in (await cluster.kube.list_versions(kind)).items():
            if place == namespace:
                versions[kind.kind, name] = version
    return versions


def _count_changes(before: dict[tuple[str, str], str], after: dict[tuple[str, str], str]) -> int:
    return sum(before.get(key) != after.get(key) for key in before.keys() | after.keys())


def _build_rows(
    points: list[tuple[float, float]], line: Line, rest: dict[str, float], restart: dict[str, float]
) -> tuple[Row, ...]:
    pools = int(points[-1][0])
    largest_mib = max(points[-1][1], rest["rss_mib"])
    title = f"{pools} pools with {pools * REPLICAS} pods"
    sizes = ", ".join(f"{size:.0f}: {mib:.0f}" for size, mib in points)
    writes = rest["writes"] + rest["changed_objects"]
    again = restart["writes"] + restart["changed_objects"]
    return (
        Row(
            "footprint",
            f"{title}: RSS",
            f"{largest_mib:.0f} MiB",
            f"<= {TARGET_RSS_MIB} MiB",
            largest_mib <= TARGET_RSS_MIB,
        ),
        Row(
            "footprint",
            "RSS in MiB by number of pools",
            sizes,
            f"linear (correlation >= {LEAST_CORRELATION})",
            line.correlation >= LEAST_CORRELATION,
        ),
        Row("footprint", "growth for each pool with its pods", f"{line.slope * 1024:.0f} KiB"),
        Row(
            "footprint",
            f"CPU at rest for {rest['seconds']:.0f} s ({rest['reconciles']:.0f} resyncs)",
            f"{rest['cpu_share']:.1%} of a core",
            f"<= {TARGET_CPU_SHARE:.0%}",
            rest["cpu_share"] <= TARGET_CPU_SHARE,
        ),
        Row("footprint", "CPU for one of them, with what there is without them", _format_cost(rest)),
        Row("footprint", "writes meanwhile", f"{rest['writes']:.0f}", "0", writes == 0),
        Row(
            "footprint",
            f"writes after a restart ({restart['reconciles']:.0f} reconciles, {restart['cpu_s']:.1f} CPU s)",
            f"{restart['writes']:.0f}",
            "0",
            again == 0,
        ),
    )


def _format_cost(rest: dict[str, float]) -> str:
    if not rest["reconciles"]:
        return "there was none"
    return f"{rest['cpu_share'] * rest['seconds'] / rest['reconciles'] * 1000:.1f} ms"
