"""The engine in (simulated) real time: steps take what the timing model says, requests get what they asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest

from llmos_workers.simulate.engine import Engine, Job, QueueFullError
from llmos_workers.simulate.metrics import Metrics
from llmos_workers.simulate.scheduler import Limits, Timing
from llmos_workers.simulate.settings import Faults
from llmos_workers.simulate.tokens import Answer

pytestmark = [pytest.mark.looptime]

LIMITS = Limits(max_num_seqs=4, max_num_batched_tokens=1000, max_model_len=2000, kv_blocks=500)
TIMING = Timing(prefill_tokens_per_s=1000, decode_step_ms=10, decode_step_ms_per_seq=1)


class CrashedError(Exception):
    """The crash fault struck."""


def crash() -> NoReturn:
    raise CrashedError


def build_engine(faults: Faults = Faults(), max_queued: int = 100) -> tuple[Engine, Metrics]:  # noqa: B008
    metrics = Metrics("m", 16, LIMITS.kv_blocks)
    clock = asyncio.get_running_loop().time
    return Engine(LIMITS, TIMING, metrics, faults=faults, max_queued=max_queued, crash=crash, clock=clock), metrics


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, Metrics]]:
    built = build_engine()
    task = asyncio.create_task(built[0].run())
    yield built
    task.cancel()


def job(prompt: int, output: int) -> Job:
    return Job(prompt, (), Answer(("ant ",) * output, "length"))


async def serve(engine: Engine, *jobs: Job) -> float:
    """Serve one request and return the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    submission = engine.submit(jobs)
    events = [event async for event in submission.tokens()]
    submission.close()
    assert len(events) == sum(len(one.answer.pieces) for one in jobs if one.answer)
    return loop.time() - began


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"vllm:{name}", {"model_name": "m", "engine": "0", **labels})


async def test_one_request_takes_a_prefill_step_and_its_decode_steps(engine: tuple[Engine, Metrics]) -> None:
    # 500 prompt tokens at 1000/s and a step of 10 ms; then 9 steps of 11 ms.
    assert await serve(engine[0], job(500, 10)) == pytest.approx(0.510 + 9 * 0.011)


async def test_a_full_batch_makes_the_next_request_wait(engine: tuple[Engine, Metrics]) -> None:
    took = await asyncio.gather(*(serve(engine[0], job(1, 100)) for _ in range(5)))
    assert max(took) == pytest.approx(0.0151 + 99 * 0.014 + 0.011 + 99 * 0.011, rel=0.02)
    assert read(engine[1], "request_success_total", finished_reason="length") == 5


async def test_closing_a_submission_gives_its_place_to_the_next(engine: tuple[Engine, Metrics]) -> None:
    hogs = [engine[0].submit([job(1, 1500)]) for _ in range(4)]
    waiting = asyncio.create_task(serve(engine[0], job(1, 2)))
    await asyncio.sleep(1)
    assert not waiting.done()
    assert read(engine[1], "num_requests_waiting") == 1
    for hog in hogs:
        hog.close()
        hog.close()
    await waiting
    assert read(engine[1], "request_success_total", finished_reason="abort") == 4
    assert read(engine[1], "kv_cache_usage_perc") == 0


async def test_the_queue_has_a_bound() -> None:
    engine, _ = build_engine(max_queued=2)
    engine.submit([job(1, 1), job(1, 1)])
    with pytest.raises(QueueFullError):
        engine.submit([job(1, 1)])


async def test_the_crash_fault_serves_that_many_requests_and_dies_at_the_next() -> None:
    engine, _ = build_engine(Faults(crash_after_requests=2))
    task = asyncio.create_task(engine.run())
    await serve(engine, job(1, 3))
    await serve(engine, job(1, 3))
    engine.submit([job(1, 3)])
    with pytest.raises(CrashedError):
        await asyncio.wait_for(task, 1)


async def test_the_hang_fault_serves_that_many_requests_and_no_more() -> None:
    engine, metrics = build_engine(Faults(hang_after_requests=1))
    task = asyncio.create_task(engine.run())
    await serve(engine, job(1, 3))
    engine.submit([job(1, 3)])
    await asyncio.sleep(1000)
    assert read(metrics, "num_requests_waiting") == 1
    task.cancel()


async def test_token_metrics_say_what_was_served(engine: tuple[Engine, Metrics]) -> None:
    await serve(engine[0], job(50, 10), job(50, 20))
    metrics = engine[1]
    assert read(metrics, "prompt_tokens_total") == 100
    assert read(metrics, "generation_tokens_total") == 30
    assert read(metrics, "iteration_tokens_total_count") == 20, "steps that gave an output"
    assert read(metrics, "iteration_tokens_total_sum") == 130, "tokens that were computed"
    assert read(metrics, "prompt_tokens_cached_total") == 0
    assert read(metrics, "time_to_first_token_seconds_count") == 2
    assert read(metrics, "inter_token_latency_seconds_count") == 28
    assert read(metrics, "e2e_request_latency_seconds_count") == 2
