"""What a run says: shares, the service gap, what was done, and how long a victim waited."""

from __future__ import annotations

from dataclasses import dataclass

from bench.autoscale.profiles import BLOCK_TOKENS, load_profile
from bench.fairness.simulation import COSTS, Result
from bench.fairness.workload import Scenario
from llmos_gateway.fairness.queue import MOST_CREDIT

WARMUP_S = 60
"""Of this nothing is counted: queues fill, and engines find their pace."""


@dataclass(frozen=True)
class Figures:
    """One row of the report."""

    scenario: str
    side: str
    service_per_s: float
    """In the price of a prompt token, of all tenants together."""
    requests_per_s: float
    refused: int
    ratio: float | None
    """Service of the first tenant over that of the second, each divided by its weight; None for a victim."""
    gap: float | None
    """Largest difference of service by weight that two backlogged tenants came to within any stretch of time."""
    bound: float | None
    waiting_in_engines: float
    victim_p50_s: float | None = None
    victim_p99_s: float | None = None
    victim_requests: int = 0


def compute_figures(side: str, result: Result) -> Figures:
    """Return the figures of one run, after the warm-up."""
    scenario, services = result.scenario, result.services[WARMUP_S:]
    seconds = len(services) - 1
    grown = {name: services[-1][name] - services[0][name] for name in services[0]}
    done = [job for job in result.jobs if job.finished_s > WARMUP_S]
    ttfts = sorted(job.ttft_s for job in result.jobs if job.tenant == "victim" and job.arrived_s >= WARMUP_S)
    is_contest = len(scenario.tenants) == 2 and all(tenant.clients for tenant in scenario.tenants)
    return Figures(
        scenario=scenario.name,
        side=side,
        service_per_s=sum(grown.values()) / seconds,
        requests_per_s=len(done) / seconds,
        refused=result.refused,
        ratio=_compute_ratio(scenario, grown) if is_contest else None,
        gap=compute_gap(result) if is_contest else None,
        bound=compute_bound(scenario) if is_contest else None,
        waiting_in_engines=sum(result.in_engines[WARMUP_S:]) / len(result.in_engines[WARMUP_S:]),
        victim_p50_s=_find_quantile(ttfts, 0.5),
        victim_p99_s=_find_quantile(ttfts, 0.99),
        victim_requests=len(ttfts),
    )


def compute_gap(result: Result) -> float:
    """Return the largest change of the difference of two tenants' services while both have something waiting."""
    first, second = result.scenario.tenants
    lowest = highest = None
    largest = 0.0
    for services, waiting in zip(result.services[WARMUP_S:], result.waiting[WARMUP_S:], strict=True):
        if not (waiting[first.name] and waiting[second.name]):
            lowest = highest = None
            continue
        difference = services[first.name] / first.weight - services[second.name] / second.weight
        lowest = difference if lowest is None else min(lowest, difference)
        highest = difference if highest is None else max(highest, difference)
        largest = max(largest, highest - lowest)
    return largest


def compute_bound(scenario: Scenario) -> float:
    """Return the bound of `llmos_gateway.fairness.counters`, with M as the paper has it: what the caches hold."""
    longest = max(tenant.prompt.most for tenant in scenario.tenants)
    held = load_profile(scenario.gpu).blocks * BLOCK_TOKENS * scenario.replicas
    return 2 * max(COSTS.input * longest, COSTS.output * held) + MOST_CREDIT


def _compute_ratio(scenario: Scenario, grown: dict[str, float]) -> float:
    first, second = scenario.tenants
    return grown[first.name] / first.weight / max(1.0, grown[second.name] / second.weight)


def _find_quantile(values: list[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None
