"""Whether a canary goes on, takes all requests, or goes: from what gateways counted of it and of the incumbent. Pure.

Both answer the same name at the same time, each request is dealt out by chance, and only differences count: what goes
wrong with both (a node, the base model, the prompts) is nobody's regression, however often it happens.

    errors      p = failed / requests. Wilson's intervals of both, joined by Newcombe's method 10 (1998), give a lower
                bound of p(result) - p(incumbent).
    latencies   TTFT and TPOT are compared by the mean of their logarithms, for they are skewed and a few long ones say
                little. Its standard error is that of Welch's test; logarithms are taken in the middle of the buckets.
                The means themselves are exact, and must agree.

The verdict is asked for again and again, and whoever looks often enough at noise sees anything. So the bounds for a
rollback are those that hold at all times together, with a probability of 1 % for each comparison: the curved boundary
of Howard, Ramdas, McAuliffe and Sekhon (2021), z(n) = 1.7 sqrt(ln ln 2n + 0.72 ln(5.2 / alpha)), in the place of the
quantile of the normal distribution.

    clearly worse       the bound at z(n) is above the tolerance                              -> roll back
    perhaps worse       the bound at 1.64 is (95 %, once)                                     -> go on, never promote
    silent              the time is over, LEAST_UNANSWERED requests were sent to it and none was answered,
                        while the incumbent answers                                           -> roll back
    not worse           neither, the time is over and both had LEAST_REQUESTS                 -> promote
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from llmos.api.load import LATENCY_BUCKETS_S, ArmLoad, CanaryLoad, Latencies

LEAST_REQUESTS: Final = 50
"""Of each of the two, before the result takes all."""
LEAST_UNANSWERED: Final = 5
"""Requests that an adapter did not answer, before it is taken for one that answers none: callers are impatient, too."""
LEAST_COMPARED: Final = 10
"""Values of each of the two, before anything is said of their difference."""
ERROR_TOLERANCE: Final = 0.01
"""Difference of the shares of failed requests that is no regression."""
LATENCY_TOLERANCE: Final = 1.2
"""Ratio of latencies that is no regression."""
ALPHA: Final = 0.01
SUSPICION_Z: Final = 1.645
_LOG_MIDDLES: Final = tuple(
    math.log(middle)
    for middle in (
        LATENCY_BUCKETS_S[0] / 2,
        *(math.sqrt(low * high) for low, high in pairwise(LATENCY_BUCKETS_S)),
        LATENCY_BUCKETS_S[-1] * 1.5,
    )
)

Decision = Literal["keep", "promote", "roll-back"]


@dataclass(frozen=True)
class Verdict:
    """What becomes of a canary, and why."""

    decision: Decision
    message: str
    is_undecided: bool = False
    """Its time is over, and yet it is kept."""


@dataclass(frozen=True)
class _Comparison:
    words: str
    is_clearly_worse: bool
    is_perhaps_worse: bool


def judge_canary(load: CanaryLoad, *, is_due: bool) -> Verdict:
    """Return what becomes of a canary.

    Args:
        load: what all gateways together counted since it has its share.
        is_due: whether it has had its share for long enough.
    """
    found = tuple(_compare(load.result, load.incumbent))
    if worse := [each.words for each in found if each.is_clearly_worse]:
        return Verdict("roll-back", " ".join(worse))
    if is_due and (words := _say_if_silent(load.result, load.incumbent)):
        return Verdict("roll-back", words)
    if doubts := [each.words for each in found if each.is_perhaps_worse]:
        tail = "That may be chance; it is not promoted while it looks so." if is_due else "That may be chance."
        return Verdict("keep", " ".join([*doubts, tail]), is_undecided=is_due)
    counts = f"{load.result.requests_total} requests of the result, {load.incumbent.requests_total} of the incumbent"
    if min(load.result.requests_total, load.incumbent.requests_total) < LEAST_REQUESTS:
        words = f"Too few requests to judge: {counts}, and {LEAST_REQUESTS} of each are needed."
        return Verdict("keep", words, is_undecided=is_due)
    told = " ".join([f"No regression in {counts}.", *(each.words for each in found)])
    return Verdict("promote" if is_due else "keep", told)


def _say_if_silent(result: ArmLoad, incumbent: ArmLoad) -> str:
    """Return that a canary answered nothing at all; empty if it did, or nobody can tell whose fault that is."""
    sent, answered = result.requests_total + result.given_up_total, result.requests_total - result.failed_total
    others = incumbent.requests_total - incumbent.failed_total
    if answered or sent < LEAST_UNANSWERED or not others:
        return ""
    return (
        f"None of the {sent} requests that were sent to it was answered: {result.failed_total} failed, and "
        f"{result.given_up_total} were given up by their callers. The incumbent answered {others}."
    )


def _compare(result: ArmLoad, incumbent: ArmLoad) -> Iterator[_Comparison]:
    if min(result.requests_total, incumbent.requests_total) < LEAST_COMPARED:
        return
    yield _compare_errors(result, incumbent)
    for name, mine, theirs in (("TTFT", result.ttft, incumbent.ttft), ("TPOT", result.tpot, incumbent.tpot)):
        if min(sum(mine.counts), sum(theirs.counts)) >= LEAST_COMPARED:
            yield _compare_latencies(name, mine, theirs)


def _compare_errors(result: ArmLoad, incumbent: ArmLoad) -> _Comparison:
    mine, theirs = (result.failed_total, result.requests_total), (incumbent.failed_total, incumbent.requests_total)
    z = compute_boundary_z(result.requests_total)
    return _Comparison(
        f"Failed: {mine[0]} of {mine[1]}, incumbent {theirs[0]} of {theirs[1]}.",
        compute_difference_bound(*mine, *theirs, z) > ERROR_TOLERANCE,
        compute_difference_bound(*mine, *theirs, SUSPICION_Z) > ERROR_TOLERANCE,
    )


def _compare_latencies(name: str, result: Latencies, incumbent: Latencies) -> _Comparison:
    count = sum(result.counts)
    mean_s, other_s = result.sum_s / count, incumbent.sum_s / sum(incumbent.counts)
    is_slower = mean_s > other_s * LATENCY_TOLERANCE
    (log, error), (other_log, other_error) = _measure(result), _measure(incumbent)
    excess, both = log - other_log - math.log(LATENCY_TOLERANCE), math.hypot(error, other_error)
    return _Comparison(
        f"{name}: {1000 * mean_s:.4g} ms on average, incumbent {1000 * other_s:.4g} ms.",
        is_slower and excess > compute_boundary_z(count) * both,
        is_slower and excess > SUSPICION_Z * both,
    )


def compute_boundary_z(count: int) -> float:
    """Return how many standard errors a mean may stray at any of all times, at the `count`-th of them."""
    return 1.7 * math.sqrt(math.log(math.log(2 * max(count, 2))) + 0.72 * math.log(5.2 / ALPHA))


def compute_difference_bound(failed: int, requests: int, other_failed: int, other_requests: int, z: float) -> float:
    """Return a lower bound of the difference of two shares (Newcombe's method 10)."""
    share, other = failed / requests, other_failed / other_requests
    low, _ = _compute_wilson(failed, requests, z)
    _, high = _compute_wilson(other_failed, other_requests, z)
    return share - other - math.hypot(share - low, high - other)


def _compute_wilson(failed: int, requests: int, z: float) -> tuple[float, float]:
    share, square = failed / requests, z * z / requests
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    return middle - half, middle + half


def _measure(latencies: Latencies) -> tuple[float, float]:
    """Return the mean of the logarithms and its standard error."""
    counts = latencies.counts
    count = sum(counts)
    mean = sum(n * log for n, log in zip(counts, _LOG_MIDDLES, strict=True)) / count
    squares = sum(n * (log - mean) ** 2 for n, log in zip(counts, _LOG_MIDDLES, strict=True))
    # Within a bucket values differ, though their middles do not: a width of 40 % has a deviation of about 0.1.
    return mean, math.sqrt((squares / (count - 1) + 0.01) / count)
