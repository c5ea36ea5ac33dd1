"""What the operator tells of itself: true of the queue, and all of it explained."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmos_operator.runtime.metrics import Metrics
from llmos_operator.runtime.workqueue import WorkQueue

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "operator.md"


def build_metrics(queue: WorkQueue[str]) -> Metrics:
    """As the operator does it."""
    metrics = Metrics()
    metrics.watch_queue(lambda: queue.depth, queue.oldest_waiting_s, lambda: queue.running)
    return metrics


def read_values(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


@pytest.mark.looptime
async def test_the_queue_tells_what_waits_for_how_long_and_who_works() -> None:
    async def process(_key: str) -> None:
        await asyncio.sleep(10)

    queue = WorkQueue[str](process, workers=2)
    metrics = build_metrics(queue)
    for key in ("a", "b", "c", "d", "e"):
        queue.add(key)
    await asyncio.sleep(4)
    values = read_values(metrics)
    assert values["llmos_operator_queue_depth"] == 3
    assert values["llmos_operator_workers_busy"] == 2
    assert values["llmos_operator_queue_oldest_seconds"] == pytest.approx(4)
    await asyncio.sleep(60)
    values = read_values(metrics)
    assert [values[f"llmos_operator_{name}"] for name in ("queue_depth", "queue_oldest_seconds", "workers_busy")] == [
        0,
        0,
        0,
    ]


async def test_every_metric_is_explained_and_nothing_else_is() -> None:
    async def process(_key: str) -> None: ...

    families = text_string_to_metric_families(build_metrics(WorkQueue[str](process, workers=1)).render().decode())
    told = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    ours = {name for name in told if name.startswith("llmos_operator_")}
    explained = set(PAGE.read_text().replace("`", " ").replace(",", " ").split())
    assert {word for word in explained if word.startswith("llmos_operator_")} == ours
