"""Means over seeds, Pareto fronts of attainment over GPU-hours, and comparisons on them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.autoscale.settings import OURS, REFERENCES
from bench.autoscale.sweep import Figures


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of a policy, on average over seeds."""

    policy: str
    setting: str
    is_default: bool
    cold_start_s: float
    attainment: float
    attainment_spread: float
    """Greatest less least of the seeds."""
    gpu_hours: float
    ttft_p99_s: float
    tpot_p99_s: float
    changes: float
    most_replicas: int


def average(figures: Iterable[Figures]) -> list[Point]:
    """Return the means over seeds, in the order in which settings first occur."""
    groups: dict[tuple[float, str, str], list[Figures]] = {}
    for figure in figures:
        groups.setdefault((figure.cold_start_s, figure.policy, figure.setting), []).append(figure)
    return [_average(group) for group in groups.values()]


def _average(group: list[Figures]) -> Point:
    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(group)

    first, shares = group[0], [figure.attainment for figure in group]
    return Point(
        policy=first.policy,
        setting=first.setting,
        is_default=first.is_default,
        cold_start_s=first.cold_start_s,
        attainment=mean(shares),
        attainment_spread=max(shares) - min(shares),
        gpu_hours=mean(figure.gpu_hours for figure in group),
        ttft_p99_s=mean(figure.ttft_p99_s for figure in group),
        tpot_p99_s=mean(figure.tpot_p99_s for figure in group),
        changes=mean(figure.changes for figure in group),
        most_replicas=max(figure.most_replicas for figure in group),
    )


def compute_front(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other beats in both attainment and GPU-hours, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.gpu_hours, -point.attainment)):
        if not front or point.attainment > front[-1].attainment:
            front.append(point)
    return front


def interpolate_hours(front: Sequence[Point], attainment: float) -> float | None:
    """Return the GPU-hours at which a front reaches `attainment`; None if it never does."""
    before: Point | None = None
    for point in front:
        if point.attainment >= attainment:
            if before is None:
                return point.gpu_hours
            share = (attainment - before.attainment) / (point.attainment - before.attainment)
            return before.gpu_hours + share * (point.gpu_hours - before.gpu_hours)
        before = point
    return None


def interpolate_attainment(front: Sequence[Point], gpu_hours: float) -> float | None:
    """Return the attainment that a front reaches at `gpu_hours`; None if it begins beyond."""
    before: Point | None = None
    for point in front:
        if point.gpu_hours > gpu_hours:
            if before is None:
                return None
            share = (gpu_hours - before.gpu_hours) / (point.gpu_hours - before.gpu_hours)
            return before.attainment + share * (point.attainment - before.attainment)
        before = point
    return before.attainment if before else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours against one policy with one cold start, where that policy is at its best."""

    policy: str
    setting: str
    cold_start_s: float
    attainment: float
    gpu_hours: float
    ours_hours: float | None
    """GPU-hours at which our front reaches the same attainment; None if it does not."""
    ours_attainment: float | None
    """Attainment that our front reaches with the same GPU-hours."""

    @property
    def saving(self) -> float | None:
        """Share of that policy's GPU-hours that ours does not need."""
        return None if self.ours_hours is None else 1 - self.ours_hours / self.gpu_hours


GOOD_ENOUGH = 0.001
"""Of a policy's settings, the best is the cheapest within this of its highest attainment: what costs twice as much for
a thousandth more is nobody's choice, and comparing with it would flatter us."""


def choose_best(points: Sequence[Point]) -> Point:
    """Return a policy's best setting."""
    highest = max(point.attainment for point in points)
    return min(
        (point for point in points if point.attainment >= highest - GOOD_ENOUGH), key=lambda point: point.gpu_hours
    )


def choose_cheapest(points: Sequence[Point], attainment: float) -> Point | None:
    """Return the cheapest setting that reaches `attainment`."""
    enough = [point for point in points if point.attainment >= attainment]
    return min(enough, key=lambda point: point.gpu_hours, default=None)


def compare(points: Sequence[Point]) -> list[Comparison]:
    """Compare ours with every other policy for each cold start."""
    comparisons = []
    for cold_start_s in dict.fromkeys(point.cold_start_s for point in points):
        here = [point for point in points if point.cold_start_s == cold_start_s]
        ours = compute_front(point for point in here if point.policy == OURS)
        for policy in dict.fromkeys(point.policy for point in here if point.policy != OURS):
            best = choose_best([point for point in here if point.policy == policy])
            comparisons.append(
                Comparison(
                    policy=policy,
                    setting=best.setting,
                    cold_start_s=cold_start_s,
                    attainment=best.attainment,
                    gpu_hours=best.gpu_hours,
                    ours_hours=interpolate_hours(ours, best.attainment),
                    ours_attainment=interpolate_attainment(ours, best.gpu_hours),
                )
            )
    return comparisons


def is_peer(policy: str) -> bool:
    """Whether a policy is neither ours nor a reference."""
    return policy != OURS and policy not in REFERENCES
