"""The simulation around the engines, traces, fronts and plots."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as Svg

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.autoscale.__main__ import DATA, main
from bench.autoscale.across import choose, gather
from bench.autoscale.fronts import Point, compute_front, interpolate_attainment, interpolate_hours
from bench.autoscale.plots import draw_fronts, draw_timeline
from bench.autoscale.policies.references import Clairvoyant, Static
from bench.autoscale.profiles import (
    GPUS,
    KV_BYTES_PER_TOKEN,
    LAYERS,
    OVERHEAD_S,
    compose_linear_s,
    fit_line,
    load_profile,
    read_rows,
)
from bench.autoscale.settings import POLICIES, Context
from bench.autoscale.simulation import Outcome, Policy, Simulation, View
from bench.autoscale.sweep import Run, Scenario, simulate
from bench.autoscale.traces import Arrival, read_trace, vary_trace
from tests.bench.autoscale.views import ROUND


def simulate_pool(arrivals: list[Arrival], policy: Policy, *, initial: int = 1, cold_start_s: float = 10.0) -> Outcome:
    return Simulation(ROUND, arrivals, policy, cold_start_s=cold_start_s, initial=initial, limits=(0, 20)).run()


def steady(seconds: int, every_s: float = 0.1) -> list[Arrival]:
    return [Arrival(i * every_s, 200, 20) for i in range(int(seconds / every_s))]


class Script:
    """A policy that reads its numbers from a table of seconds, and keeps what it saw."""

    def __init__(self, numbers: dict[int, int]) -> None:
        self._numbers = numbers
        self.views: list[View] = []

    def decide(self, view: View) -> int | None:
        self.views.append(view)
        return self._numbers.get(int(view.now_s))


def test_a_static_pool_is_paid_for_from_begin_to_end() -> None:
    outcome = simulate_pool(steady(100), Static(3), initial=3)
    assert outcome.gpu_seconds == pytest.approx(3 * 101)
    assert outcome.changes == 0


def test_a_new_replica_is_paid_for_while_it_starts_and_serves_afterwards() -> None:
    script = Script({20: 2})
    outcome = simulate_pool(steady(100), script)
    assert outcome.gpu_seconds == pytest.approx(101 + 81)
    assert [view.ready for view in script.views[18:32]] == [1] * 11 + [2] * 3
    assert script.views[29].became_ready_s == (10.0,)


def test_a_replica_that_is_withdrawn_before_it_is_ready_is_paid_for_until_then() -> None:
    outcome = simulate_pool(steady(100), Script({20: 2, 25: 1}))
    assert outcome.gpu_seconds == pytest.approx(101 + 5)


def test_nothing_of_the_warm_up_is_counted() -> None:
    script = Script({20: 2, 50: 3, 60: 1})
    simulation = Simulation(ROUND, steady(100), script, cold_start_s=10.0, initial=1, limits=(0, 20), warmup_s=40)
    outcome = simulation.run()
    assert outcome.gpu_seconds == pytest.approx(2 * 61 - 41 + 10, abs=1)
    assert outcome.changes == 2
    assert len(outcome.requests) == 600


def test_a_draining_replica_finishes_what_it_has_and_gets_nothing_new() -> None:
    arrivals = [Arrival(0.0, 100, 2000), Arrival(0.0, 100, 2000), *steady(60)]
    script = Script({5: 1})
    outcome = simulate_pool(sorted(arrivals, key=lambda a: a.time_s), script, initial=2)
    assert all(request.finished_s > 0 for request in outcome.requests)
    draining = [view.draining for view in script.views]
    assert max(draining) == 1
    assert draining[-1] == 0
    assert 61 + 5 < outcome.gpu_seconds < 61 + 40


def test_requests_are_held_while_there_is_no_replica_and_released_in_order() -> None:
    script = Script({3: 1})
    outcome = simulate_pool(steady(30), script, initial=0)
    held = [view.held for view in script.views[:14]]
    assert held == sorted(held) or held[-1] == 0
    assert max(held) >= 100
    assert min(request.first_token_s for request in outcome.requests) >= 13.0
    firsts = [request.first_token_s for request in outcome.requests[:100]]
    assert firsts == sorted(firsts)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 900), st.integers(1, 200)), min_size=1, max_size=60),
    st.dictionaries(st.integers(1, 45), st.integers(0, 5), max_size=12),
)
def test_every_request_is_answered_once_whatever_is_asked_for(
    shapes: list[tuple[float, int, int]], numbers: dict[int, int]
) -> None:
    arrivals = [Arrival(*shape) for shape in sorted(shapes)]
    # In the end there is somebody to answer.
    numbers |= dict.fromkeys(range(int(arrivals[-1].time_s), int(arrivals[-1].time_s) + 3), 1)
    script = Script(numbers)
    outcome = simulate_pool(arrivals, script)
    assert len(outcome.requests) == len(arrivals)
    assert all(request.finished_s >= request.first_token_s > request.arrived_s for request in outcome.requests)
    finished = [request for view in script.views for request in view.finished]
    assert len(set(map(id, finished))) == len(finished)
    assert sum(view.arrivals for view in script.views) == len(arrivals)


def test_the_clairvoyant_orders_before_the_load_comes() -> None:
    arrivals = steady(100, 1.0) + [Arrival(100 + i * 0.02, 500, 20) for i in range(3000)]
    seer = Clairvoyant(ROUND, arrivals, cold_start_s=30.0, utilization=0.9)
    assert seer.count_needed(20) < seer.count_needed(110)
    assert seer.count_needed(85) == seer.count_needed(110)


@pytest.mark.parametrize(
    ("name", "trace_format", "count"),
    [
        ("azure_2023_conv.csv", "azure", 19_366),
        ("azure_2023_code.csv", "azure", 8_819),
        ("mooncake_conversation.jsonl", "mooncake", 12_031),
    ],
)
def test_the_traces_are_read_in_full(name: str, trace_format: str, count: int) -> None:
    trace = read_trace(DATA / name, trace_format)  # type: ignore[arg-type]  # of the parameters above
    assert len(trace) == count
    assert trace[0].time_s == 0.0
    assert 3400 < trace[-1].time_s < 3610


def test_a_line_that_is_not_of_the_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 3, "output_length": 4}\n{"timestamp": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        read_trace(path, "mooncake")
    with pytest.raises(ValueError, match="lacks the columns"):
        read_trace(path, "azure")


@given(st.sampled_from([0.5, 1.0, 2.0, 3.3]), st.integers(0, 5))
@settings(max_examples=15)
def test_a_seed_keeps_totals_and_order(rate_scale: float, seed: int) -> None:
    trace = [Arrival(i * 0.7, 10 + i, 3 + i % 5) for i in range(200)]
    varied = vary_trace(trace, rate_scale, seed)
    assert varied == vary_trace(trace, rate_scale, seed)
    assert [a.time_s for a in varied] == sorted(a.time_s for a in varied)
    assert len(varied) == pytest.approx(rate_scale * len(trace), rel=0.25)
    if rate_scale.is_integer():
        assert sum(a.prompt_tokens for a in varied) == rate_scale * sum(a.prompt_tokens for a in trace)


@pytest.mark.parametrize("gpu", GPUS)
def test_a_profile_is_near_what_was_measured(gpu: str) -> None:
    profile, rows = load_profile(gpu), read_rows(gpu)
    for tokens in (1, 16, 128, profile.max_batched_tokens // 2, profile.max_batched_tokens):
        measured_s = compose_linear_s(rows, tokens)
        assert profile.compute_linear_s(tokens) == pytest.approx(measured_s + OVERHEAD_S, rel=0.25), tokens
    for (operation, count, _, _, context), layer_s in rows.items():
        if operation == "decode_attention" and count * context >= 200_000:
            assert profile.context_token_s * count * context == pytest.approx(layer_s * LAYERS, rel=0.2)
    assert profile.blocks * 16 * KV_BYTES_PER_TOKEN < GPUS[gpu].memory_gib * 1024**3


def test_a_line_is_found_again() -> None:
    assert fit_line([(x, 3 + 2 * x) for x in (1.0, 5.0, 9.0)]) == pytest.approx((3.0, 2.0))


def point(attainment: float, gpu_hours: float, policy: str = "llmos") -> Point:
    return Point(policy, f"{gpu_hours}", True, 60.0, attainment, 0.0, gpu_hours, 1.0, 0.1, 3, 4)


def test_a_front_holds_what_nothing_else_beats() -> None:
    points = [point(0.9, 5), point(0.95, 6), point(0.94, 7), point(0.99, 8), point(0.9, 9)]
    assert [(p.attainment, p.gpu_hours) for p in compute_front(points)] == [(0.9, 5), (0.95, 6), (0.99, 8)]


def test_a_front_is_read_between_its_points() -> None:
    front = [point(0.9, 5), point(0.98, 7)]
    assert interpolate_hours(front, 0.94) == pytest.approx(6)
    assert interpolate_hours(front, 0.5) == 5
    assert interpolate_hours(front, 0.99) is None
    assert interpolate_attainment(front, 6) == pytest.approx(0.94)
    assert interpolate_attainment(front, 4) is None
    assert interpolate_attainment(front, 9) == 0.98


def test_one_setting_has_to_do_everywhere() -> None:
    def entry(setting: str, attainment: float, gpu_hours: float) -> dict[str, object]:
        return {
            "policy": "hpa",
            "setting": setting,
            "is_default": setting == "a",
            "cold_start_s": 60.0,
            "attainment": attainment,
            "gpu_hours": gpu_hours,
        }

    calm = {"points": [entry("a", 0.99, 5.0), entry("b", 0.98, 6.0), entry("only here", 1.0, 1.0)]}
    wild = {"points": [entry("a", 0.5, 5.0), entry("b", 0.96, 9.0)]}
    settings = gather([calm, wild])
    assert {(it.setting, it.worst, it.gpu_hours) for it in settings} == {("a", 0.5, 10.0), ("b", 0.96, 15.0)}
    assert choose(settings, 0.95) == next(it for it in settings if it.setting == "b")
    assert choose(settings, 0.97) is None


def test_every_setting_of_every_policy_serves_a_small_trace_within_its_limits() -> None:
    trace = [Arrival(float(i), 100, 10) for i in range(60)]
    context = Context(load_profile("l40s"), trace, 30.0, 2, 2.0, 0.15)
    for name, list_settings in POLICIES.items():
        labels = [setting.label for setting in list_settings()]
        assert len(set(labels)) == len(labels), name
        for setting in list_settings():
            outcome = Simulation(
                context.profile, trace, setting.build(context), cold_start_s=5.0, initial=2, limits=(1, 9)
            ).run()
            assert all(request.finished_s > 0 for request in outcome.requests), (name, setting.label)
            assert min(current for current, *_ in outcome.timeline) >= 1, (name, setting.label)
            assert outcome.most_replicas <= 9, (name, setting.label)


def test_a_run_is_the_same_each_time() -> None:
    scenario = Scenario(DATA / "azure_2023_code.csv", "azure", "l40s", 0.3, 2.0, 0.15)
    run = Run(scenario, 30.0, 1, "llmos", 0)
    assert simulate(run)[0] == simulate(run)[0]


def test_the_command_line_writes_every_run_and_plots(tmp_path: Path) -> None:
    trace = tmp_path / "small.jsonl"
    lines = [{"timestamp": i * 200, "input_length": 400, "output_length": 40} for i in range(600)]
    trace.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    out = tmp_path / "out.json"
    main(
        trace=trace,
        trace_format="mooncake",
        policies="llmos,knative,clairvoyant",
        cold_start="10",
        rate_scale=1.0,
        seeds=2,
        gpu="l40s",
        ttft=2.0,
        tpot=0.15,
        warmup=20,
        workers=1,
        json_out=out,
        plots=tmp_path / "plots",
    )
    report = json.loads(out.read_text(encoding="utf-8"))
    settings_count = sum(len(POLICIES[name]()) for name in ("llmos", "knative", "clairvoyant"))
    assert len(report["runs"]) == 2 * settings_count
    assert {comparison["policy"] for comparison in report["comparisons"]} == {"knative", "clairvoyant"}
    written = list((tmp_path / "plots").iterdir())
    assert len(written) == 2
    for path in written:
        read_svg(path.read_text(encoding="utf-8"))


def test_plots_are_well_formed_for_odd_names() -> None:
    points = [point(0.9, 5, "a<b"), point(0.95, 6, "a<b")]
    read_svg(draw_fronts("x & y", points, 10.0))
    read_svg(draw_timeline("t", [("a", [1, 1, 2]), ("b", [])]))


def read_svg(text: str) -> None:
    assert Svg.fromstring(text).tag.endswith("svg")  # noqa: S314 - our own output, a moment old
