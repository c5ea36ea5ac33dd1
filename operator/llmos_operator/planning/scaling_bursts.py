"""How many replicas recurring bursts need: pools of every size, run on paper beside the real one. Pure.

Sizing by a mean forgets that requests come in bursts, and no burst waits for a replica to start. So for each size `R`
the very arrivals of the pool run through a small model of it: work that waits in front of each replica,

    W(t) = max(0, W(t-1) + arrived_prefill_seconds(t) / R - share_for_prefill * dt)

and every request that would have waited longer than the objective allows is counted. The smallest size under which, of
the requests of the last minutes, at most a small share waited too long is what bursts need. On steady traffic that is
a constant number; traffic that bursts again and again keeps the capacity for it; a burst that never recurs is forgotten
after `MEMORY_S`. (The idea of replaying what came against other capacities: ghost caches; here for replicas.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MEMORY_S: Final = 600.0
"""How long a burst is remembered."""
BUCKET_S: Final = 20.0
LATE_SHARE: Final = 0.01
"""Share of requests that may wait longer than the objective."""
SIZES: Final = 64
"""Most sizes that are tried; beyond that, bursts add no more."""

Counts = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests of some seconds, and how many of them would have been late with 1, 2, 3... replicas."""

    begun_s: float
    arrivals: float
    late: Counts


@dataclass(frozen=True, slots=True)
class Bursts:
    """The pools on paper."""

    waiting_s: Counts = ()
    """Work that waits in front of a replica, by size of the pool."""
    buckets: tuple[Bucket, ...] = ()


def observe_burst(
    bursts: Bursts,
    *,
    now_s: float,
    interval_s: float,
    arrivals: float,
    prefill_s: float,
    decode_load: float,
    limit_s: float,
    sizes: int,
) -> Bursts:
    """Return the pools on paper after one more interval.

    Args:
        bursts: before it.
        now_s: end of the interval.
        interval_s: its length.
        arrivals: requests that came.
        prefill_s: replica-seconds that their prompts take.
        decode_load: replicas that are busy decoding, on average.
        limit_s: longest wait that the objective allows.
        sizes: greatest number of replicas of interest.
    """
    sizes = min(sizes, SIZES)
    before = bursts.waiting_s[:sizes] + (0.0,) * (sizes - len(bursts.waiting_s))
    waiting, late = [], []
    for size, wait_s in enumerate(before, start=1):
        share = max(0.05, 1.0 - decode_load / size)
        # Those in the middle of the interval's arrivals wait for half of its work.
        middle_s = (wait_s + prefill_s / size / 2) / share
        late.append(arrivals if middle_s > limit_s else 0.0)
        waiting.append(min(MEMORY_S, max(0.0, wait_s + prefill_s / size - share * interval_s)))
    return Bursts(tuple(waiting), _count(bursts.buckets, now_s, arrivals, tuple(late)))


def _count(buckets: tuple[Bucket, ...], now_s: float, arrivals: float, late: Counts) -> tuple[Bucket, ...]:
    buckets = tuple(bucket for bucket in buckets if now_s - bucket.begun_s <= MEMORY_S)
    if buckets and now_s - buckets[-1].begun_s < BUCKET_S and len(buckets[-1].late) == len(late):
        last = buckets[-1]
        summed = tuple(map(float.__add__, last.late, late))
        return (*buckets[:-1], Bucket(last.begun_s, last.arrivals + arrivals, summed))
    return (*buckets, Bucket(now_s, arrivals, late))[-int(MEMORY_S / BUCKET_S) - 1 :]


def compute_burst_need(bursts: Bursts) -> int:
    """Return the smallest size that would have been late for few enough; 0 without traffic."""
    arrivals = sum(bucket.arrivals for bucket in bursts.buckets)
    if arrivals <= 0:
        return 0
    sizes = len(bursts.waiting_s)
    for size in range(1, sizes):
        late = sum(bucket.late[size - 1] for bucket in bursts.buckets if len(bucket.late) >= size)
        if late <= LATE_SHARE * arrivals:
            return size
    return sizes
