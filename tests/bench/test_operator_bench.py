"""The arithmetic of the operator's benchmark, and that its objects are what the operator reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.operator.figures import (
    Row,
    compute_line,
    compute_percentile,
    compute_schedule_s,
    compute_spread,
    format_spread,
    is_idle,
    parse_metrics,
)
from bench.operator.objects import build_accelerator, build_model, build_names, build_pool
from bench.operator.report import build_verdict
from bench.operator.scenarios.footprint import plan_sizes
from bench.operator.scenarios.step import Run, Sample, Setting, build_rows
from bench.operator.scenarios.throughput import has_status
from llmos.api import AcceleratorClass, InferencePool, LLMModel
from llmos_operator.planning.layout import plan_layout
from llmos_operator.runtime.metrics import Metrics


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_a_measured_value_that_enough_others_do_not_exceed(values: list[float], share: float) -> None:
    percentile = compute_percentile(values, share)
    assert percentile in values
    assert sum(value <= percentile for value in values) >= share * len(values) - 1e-9


def test_the_99th_percentile_of_a_hundred_values_is_the_99th() -> None:
    assert compute_percentile([float(value) for value in range(1, 101)], 0.99) == 99.0


def test_a_spread_is_written_with_its_range() -> None:
    assert format_spread(compute_spread([3.0, 1.0, 2.0]), "s", 1) == "2.0 s (1.0-3.0, n=3)"


def test_growth_by_the_same_step_is_a_line() -> None:
    line = compute_line([(0.0, 70.0), (500.0, 80.0), (1000.0, 90.0)])
    assert line.slope == pytest.approx(0.02)
    assert line.intercept == pytest.approx(70.0)
    assert line.correlation == pytest.approx(1.0)


def test_no_growth_is_a_line_too() -> None:
    assert compute_line([(0.0, 70.0), (500.0, 70.0)]).slope == 0.0


def test_changes_are_evenly_spaced() -> None:
    assert compute_schedule_s(3, per_second=50.0) == [0.0, 0.02, 0.04]


def test_metrics_are_summed_over_their_labels() -> None:
    metrics = Metrics()
    metrics.count_write("apply", "Service")
    metrics.count_write("apply_status", "InferencePool")
    assert parse_metrics(metrics.render().decode())["llmos_operator_writes_total"] == 2.0


def test_an_operator_is_idle_when_it_leads_and_has_done_enough_and_has_nothing_to_do() -> None:
    metrics = Metrics()
    assert not is_idle(parse_metrics(metrics.render().decode()), reconciled=0)
    metrics.set_leader(True)
    assert not is_idle(parse_metrics(metrics.render().decode()), reconciled=1)
    metrics.observe_reconcile("InferencePool", 0.01)
    assert is_idle(parse_metrics(metrics.render().decode()), reconciled=1)
    metrics.watch_queue(lambda: 1, lambda: 0.0, lambda: 0)
    assert not is_idle(parse_metrics(metrics.render().decode()), reconciled=1)


@pytest.mark.parametrize(("pools", "sizes"), [(2000, [0, 500, 1000, 2000]), (8, [0, 2, 4, 8])])
def test_memory_is_measured_at_growing_sizes(pools: int, sizes: list[int]) -> None:
    assert plan_sizes(pools) == sizes


def test_only_a_status_of_the_present_generation_counts() -> None:
    pool = {"metadata": {"generation": 2}}
    assert not has_status(pool)
    assert not has_status({**pool, "status": {"observedGeneration": 1}})
    assert has_status({**pool, "status": {"observedGeneration": 2}})


def test_the_operator_has_a_plan_for_the_pools_that_are_measured() -> None:
    pool = InferencePool.model_validate(build_pool("bench", build_names(1)[0], replicas=1))
    model = LLMModel.model_validate(build_model("bench")[1])
    accelerator = AcceleratorClass.model_validate(build_accelerator())
    assert plan_layout(pool, model, accelerator).plan is not None


def test_the_step_of_load_is_timed_from_its_begin_and_its_end() -> None:
    run = Run(began_s=10.0, ended_s=30.0, finished=8)
    run.samples = [
        Sample(9.9, 1, 1),
        Sample(11.0, 3, 1),
        Sample(12.0, 4, 1),
        Sample(15.0, 4, 4),
        Sample(31.0, 4, 4),
        Sample(36.5, 1, 4),
    ]
    assert (run.up_s(), run.ready_s(), run.down_s(), run.highest()) == (2.0, 5.0, 6.5, 4)
    rows = build_rows(Setting("quick", 5, 1, "7 s", "11 s", "9 s"), [run])
    assert [row.is_met for row in rows] == [True, None, True, True, True]


def test_a_step_that_overshoots_or_fails_a_request_misses_its_target() -> None:
    run = Run(began_s=0.0, ended_s=20.0, failures=["status 503"], finished=8)
    run.samples = [Sample(4.0, 5, 1), Sample(9.0, 5, 5), Sample(40.0, 1, 1)]
    rows = build_rows(Setting("quick", 5, 1, "7 s", "11 s", "9 s"), [run])
    assert [row.is_met for row in rows] == [False, None, False, False, False]


def test_the_verdict_names_what_was_missed_and_leaves_out_what_has_no_target() -> None:
    rows = (
        Row("burst", "all with a first status", "3.9 s", "<= 4.2 s", is_met=True),
        Row("burst", "operator CPU", "1.4 s", "<= 0.9 s", is_met=False),
        Row("burst", "RSS", "70 MiB"),
    )
    assert build_verdict(rows) == ("1 of 2 targets met.\nMissed: burst, operator CPU: 1.4 s instead of <= 0.9 s.")
