"""Objects to first status per second, beside what the API server gives a loop of bare status writes.

Both sides run in the same round on the same server. The bare side knows every object already and does nothing but
write a status of the same size with the operator's own client: one write after the other, and as many at a time as the
operator has workers. The operator's side includes everything that a first status needs: the objects are created while
it runs, reach it by its watch, and each costs it reads, a Service, the status and an Event.
"""

from __future__ import annotations

import time

from bench.operator.figures import Outcome, Row, compute_spread, format_spread
from bench.operator.objects import Object, build_names, build_pool
from bench.operator.stage import Cluster, build_namespace_name, run_all
from bench.operator.watching import Sightings, watch
from llmos_operator.kube.resources import INFERENCE_POOLS
from llmos_operator.runtime.app import Options

ROUNDS = 3
TARGET_SHARE = 0.5
TIMEOUT_S = 300.0


def has_status(pool: Object) -> bool:
    """Whether the operator has said something about the object as it is now."""
    observed: int = pool.get("status", {}).get("observedGeneration", 0)
    return observed >= int(pool["metadata"]["generation"])


async def measure(cluster: Cluster, count: int) -> Outcome:
    """Run both sides `ROUNDS` times with `count` pools."""
    status = await _observe_status(cluster)
    rounds = [await _measure_round(cluster, count, status) for _ in range(ROUNDS)]
    shares = {side: [r["operator"] / r[side] for r in rounds] for side in ("one_at_a_time", "as_many_as_workers")}
    rates = {side: compute_spread([r[side] for r in rounds]) for side in rounds[0]}
    single, parallel = (compute_spread(values) for values in shares.values())
    workers = Options().workers
    rows = (
        Row(
            "throughput", f"bare status writes, one at a time ({count})", format_spread(rates["one_at_a_time"], "/s", 0)
        ),
        Row(
            "throughput",
            f"bare status writes, {workers} at a time",
            format_spread(rates["as_many_as_workers"], "/s", 0),
        ),
        Row(
            "throughput",
            f"{count} pools, from first create to last first status",
            format_spread(rates["operator"], "/s", 0),
            peer="KubeAI: 48/s (200 Models)",
        ),
        Row(
            "throughput",
            "share of the bare loop",
            format_spread(single, "", 2),
            f">= {TARGET_SHARE}",
            single.median >= TARGET_SHARE,
        ),
        Row("throughput", f"share of {workers} writers at a time", format_spread(parallel, "", 2)),
    )
    return Outcome(rows, {"rounds": rounds, "objects": count})


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


async def _measure_round(cluster: Cluster, count: int, status: Object) -> dict[str, float]:
    return {
        "one_at_a_time": await _measure_bare(cluster, count, status, at_once=1),
        "as_many_as_workers": await _measure_bare(cluster, count, status, at_once=Options().workers),
        "operator": await _measure_operator(cluster, count),
    }


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


async def _measure_operator(cluster: Cluster, count: int) -> float:
    namespace = await cluster.add_namespace(build_namespace_name("throughput"))
    names = build_names(count)
    seen = Sightings(has_status)
    async with cluster.operator(), watch(cluster.configuration, INFERENCE_POOLS, namespace, seen.see):
        began_s = await cluster.create_all(build_pool(namespace, name) for name in names)
        took_s = await seen.wait(names, TIMEOUT_S) - began_s
    await cluster.clean(namespace)
    return count / took_s
