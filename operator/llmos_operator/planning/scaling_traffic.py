"""What comes in and what waits, as far as samples tell: rates, sizes, and work that queues. Pure.

Gateways count requests when they arrive, engines count tokens when they are computed. Arrivals say what is needed; what
engines do says only what they could do, which in an overload is less. So rates come from arrivals, and engines correct
them by a slow ratio: it holds prefix-cache hits, estimates of tokens that are off, and traffic that bypasses the
gateways. Where no gateway sees any traffic, the engines' own figures are all there is.

A second in which gateways should have told and none did adds nothing here: it is neither zero nor like the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from llmos_operator.planning.scaling_inputs import GatewaySample, PoolSample

RATE_S: Final = 10.0
"""Time over which reported rates are taken."""
LOAD_S: Final = 30.0
"""Time over which needed rates are taken: about the life of a request."""
KEPT_S: Final = 70.0
KEPT: Final = 128
"""Most seconds that are kept."""
RATIO_MEMORY_S: Final = 600.0
RATIO_REQUESTS: Final = 20
RATIO_TOLERANCE: Final = 1.15
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
    done_prompt: float = 0.0
    expected_generated: float = 0.0
    done_generated: float = 0.0
    waiting: int = 0
    waiting_tokens: float = 0.0
    """Prompt tokens of the requests that waited when they were last counted."""
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
    mean_generated_tokens: float
    """Of a request."""
    bypasses: bool
    """Whether engines work and no gateway has seen a request."""
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
    is_blind = sample.gateway is None and bool(sample.stale)
    if sample.interval_s <= 0 or is_blind:
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
        if not sample.stale and not sample.silent:
            traffic = _learn_ratios(traffic, second, sample)
    return traffic


def _keep_recent(seconds: tuple[Second, ...]) -> tuple[Second, ...]:
    seconds = seconds[-KEPT:]
    total_s = sum(second.interval_s for second in seconds)
    drop = 0
    while drop < len(seconds) - 1 and total_s - seconds[drop].interval_s >= KEPT_S:
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


def _learn_ratios(traffic: Traffic, second: Second, sample: PoolSample) -> Traffic:
    """Compare what engines computed, and what waits for them, with what the arrivals let expect; old figures fade."""
    keep = max(0.0, 1.0 - second.interval_s / RATIO_MEMORY_S)
    held = sample.gateway or GatewaySample()
    in_engines = sum(replica.waiting for replica in sample.replicas)
    waiting = held.queued + in_engines
    waiting_tokens = held.queued_prompt_tokens + in_engines * traffic.mean_prompt_tokens
    prompt = traffic.expected_prompt * keep + second.prompt_tokens
    prompt_done = traffic.done_prompt * keep + second.engine_prompt_tokens
    prompt_done += (waiting_tokens - traffic.waiting_tokens) * traffic.prompt_ratio
    generated = traffic.expected_generated * keep + second.arrivals * traffic.mean_completion_tokens
    generated_done = traffic.done_generated * keep + second.engine_generated_tokens
    generated_done += (waiting - traffic.waiting) * traffic.mean_completion_tokens * traffic.generation_ratio
    return replace(
        traffic,
        expected_prompt=prompt,
        done_prompt=prompt_done,
        expected_generated=generated,
        done_generated=generated_done,
        waiting=waiting,
        waiting_tokens=waiting_tokens,
        prompt_ratio=_compute_ratio(prompt_done, prompt, traffic.mean_prompt_tokens),
        generation_ratio=_compute_ratio(generated_done, generated, traffic.mean_completion_tokens),
    )


def _compute_ratio(done: float, expected: float, mean: float) -> float:
    """Return the ratio; 1 while it rests on few requests, or differs by no more than requests on their way explain."""
    if expected < RATIO_REQUESTS * mean or expected <= 0:
        return 1.0
    ratio = min(10.0, max(0.05, done / expected))
    return 1.0 if 1 / RATIO_TOLERANCE < ratio < RATIO_TOLERANCE else ratio


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
        mean_generated_tokens=mean_generated,
        bypasses=needs_engines and prompt + generated > 0,
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
