"""Runs every policy with every setting, and gathers figures."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.autoscale.engine import Request
from bench.autoscale.policies.references import Clairvoyant
from bench.autoscale.profiles import Profile, load_profile
from bench.autoscale.settings import HIGHEST, POLICIES, Context
from bench.autoscale.simulation import Outcome, Simulation
from bench.autoscale.traces import Arrival, TraceFormat, read_trace, vary_trace

INITIAL_UTILIZATION = 0.75
"""Every policy begins with the number that a clairvoyant of this utilization has at first."""
FIRST_SEED = 1
"""Seed 0 is the one that our constants were chosen with; it is held out of every report."""
NICENESS = 10
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Scenario:
    """A trace on a kind of GPU, and what counts as good."""

    trace: Path
    trace_format: TraceFormat
    gpu: str
    rate_scale: float
    ttft_s: float
    tpot_s: float
    warmup_s: int = 600
    """Seconds at first of which nothing is counted."""


@dataclass(frozen=True, slots=True)
class Run:
    """One simulation to be done."""

    scenario: Scenario
    cold_start_s: float
    seed: int
    policy: str
    setting: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of one run."""

    policy: str
    setting: str
    is_default: bool
    cold_start_s: float
    seed: int
    requests: int
    attainment: float
    """Share of requests within both objectives."""
    ttft_attainment: float
    tpot_attainment: float
    gpu_hours: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p99_s: float
    changes: int
    most_replicas: int
    preemptions: int


def plan_runs(scenario: Scenario, policies: Sequence[str], cold_starts_s: Sequence[float], seeds: int) -> list[Run]:
    """Return all runs; those of one trace variation lie together, so that it is made once."""
    return [
        Run(scenario, cold_start_s, seed, policy, setting)
        for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        for cold_start_s in cold_starts_s
        for policy in policies
        for setting in range(len(POLICIES[policy]()))
    ]


def simulate(run: Run) -> tuple[Figures, Outcome]:
    """Do one run."""
    scenario = run.scenario
    profile, arrivals = _prepare(scenario.trace, scenario.trace_format, scenario.gpu, scenario.rate_scale, run.seed)
    seer = Clairvoyant(profile, arrivals, run.cold_start_s, INITIAL_UTILIZATION)
    initial = min(HIGHEST, seer.count_needed(0))
    setting = POLICIES[run.policy]()[run.setting]
    context = Context(profile, arrivals, run.cold_start_s, initial, scenario.ttft_s, scenario.tpot_s)
    policy = setting.build(context)
    if run.policy == "static":
        initial = int(setting.label)
    outcome = Simulation(
        profile,
        arrivals,
        policy,
        cold_start_s=run.cold_start_s,
        initial=initial,
        limits=(1, HIGHEST),
        warmup_s=scenario.warmup_s,
    ).run()
    return compute_figures(run, setting.label, outcome), outcome


@lru_cache(maxsize=2)
def _prepare(
    trace: Path, trace_format: TraceFormat, gpu: str, rate_scale: float, seed: int
) -> tuple[Profile, list[Arrival]]:
    return load_profile(gpu), vary_trace(read_trace(trace, trace_format), rate_scale, seed)


def compute_figures(run: Run, label: str, outcome: Outcome) -> Figures:
    """Return what is reported of a run."""
    scenario, requests = run.scenario, outcome.requests
    count = len(requests)
    ttfts_s = sorted(_or_late(request.ttft_s) for request in requests)
    tpots_s = sorted(_or_late(request.tpot_s) for request in requests)
    return Figures(
        policy=run.policy,
        setting=label,
        is_default=run.setting == 0,
        cold_start_s=run.cold_start_s,
        seed=run.seed,
        requests=count,
        attainment=sum(is_good(request, scenario.ttft_s, scenario.tpot_s) for request in requests) / count,
        ttft_attainment=sum(ttft_s <= scenario.ttft_s for ttft_s in ttfts_s) / count,
        tpot_attainment=sum(tpot_s <= scenario.tpot_s for tpot_s in tpots_s) / count,
        gpu_hours=outcome.gpu_seconds / 3600,
        ttft_p50_s=ttfts_s[count // 2],
        ttft_p99_s=ttfts_s[min(count - 1, int(0.99 * count))],
        tpot_p99_s=tpots_s[min(count - 1, int(0.99 * count))],
        changes=outcome.changes,
        most_replicas=outcome.most_replicas,
        preemptions=outcome.preemptions,
    )


def is_good(request: Request, ttft_s: float, tpot_s: float) -> bool:
    """Whether a request was within both objectives. One that was never served was not."""
    return request.ttft_s <= ttft_s and request.tpot_s <= tpot_s


def _or_late(value_s: float) -> float:
    """Return the time, or one beyond any objective for a request that was never served."""
    return 1e9 if math.isnan(value_s) else value_s


def run_all(runs: Sequence[Run], workers: int) -> Iterator[Figures]:
    """Do all runs, with at most WORKERS processes that give way to others."""
    workers = min(workers, WORKERS)
    if workers <= 1:
        yield from map(_simulate_figures, runs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_give_way) as pool:
        yield from pool.imap(_simulate_figures, runs, chunksize=8)


def _give_way() -> None:
    os.nice(NICENESS)


def _simulate_figures(run: Run) -> Figures:
    return simulate(run)[0]


def to_json(figures: Figures) -> dict[str, Any]:
    """Return the figures as plain values."""
    return asdict(figures)
