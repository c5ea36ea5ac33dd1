"""What a replay showed: block hit rate, load imbalance, time to first token.

Load imbalance: the work of a request is the replica time that it costs, new prompt tokens * prefill_token_s + output
tokens * sequence_s. Over a window of one sixth of the trace (10 minutes of the one-hour trace), the most work that a
replica got is divided by the mean of all. The figure is the mean of the windows; the worst window stands beside it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.routing.replay import Setting
from bench.routing.replica import Job

__all__ = ["Figures", "compute_figures", "compute_quantile"]

_WINDOWS = 6


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one policy in one setting."""

    hit_rate: float
    imbalance: float
    worst_imbalance: float
    request_imbalance: float
    """Most requests of a replica over the mean, whole trace."""
    ttft_mean_s: float
    ttft_p99_s: float
    end_mean_s: float
    """Mean time until the last token."""


def compute_figures(jobs: Sequence[Job], setting: Setting) -> Figures:
    """Summarise a replay."""
    ttfts = [job.first_token_s - job.sent_s for job in jobs]
    windows = [_compute_imbalance(part, setting) for part in _split(jobs)]
    counts = [sum(1 for job in jobs if job.replica == number) for number in range(setting.replicas)]
    return Figures(
        hit_rate=sum(job.cached_blocks for job in jobs) / sum(len(job.request.blocks) for job in jobs),
        imbalance=statistics.fmean(windows),
        worst_imbalance=max(windows),
        request_imbalance=max(counts) / statistics.fmean(counts),
        ttft_mean_s=statistics.fmean(ttfts),
        ttft_p99_s=compute_quantile(ttfts, 0.99),
        end_mean_s=statistics.fmean(job.ended_s - job.sent_s for job in jobs),
    )


def compute_quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _split(jobs: Sequence[Job]) -> list[list[Job]]:
    end_s = max(job.sent_s for job in jobs) * (1 + 1e-9) or 1.0
    parts: list[list[Job]] = [[] for _ in range(_WINDOWS)]
    for job in jobs:
        parts[int(job.sent_s / end_s * _WINDOWS)].append(job)
    return [part for part in parts if part]


def _compute_imbalance(jobs: Sequence[Job], setting: Setting) -> float:
    work = [0.0] * setting.replicas
    for job in jobs:
        profile = setting.profile
        work[job.replica] += job.new_tokens * profile.prefill_token_s + job.request.output_tokens * profile.sequence_s
    return max(work) / statistics.fmean(work)
