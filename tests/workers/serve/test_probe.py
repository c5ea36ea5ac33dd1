"""Load and progress are read from the text that vLLM's /metrics gives."""

from __future__ import annotations

from llmos_workers.serve.probe import parse_load

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
"""


def test_engines_behind_one_server_are_added_up() -> None:
    load = parse_load(METRICS)
    assert (load.running, load.waiting, load.in_flight) == (4, 2, 6)


def test_progress_follows_the_counters_and_not_the_gauges() -> None:
    before = parse_load(METRICS)
    assert parse_load(METRICS.replace("} 158.0", "} 159.0")).progress != before.progress
    assert parse_load(METRICS.replace("} 3.0", "} 4.0")).progress == before.progress


def test_no_metrics_mean_no_load() -> None:
    assert parse_load("").in_flight == 0
