"""From a change of a spec to the status that speaks about it, under a steady load of changes.

Open loop: changes leave at fixed times whether or not earlier ones were answered, and each is timed from the moment at
which it was due. So a server or an operator that falls behind cannot hide it.
"""

from __future__ import annotations

import asyncio
import time

from bench.operator.figures import Outcome, Row, compute_percentile, compute_schedule_s
from bench.operator.objects import Object, build_names, build_pool
from bench.operator.scenarios.throughput import has_status
from bench.operator.stage import Cluster, build_namespace_name
from bench.operator.watching import Sightings, watch
from llmos_operator.kube.resources import INFERENCE_POOLS

POOLS = 200
CHANGES_PER_S = 50.0
TARGET_P99_MS = 100.0
TIMEOUT_S = 120.0


class _Generations:
    """When the status of each pool reached each generation, by pool and generation."""

    def __init__(self) -> None:
        self.reached_s: dict[str, list[tuple[int, float]]] = {}

    def see(self, pool: Object) -> None:
        now_s = time.perf_counter()
        observed = int(pool.get("status", {}).get("observedGeneration", 0))
        steps = self.reached_s.setdefault(pool["metadata"]["name"], [])
        if not steps or steps[-1][0] < observed:
            steps.append((observed, now_s))

    def find_s(self, name: str, generation: int) -> float | None:
        return next((at_s for reached, at_s in self.reached_s.get(name, ()) if reached >= generation), None)


async def measure(cluster: Cluster, duration_s: float) -> Outcome:
    """Change pools for `duration_s` seconds."""
    namespace = await cluster.add_namespace(build_namespace_name("latency"))
    names = build_names(POOLS)
    first, generations = Sightings(has_status), _Generations()
    async with (
        cluster.operator() as operator,
        watch(cluster.configuration, INFERENCE_POOLS, namespace, first.see, generations.see),
    ):
        await cluster.create_all(build_pool(namespace, name) for name in names)
        await first.wait(names, TIMEOUT_S)
        await operator.wait_until_idle()
        before_s = cluster.cpu_s()
        changes = await _change(cluster, namespace, names, round(duration_s * CHANGES_PER_S))
        cpu_ms = {name: (s - before_s[name]) / len(changes) * 1000 for name, s in cluster.cpu_s().items()}
        await operator.wait_until_idle()
        await asyncio.sleep(1.0)
    await cluster.clean(namespace)
    return _build_outcome(changes, generations, cpu_ms)


async def _change(
    cluster: Cluster, namespace: str, names: list[str], count: int
) -> list[tuple[str, int, float, float]]:
    """Return name, new generation, when it was due and when it was answered, for each change."""
    changes: list[tuple[str, int, float, float]] = []

    async def change(index: int, due_s: float) -> None:
        name = names[index % len(names)]
        manifest = build_pool(namespace, name, drain_s=121 + index // len(names))
        stored = await cluster.kube.apply(manifest, field_manager="bench")
        changes.append((name, stored["metadata"]["generation"], due_s, time.perf_counter()))

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for index, offset_s in enumerate(compute_schedule_s(count, CHANGES_PER_S)):
            await asyncio.sleep(max(0.0, began_s + offset_s - time.perf_counter()))
            group.create_task(change(index, began_s + offset_s))
    return changes


def _build_outcome(
    changes: list[tuple[str, int, float, float]], generations: _Generations, cpu_ms: dict[str, float]
) -> Outcome:
    from_due_ms, from_answer_ms, requests_ms, missed = [], [], [], 0
    for name, generation, due_s, answered_s in changes:
        requests_ms.append((answered_s - due_s) * 1000)
        reached_s = generations.find_s(name, generation)
        if reached_s is None:
            missed += 1
            continue
        from_due_ms.append((reached_s - due_s) * 1000)
        from_answer_ms.append(max(0.0, reached_s - answered_s) * 1000)
    p99_ms = compute_percentile(from_due_ms, 0.99)
    rows = (
        Row("latency", "change due -> its status seen, median", f"{compute_percentile(from_due_ms, 0.5):.0f} ms"),
        Row(
            "latency",
            f"the same, p99 of {len(changes)} changes at {CHANGES_PER_S:.0f}/s",
            f"{p99_ms:.0f} ms",
            f"<= {TARGET_P99_MS:.0f} ms, none missed",
            p99_ms <= TARGET_P99_MS and missed == 0,
        ),
        Row(
            "latency", "of which until the change was answered, p99", f"{compute_percentile(requests_ms, 0.99):.0f} ms"
        ),
        Row("latency", "CPU for one change, all processes", f"{sum(cpu_ms.values()):.1f} ms"),
        Row("latency", "of which operator", f"{cpu_ms['operator']:.1f} ms"),
    )
    raw = {
        "from_due_ms": from_due_ms,
        "from_answer_ms": from_answer_ms,
        "request_ms": requests_ms,
        "missed": missed,
        "cpu_ms_per_change": cpu_ms,
    }
    return Outcome(rows, raw)
