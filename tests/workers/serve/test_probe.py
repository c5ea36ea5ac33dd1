"""Load and progress are read from the text that vLLM's /metrics gives."""

from __future__ import annotations

import pytest
from aiohttp import web

from llmos_workers.serve.probe import EngineProbe, ProbeResult, parse_load

METRICS = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_running{engine="1",model_name="tiny"} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 2.0
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="tiny"} 158.0
vllm:generation_tokens_created{engine="0",model_name="tiny"} 1.7e+09
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 4.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 5.0
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 300.0
vllm:prompt_tokens_cached_total{engine="0",model_name="tiny"} 96.0
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 128.0
vllm:num_preemptions_total{engine="0",model_name="tiny"} 2.0
vllm:iteration_tokens_total_bucket{engine="0",le="+Inf",model_name="tiny"} 77.0
vllm:iteration_tokens_total_count{engine="0",model_name="tiny"} 77.0
vllm:iteration_tokens_total_sum{engine="0",model_name="tiny"} 362.0
vllm:iteration_tokens_total_count{engine="1",model_name="tiny"} 73.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="tiny"} 0.75
"""


def test_engines_behind_one_server_are_added_up() -> None:
    load = parse_load(METRICS)
    assert (load.running, load.waiting, load.in_flight) == (4, 2, 6)


def test_progress_follows_the_counters_and_not_the_gauges() -> None:
    before = parse_load(METRICS)
    assert parse_load(METRICS.replace("} 158.0", "} 159.0")).progress != before.progress
    assert parse_load(METRICS.replace("} 3.0", "} 4.0")).progress == before.progress


def test_what_an_engine_did_is_read_from_its_counters() -> None:
    load = parse_load(METRICS)
    assert (load.prompt_tokens, load.cached_tokens, load.generation_tokens) == (300, 96, 158)
    assert load.preemptions == 2


def test_engines_that_step_side_by_side_make_as_many_steps_as_one() -> None:
    assert parse_load(METRICS).steps == 75


def test_the_fullest_cache_counts() -> None:
    assert parse_load(METRICS).kv_usage == 0.75


def test_an_engine_that_does_not_count_cached_tokens_by_request_tells_its_cache_hits() -> None:
    older = "\n".join(line for line in METRICS.splitlines() if not line.startswith("vllm:prompt_tokens_cached"))
    assert parse_load(older).cached_tokens == 128


def test_a_value_that_is_no_number_is_left_out() -> None:
    assert parse_load(METRICS.replace("} 3.0", "} NaN")).running == 1


def test_no_metrics_mean_no_load() -> None:
    assert parse_load("").in_flight == 0


async def probe_engine(statuses: dict[str, int]) -> ProbeResult:
    """Ask an engine that answers these paths, and 404 at all others."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=statuses.get(request.path, 404), text=request.path)

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with EngineProbe(runner.addresses[0][1], "tiny") as probe:
            return await probe.generate_one(5.0)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/classify", "/pooling"])
async def test_an_engine_is_ready_when_it_does_what_its_model_can(path: str) -> None:
    # vLLM says 501 where the path is there, and the model has no such task.
    result = await probe_engine({"/v1/embeddings": 501, "/classify": 501, path: 200})
    assert (result.succeeded, result.answer) == (True, f"status 200: {path}")


async def test_an_engine_that_serves_nothing_is_not_ready_and_its_first_answer_is_told() -> None:
    assert await probe_engine({"/classify": 501}) == ProbeResult(False, True, "status 404: /v1/completions")


async def test_an_engine_that_fails_is_asked_for_nothing_else() -> None:
    assert await probe_engine({"/v1/completions": 500, "/classify": 200}) == ProbeResult(
        False, True, "status 500: /v1/completions"
    )
