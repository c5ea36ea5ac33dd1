"""How many replicas the traffic needs, with a headroom learned in hindsight. Pure.

A replica that is ordered now answers only when it has started, so the number for a moment rests on what was known some
time before. The forecast is simple: the greatest mean work of `WINDOW_S` within the last `HOLD_S`. How far that falls
short differs from one traffic to another: steady, growing, in bursts. So for every second with requests it is asked in
hindsight how many more replicas than the forecast of then would have kept them on time:

    shortfall(t) = needed(t) - forecast(t - start-up time)

All but `LATE_SHARE` of the requests of the last `MEMORY_S` had at most a certain shortfall; that is the headroom, and
forecast plus headroom is the number. (This is split conformal prediction, Vovk et al. 2005, on a sliding window as in
Gibbs and Candes 2021: whatever the traffic is like, the share of late requests comes out as asked for, as long as the
last minutes resemble the next.) Bursts that recur, swings and a long start-up time ask for more headroom by themselves,
steady traffic for little.

`needed(t)` is the fewest replicas with which requests that arrive at `t` hold the target. Requests wait for what came
before them; by Lindley's recursion the wait stays within `T` if for all `w`, and the share of the time that is used for
work while a request is answered stays within `s` if for all `w` that are at least as long as an answer takes,

    R >= decode load + prefill work of the last w seconds / (w + T)
    R >= (decode load + prefill work of the last w seconds / w) / s
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

BUCKET_S: Final = 10.0
WINDOW_BUCKETS: Final = 2
HOLD_BUCKETS: Final = 24
"""With the usual delay of 60 s for scaling down, a fall of traffic is followed after five minutes."""
MEMORY_BUCKETS: Final = 120
LONGEST_LAG_S: Final = 600.0
KEPT_BUCKETS: Final = int(LONGEST_LAG_S / BUCKET_S) + HOLD_BUCKETS + WINDOW_BUCKETS + 1
FEWEST_BUCKETS: Final = 6
"""History before a forecast is judged: the beginning of a pool's life says little of what follows."""
LATE_SHARE: Final = 0.01
"""Share of requests that may be late for want of headroom."""
FIRST_HEADROOM: Final = 0.35
"""Share of the forecast that is added before any was judged."""
STABLE_SHARE: Final = 0.9
"""Share of a replica that the forecast fills: at more, queues grow with the smallest gust."""
WINDOWS: Final = (1, 2, 4, 8, 16, 32, 64)
"""Seconds over which work is looked at."""

Weighted = tuple[float, float]
"""A number of replicas, and the requests that it stands for."""


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What is remembered."""

    work: tuple[float, ...] = ()
    """Work that arrived, in replicas, mean of each bucket; the newest last."""
    bucket_work_s: float = 0.0
    bucket_s: float = 0.0
    needed: tuple[Weighted, ...] = ()
    """Of the seconds of the present bucket."""
    shortfalls: tuple[tuple[Weighted, ...], ...] = ()
    """By bucket."""
    headroom: float | None = None
    """None before any forecast was judged."""

    @property
    def is_learning(self) -> bool:
        """Whether traffic comes, but not yet for as long as a forecast looks back."""
        has_begun = bool(self.work) or self.bucket_s > 0
        return has_begun and (self.headroom is None or len(self.work) < HOLD_BUCKETS + WINDOW_BUCKETS)


@dataclass(frozen=True, slots=True)
class Outlook:
    """Replicas that the traffic needs."""

    forecast: float
    headroom: float

    @property
    def replicas(self) -> float:
        """Both together."""
        return self.forecast + self.headroom


@dataclass(frozen=True, slots=True)
class Promise:
    """What requests are to see, as times and shares of a replica."""

    patience_s: float
    """Longest wait in front of a replica."""
    share: float
    """Share of a replica's time that may be used for work while a request is answered."""
    life_s: float
    """How long an answer takes."""


def compute_needed(prefill_s: Sequence[float], decode_load: float, base_share: float, promise: Promise) -> float:
    """Return the fewest replicas with which requests of this second are on time.

    Args:
        prefill_s: prefill work of the last seconds, the newest last.
        decode_load: replicas that are busy decoding.
        base_share: what the base of steps full of prompts adds to prefill work, as a share of it.
        promise: what requests are to see.
    """
    total, waiting, sharing, taken = 0.0, 0.0, 0.0, 0
    for window in WINDOWS:
        if taken >= len(prefill_s):
            break
        total += sum(prefill_s[-window : len(prefill_s) - taken])
        taken = min(window, len(prefill_s))
        waiting = max(waiting, total * (1 + base_share) / (window + promise.patience_s))
        if window >= promise.life_s or window == WINDOWS[-1]:
            sharing = max(sharing, total / window)
    return max(decode_load + waiting, (decode_load + sharing) / promise.share)


def look_back(
    hindsight: Hindsight, *, interval_s: float, work_s: float, needed: float, arrivals: float, lag_s: float
) -> Hindsight:
    """Return what is remembered after one more interval.

    Args:
        hindsight: before it.
        interval_s: its length.
        work_s: replica-seconds of work that arrived.
        needed: replicas with which its requests were on time.
        arrivals: its requests.
        lag_s: how old a forecast is when it counts: the start-up time.
    """
    seconds = hindsight.needed + (((needed, arrivals),) if arrivals > 0 else ())
    hindsight = replace(
        hindsight,
        bucket_work_s=hindsight.bucket_work_s + work_s,
        bucket_s=hindsight.bucket_s + interval_s,
        needed=seconds[-2 * int(BUCKET_S) :],
    )
    return _close_bucket(hindsight, lag_s) if hindsight.bucket_s >= BUCKET_S else hindsight


def _close_bucket(hindsight: Hindsight, lag_s: float) -> Hindsight:
    """Judge the forecast that counted in this bucket, and begin the next."""
    lag = 1 + int(min(lag_s, LONGEST_LAG_S) / BUCKET_S)
    work = (*hindsight.work, hindsight.bucket_work_s / hindsight.bucket_s)[-KEPT_BUCKETS:]
    if len(hindsight.work) < lag + FEWEST_BUCKETS:
        return replace(hindsight, work=work, bucket_work_s=0.0, bucket_s=0.0, needed=())
    forecast = _forecast(hindsight.work[:-lag])
    new = tuple((needed - forecast, requests) for needed, requests in hindsight.needed)
    shortfalls = (*hindsight.shortfalls, new)[-MEMORY_BUCKETS:]
    return Hindsight(work=work, shortfalls=shortfalls, headroom=_compute_headroom(shortfalls))


def _forecast(work: tuple[float, ...]) -> float:
    """Return the greatest mean of neighbouring buckets, as replicas that it fills."""
    recent = work[-HOLD_BUCKETS - WINDOW_BUCKETS + 1 :]
    if not recent:
        return 0.0
    window = min(WINDOW_BUCKETS, len(recent))
    means = (sum(recent[i : i + window]) / window for i in range(len(recent) - window + 1))
    return max(means) / STABLE_SHARE


def _compute_headroom(shortfalls: tuple[tuple[Weighted, ...], ...]) -> float:
    """Return the shortfall that all but `LATE_SHARE` of the requests had at most."""
    greatest_first = sorted((entry for bucket in shortfalls for entry in bucket), reverse=True)
    allowed = LATE_SHARE * sum(requests for _, requests in greatest_first)
    for shortfall, requests in greatest_first:
        allowed -= requests
        if allowed < 0:
            return max(0.0, shortfall)
    return 0.0


def look_ahead(hindsight: Hindsight) -> Outlook:
    """Return what the traffic needs from now on, the present bucket included."""
    work = hindsight.work
    if hindsight.bucket_s >= BUCKET_S / 2 or not work:
        work = (*work, hindsight.bucket_work_s / max(hindsight.bucket_s, 1.0))
    forecast = _forecast(work)
    headroom = FIRST_HEADROOM * forecast if hindsight.headroom is None else hindsight.headroom
    return Outlook(forecast, headroom)


NOTHING_AHEAD: Final = Outlook(0.0, 0.0)
