"""Whether a running engine has hung. Pure: a frozen memory, folded over what the monitor sees.

Two ways to hang are told apart. An engine whose web server no longer answers /health is unresponsive. One that
answers, but has requests and lets no counter move, is stalled (a lost collective, a dead kernel); since a very long
prefill also moves no counter, a stall is only a suspicion: the monitor then asks for one token of its own, and only if
that does not come back either, the engine has hung.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine's metrics say. `progress` are counters that move whenever a step was computed."""

    running: int
    waiting: int
    progress: tuple[float, ...]
    prompt_tokens: int = 0
    """Prompt tokens of requests that got their first token, since the engine's start."""
    cached_tokens: int = 0
    """Of these, tokens that were found in a cache."""
    generation_tokens: int = 0
    steps: int = 0
    """Engine steps that produced a token."""
    preemptions: int = 0
    kv_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1."""

    @property
    def in_flight(self) -> int:
        """Requests that the engine has taken and not finished."""
        return self.running + self.waiting


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the watchdog remembers: when the engine last answered, and when it last moved, in seconds of one clock."""

    healthy_at_s: float
    moved_at_s: float
    progress: tuple[float, ...] = ()


def compute_pulse(pulse: Pulse, now_s: float, *, healthy: bool, load: Load | None) -> Pulse:
    """The memory after one look at the engine. Idle engines count as moving; unread metrics change nothing."""
    if healthy:
        pulse = replace(pulse, healthy_at_s=now_s)
    if load is not None and (load.in_flight == 0 or load.progress != pulse.progress):
        pulse = replace(pulse, moved_at_s=now_s, progress=load.progress)
    return pulse


def is_unresponsive(pulse: Pulse, now_s: float, limit_s: float) -> bool:
    """Whether /health has not answered for `limit_s`."""
    return now_s - pulse.healthy_at_s >= limit_s


def is_stalled(pulse: Pulse, now_s: float, limit_s: float) -> bool:
    """Whether requests have been waiting for `limit_s` without any counter moving."""
    return now_s - pulse.moved_at_s >= limit_s
