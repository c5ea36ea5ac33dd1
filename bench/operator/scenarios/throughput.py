"""Objects to first status per second, beside what the API server gives a loop of bare status writes.

Both sides run in the same round on the same server. The bare side knows every object already and does nothing but
write a status of the same size with the operator's own client: one write after the other, and as many at a time as the
operator has workers. The operator's side includes everything that a first status needs: the objects are created while
it runs, reach it by its watch, and are looked at before the status is written. What that costs is told by the requests
that the operator counts and by the CPU time of all processes.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from bench.operator.figures import Outcome, Row, compute_spread, format_spread
from bench.operator.objects import Object, build_names, build_pool
from bench.operator.stage import Cluster, build_namespace_name, run_all
from bench.operator.watching import Sightings, watch
from llmos_operator.kube.resources import INFERENCE_POOLS
from llmos_operator.runtime.app import Options

ROUNDS = 3
TARGET_SHARE = 0.5
TIMEOUT_S = 300.0
REQUESTS = ("llmos_operator_reads_total", "llmos_operator_writes_total")


def has_status(pool: Object) -> bool:
    """Whether the operator has said something about the object as it is now."""
    observed: int = pool.get("status", {}).get("observedGeneration", 0)
    return observed >= int(pool["metadata"]["generation"])


@dataclass(frozen=True)
class _Round:
    alone: float
    """Bare status writes a second, one at a time."""
    together: float
    """The same, as many at a time as the operator has workers."""
    operator: float
    """First statuses a second."""
    requests: float
    """Of the operator, for one first status; its watches are not counted."""
    cpu_ms: dict[str, float]
    """CPU time for one first status by process; `load` is this one."""


async def measure(cluster: Cluster, count: int) -> Outcome:
    """Run both sides `ROUNDS` times with `count` pools."""
    status = await _observe_status(cluster)
    rounds = [await _measure_round(cluster, count, status) for _ in range(ROUNDS)]
    return Outcome(_build_rows(rounds, count), {"rounds": [asdict(each) for each in rounds], "objects": count})


def _build_rows(rounds: list[_Round], count: int) -> tuple[Row, ...]:
    workers = Options().workers
    share = compute_spread([each.operator / each.alone for each in rounds])
    rate = compute_spread([each.operator for each in rounds])
    measures = (
        (f"bare status writes, one at a time ({count})", [each.alone for each in rounds], "/s", 0),
        (f"bare status writes, {workers} at a time", [each.together for each in rounds], "/s", 0),
        (f"share of {workers} writers at a time", [each.operator / each.together for each in rounds], "", 2),
        ("requests of the operator for one first status", [each.requests for each in rounds], "", 1),
        ("CPU for one first status, all processes", [sum(each.cpu_ms.values()) for each in rounds], "ms", 1),
        ("of which operator", [each.cpu_ms["operator"] for each in rounds], "ms", 1),
        ("of which kube-apiserver", [each.cpu_ms["kube-apiserver"] for each in rounds], "ms", 1),
    )
    title = f"{count} pools, from first create to last first status"
    return (
        Row("throughput", title, format_spread(rate, "/s", 0), peer="KubeAI: 48/s (200 Models)"),
        Row(
            "throughput",
            "share of the loop that writes one at a time",
            format_spread(share, "", 2),
            f">= {TARGET_SHARE}",
            share.median >= TARGET_SHARE,
        ),
        *(
            Row("throughput", measure, format_spread(compute_spread(values), unit, digits))
            for measure, values, unit, digits in measures
        ),
    )


async def _observe_status(cluster: Cluster) -> Object:
    """Return the status that the operator gives such a pool."""
    namespace = await cluster.add_namespace(build_namespace_name("sample"))
    async with cluster.operator() as operator:
        await cluster.kube.create(build_pool(namespace, "sample"))
        await operator.wait_until_idle(reconciled=2)
        pool = await cluster.kube.get(INFERENCE_POOLS, "sample", namespace)
    assert pool is not None
    await cluster.clean(namespace)
    status: Object = pool["status"]
    return status


async def _measure_round(cluster: Cluster, count: int, status: Object) -> _Round:
    alone = await _measure_bare(cluster, count, status, at_once=1)
    together = await _measure_bare(cluster, count, status, at_once=Options().workers)
    return await _measure_operator(cluster, count, alone, together)


async def _measure_bare(cluster: Cluster, count: int, status: Object, *, at_once: int) -> float:
    namespace = await cluster.add_namespace(build_namespace_name("bare"))
    pools = [build_pool(namespace, name) for name in build_names(count)]
    await cluster.create_all(pools)
    writes = [{**pool, "status": status} for pool in pools]
    for write in writes:
        del write["spec"]
    began_s = time.perf_counter()
    await run_all(cluster.kube.apply_status, writes, at_once)
    took_s = time.perf_counter() - began_s
    await cluster.clean(namespace)
    return count / took_s


async def _measure_operator(cluster: Cluster, count: int, alone: float, together: float) -> _Round:
    namespace = await cluster.add_namespace(build_namespace_name("throughput"))
    names = build_names(count)
    seen = Sightings(has_status)
    async with cluster.operator() as operator, watch(cluster.configuration, INFERENCE_POOLS, namespace, seen.see):
        metrics, used_s = await operator.metrics(), cluster.cpu_s()
        began_s = await cluster.create_all(build_pool(namespace, name) for name in names)
        took_s = await seen.wait(names, TIMEOUT_S) - began_s
        used_after_s, metrics_after = cluster.cpu_s(), await operator.metrics()
    await cluster.clean(namespace)
    requests = sum(metrics_after.get(name, 0.0) - metrics.get(name, 0.0) for name in REQUESTS)
    cpu_ms = {name: (used_after_s[name] - before_s) / count * 1000 for name, before_s in used_s.items()}
    return _Round(alone, together, count / took_s, requests / count, cpu_ms)
