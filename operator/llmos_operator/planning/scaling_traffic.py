"""What comes in and what waits, as far as samples tell: rates, sizes, and work that queues. Pure.

Gateways count requests when they arrive, engines count tokens when they are computed. Arrivals say what is needed; what
engines do says only what they could do, which in an overload is less. So rates come from arrivals, and engines correct
them by a slow ratio learned while nothing waits: it holds prefix-cache hits, estimates of tokens that are off, and
traffic that bypasses the gateways. Where no gateway sees any traffic, the engines' own figures are all there is.

A second whose figures are incomplete adds nothing here: it is neither zero nor like the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample

RATE_S: Final = 10.0
"""Time over which reported rates are taken."""
LOAD_S: Final = 30.0
"""Time over which needed rates are taken: about the life of a request."""
TREND_S: Final = 120.0
"""Time over which growth is looked for."""
KEPT: Final = 128
"""Most seconds that are kept."""
RATIO_MEMORY_S: Final = 300.0
LENGTH_MEMORY: Final = 200.0
"""Requests over which their mean lengths are taken."""
EXCESS_SAMPLES: Final = 3
"""A request moves between two readings and is then seen twice; only what is in all of these samples is believed."""


@dataclass(frozen=True, slots=True)
class Second:
    """What came in one interval."""

    interval_s: float
    arrivals: float
    prompt_tokens: float
    """As the gateways count them."""
    engine_prompt_tokens: float
    engine_generated_tokens: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is remembered of the traffic."""

    seconds: tuple[Second, ...] = ()
    prompt_ratio: float = 1.0
    """Prompt tokens that engines prefill for one that gateways count."""
    generation_ratio: float = 1.0
    """Tokens that engines generate for one that gateways see answered."""
    expected_prompt: float = 0.0
    expected_generated: float = 0.0
    mean_prompt_tokens: float = 0.0
    mean_completion_tokens: float = 0.0
    excess: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """The traffic as the demands see it."""

    queued: int
    """Requests that wait, in gateways and in engines."""
    running: int
    arrivals_per_s: float
    prompt_tokens_per_s: float
    generated_tokens_per_s: float
    needed_prompt_per_s: float
    """Prompt tokens that have to be prefilled, over the longer time."""
    needed_generated_per_s: float
    growth_per_s: float
    """Relative growth of arrivals, if it is beyond chance."""
    waiting_prompt_tokens: float
    waiting_generated_tokens: float

    @property
    def outstanding(self) -> int:
        """Requests that wait or run."""
        return self.queued + self.running

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do and nothing came."""
        return self.outstanding == 0 and self.arrivals_per_s == 0 and self.generated_tokens_per_s == 0


def observe(traffic: Traffic, sample: PoolSample) -> Traffic:
    """Return what is known of the traffic after one more sample."""
    traffic = replace(traffic, excess=(*traffic.excess, _count_excess(sample))[-EXCESS_SAMPLES:])
    if sample.interval_s <= 0:
        return traffic
    gateway = sample.gateway or GatewaySample()
    second = Second(
        interval_s=sample.interval_s,
        arrivals=gateway.arrivals,
        prompt_tokens=gateway.arrived_prompt_tokens,
        engine_prompt_tokens=sum(replica.prompt_tokens for replica in sample.replicas),
        engine_generated_tokens=sum(replica.generation_tokens for replica in sample.replicas),
    )
    traffic = replace(traffic, seconds=_keep_recent((*traffic.seconds, second)))
    if sample.gateway is not None:
        traffic = _learn_lengths(traffic, gateway)
        is_complete = not sample.stale and not sample.silent
        if is_complete and not gateway.queued and not any(replica.waiting for replica in sample.replicas):
            traffic = _learn_ratios(traffic, second)
    return traffic


def _keep_recent(seconds: tuple[Second, ...]) -> tuple[Second, ...]:
    seconds = seconds[-KEPT:]
    total_s = sum(second.interval_s for second in seconds)
    drop = 0
    while drop < len(seconds) - 1 and total_s - seconds[drop].interval_s >= TREND_S:
        total_s -= seconds[drop].interval_s
        drop += 1
    return seconds[drop:]


def _learn_lengths(traffic: Traffic, gateway: GatewaySample) -> Traffic:
    prompt = _blend(
        traffic.mean_prompt_tokens, gateway.arrived_prompt_tokens, gateway.arrivals, traffic.mean_prompt_tokens == 0
    )
    completion = _blend(
        traffic.mean_completion_tokens, gateway.completion_tokens, gateway.finished, traffic.mean_completion_tokens == 0
    )
    return replace(traffic, mean_prompt_tokens=prompt, mean_completion_tokens=completion)


def _blend(mean: float, total: float, count: int, is_first: bool) -> float:
    """Return the moving mean of a length after `count` more requests with `total` tokens."""
    if count <= 0:
        return mean
    share = 1.0 if is_first else count / (count + LENGTH_MEMORY)
    return mean + (total / count - mean) * share


def _learn_ratios(traffic: Traffic, second: Second) -> Traffic:
    """Compare what engines computed with what was expected of the arrivals, both fading slowly."""
    keep = max(0.0, 1.0 - second.interval_s / RATIO_MEMORY_S)
    prompt = traffic.expected_prompt * keep + second.prompt_tokens
    generated = traffic.expected_generated * keep + second.arrivals * traffic.mean_completion_tokens
    prompt_done = traffic.prompt_ratio * traffic.expected_prompt * keep + second.engine_prompt_tokens
    generated_done = traffic.generation_ratio * traffic.expected_generated * keep + second.engine_generated_tokens
    return replace(
        traffic,
        expected_prompt=prompt,
        expected_generated=generated,
        prompt_ratio=_clip_ratio(prompt_done, prompt),
        generation_ratio=_clip_ratio(generated_done, generated),
    )


def _clip_ratio(done: float, expected: float) -> float:
    return min(10.0, max(0.05, done / expected)) if expected > 0 else 1.0


def _count_excess(sample: PoolSample) -> int:
    """Return the requests that engines have beyond those that came through gateways."""
    engines = sum(replica.running + replica.waiting for replica in sample.replicas)
    return max(0, engines - (sample.gateway.running if sample.gateway else 0))


def build_load(traffic: Traffic, sample: PoolSample) -> Load:
    """Return the load that the demands are computed from."""
    gateway = sample.gateway or GatewaySample()
    bypassing = min(traffic.excess) if len(traffic.excess) == EXCESS_SAMPLES or not sample.gateway else 0
    in_engines = gateway.running + bypassing
    waiting = sum(replica.waiting for replica in sample.replicas)
    queued = gateway.queued + waiting
    recent, longer = _sum_over(traffic.seconds, RATE_S), _sum_over(traffic.seconds, LOAD_S)
    needs_engines = longer.arrivals == 0
    mean_prompt = traffic.mean_prompt_tokens * traffic.prompt_ratio
    mean_generated = traffic.mean_completion_tokens * traffic.generation_ratio
    prompt = longer.engine_prompt_tokens if needs_engines else longer.prompt_tokens * traffic.prompt_ratio
    generated = longer.engine_generated_tokens
    if not needs_engines and mean_generated:
        generated = longer.arrivals * mean_generated
    waiting_prompt = gateway.queued_prompt_tokens * traffic.prompt_ratio + waiting * mean_prompt
    return Load(
        queued=queued,
        running=max(0, in_engines - waiting),
        arrivals_per_s=recent.arrivals / recent.interval_s,
        prompt_tokens_per_s=max(recent.prompt_tokens, recent.engine_prompt_tokens if needs_engines else 0.0)
        / recent.interval_s,
        generated_tokens_per_s=recent.engine_generated_tokens / recent.interval_s,
        needed_prompt_per_s=prompt / longer.interval_s,
        needed_generated_per_s=generated / longer.interval_s,
        growth_per_s=_compute_growth(traffic.seconds),
        waiting_prompt_tokens=waiting_prompt,
        waiting_generated_tokens=queued * mean_generated,
    )


def _sum_over(seconds: tuple[Second, ...], span_s: float) -> Second:
    """Return everything that came in the last `span_s`, or since the beginning if that is shorter."""
    interval_s = arrivals = prompt = engine_prompt = engine_generated = 0.0
    for second in reversed(seconds):
        interval_s += second.interval_s
        arrivals += second.arrivals
        prompt += second.prompt_tokens
        engine_prompt += second.engine_prompt_tokens
        engine_generated += second.engine_generated_tokens
        if interval_s >= span_s:
            break
    return Second(max(interval_s, 1.0), arrivals, prompt, engine_prompt, engine_generated)


def _compute_growth(seconds: tuple[Second, ...]) -> float:
    """Return the relative growth of arrivals for each second, 0 unless it is beyond two standard errors.

    The arrivals of thirds of the time are compared; a Poisson count `k` has the standard error `sqrt(k)`, and bursts
    more, so the differences between neighbours within a third are taken for it.
    """
    half = len(seconds) // 2
    if half < 20:
        return 0.0
    early, late = seconds[:half], seconds[half:]
    early_s, late_s = (sum(second.interval_s for second in part) for part in (early, late))
    early_rate, late_rate = (
        sum(second.arrivals for second in part) / part_s for part, part_s in ((early, early_s), (late, late_s))
    )
    noise = sum((after.arrivals - before.arrivals) ** 2 for before, after in pairwise(seconds)) / 2
    standard_error = (noise / len(seconds) * (half / early_s**2 + (len(seconds) - half) / late_s**2)) ** 0.5
    if early_rate <= 0 or late_rate - early_rate <= 2 * standard_error:
        return 0.0
    return (late_rate - early_rate) / ((early_s + late_s) / 2) / late_rate
