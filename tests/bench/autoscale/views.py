"""Seconds of a pool as policies see them, and a profile with round numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bench.autoscale.profiles import Profile
from bench.autoscale.simulation import EngineView, Policy, View

ROUND = Profile(
    name="round",
    weights_s=0.010,
    weights_per_token_s=0.0,
    compute_s=0.0,
    compute_per_token_s=0.0001,
    context_token_s=0.0,
    pair_s=0.0,
    blocks=1000,
    max_sequences=64,
    max_batched_tokens=1000,
    ttft_s=2.0,
    tpot_s=0.1,
)
"""A step takes 10 ms, or 0.1 ms for each token if that is longer."""

EMPTY = View(
    now_s=0.0,
    current=1,
    engines=(),
    starting_ages_s=(),
    became_ready_s=(),
    draining=0,
    held=0,
    held_prompt_tokens=0,
    oldest_held_s=0.0,
    in_flight=0,
    concurrency=0.0,
    arrivals=0,
    arrived_prompt_tokens=0,
    finished=(),
)


def build_view(now_s: float, current: int, load: float, *, kv_usage: float = 0.0, starting: int = 0) -> View:
    """A second with `load` requests in flight over the replicas that are ready."""
    ready = current - starting
    engines = tuple(
        EngineView(f"r{i}", int(load) // ready + (i < int(load) % ready), 0, kv_usage, 0, 0, 0, 0) for i in range(ready)
    )
    return replace(
        EMPTY,
        now_s=now_s,
        current=current,
        engines=engines,
        starting_ages_s=(1.0,) * starting,
        in_flight=int(load),
        concurrency=load,
    )


def follow(
    policy: Policy,
    seconds: int,
    load: Callable[[int], float],
    *,
    current: int = 1,
    kv_usage: Callable[[int, int], float] = lambda second, current: 0.0,
) -> list[int]:
    """The number after each second, in a cluster that does at once what is asked for."""
    numbers = []
    for second in range(seconds):
        view = build_view(float(second), current, load(second), kv_usage=kv_usage(second, current))
        wanted = policy.decide(view)
        current = max(1, current if wanted is None else wanted)
        numbers.append(current)
    return numbers


def first_second(numbers: list[int], number: int) -> int:
    """The first second with at least that number."""
    return next(second for second, n in enumerate(numbers) if n >= number)
