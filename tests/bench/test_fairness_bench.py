"""The simulation around the fair queue: all are served, shares follow weights, and what is reported was counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.fairness.__main__ import BuildSide, main
from bench.fairness.figures import compute_figures
from bench.fairness.sides import Kthena, Llmos, Passing
from bench.fairness.simulation import Result, Simulation
from bench.fairness.workload import Lengths, Scenario, Tenant

SECONDS = 90.0
SHORT = Lengths(100, 400), Lengths(40, 120)


def run(scenario: Scenario, side: str) -> Result:
    builders: dict[str, BuildSide] = {
        "FCFS": lambda *_: Passing(),
        "Kthena": lambda *_: Kthena(16),
        "LLMOS": lambda _, told: Llmos(scenario.tenants, scenario.replicas, gateways=scenario.gateways, others=told),
    }
    return Simulation(scenario, builders[side], seconds=SECONDS).run()


@pytest.fixture
def contest() -> Scenario:
    tenants = tuple(Tenant(name, *SHORT, clients=40, weight=weight) for name, weight in (("three", 3.0), ("one", 1.0)))
    return Scenario("contest", tenants, replicas=1, max_sequences=16)


@pytest.mark.parametrize("side", ["FCFS", "Kthena", "LLMOS"])
def test_every_answer_is_whole_and_nobody_is_forgotten(contest: Scenario, side: str) -> None:
    result = run(contest, side)
    assert {job.tenant for job in result.jobs} == {"three", "one"}
    assert all(job.arrived_s <= job.sent_s <= job.first_token_s <= job.finished_s for job in result.jobs)
    assert max(result.running) <= 16


def test_shares_follow_weights_only_in_ours(contest: Scenario) -> None:
    ours, fcfs = (compute_figures(side, run(contest, side)) for side in ("LLMOS", "FCFS"))
    assert ours.ratio == pytest.approx(1, abs=0.1)
    assert fcfs.ratio == pytest.approx(1 / 3, abs=0.1)
    assert ours.gap is not None
    assert ours.bound is not None
    assert ours.gap < ours.bound


def test_several_gateways_share_the_window(contest: Scenario) -> None:
    tenants = tuple(replace(tenant, clients=300) for tenant in contest.tenants)
    result = run(replace(contest, tenants=tenants, gateways=2, max_sequences=64), "LLMOS")
    assert compute_figures("LLMOS", result).ratio == pytest.approx(1, abs=0.2)


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fairness.json"
    main(json_out=out, seconds=SECONDS, only="64 sequences")
    written = json.loads(out.read_text())
    assert [row["side"] for row in written["rows"]][:2] == ["victim alone", "FCFS"]
    assert {verdict["target"] for verdict in written["verdicts"]} == {"throughput over FCFS", "victim p99 over alone"}
    assert "64 sequences: throughput over FCFS" in capsys.readouterr().out
