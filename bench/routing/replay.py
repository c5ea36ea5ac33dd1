"""Replays a trace through simulated replicas under one routing policy."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from bench.routing.replica import BlockCache, Job, Profile, Replica
from bench.routing.trace import Request

__all__ = ["Setting", "Strategy", "replay"]


class Strategy(Protocol):
    """A routing policy under test. It sees what a gateway sees: its own requests in flight, and prompts."""

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Return the number of the replica, and a token that the policy gets back with `first_token` and `ended`."""

    def first_token(self, token: object) -> None:
        """The prompt has been computed."""

    def ended(self, token: object) -> None:
        """The request is over."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The cluster that a trace is replayed on."""

    replicas: int
    cache_blocks: int
    utilization: float
    """Prompt tokens per second that arrive, as a share of what the replicas compute without any cache or decoding."""
    profile: Profile = field(default_factory=Profile)

    def scale(self, requests: Sequence[Request]) -> list[Request]:
        """Stretch or compress the trace's time so that it loads the replicas as wanted."""
        tokens = sum(request.input_tokens for request in requests)
        capacity = self.replicas * self.profile.prefill_tokens_per_s * self.utilization
        factor = tokens / capacity / max(request.arrival_s for request in requests)
        return [replace(request, arrival_s=request.arrival_s * factor) for request in requests]


def replay(requests: Sequence[Request], setting: Setting, strategy: Strategy) -> list[Job]:
    """Return one job for each request, with what became of it. `requests` are scaled already."""
    replicas = [Replica(setting.profile, BlockCache(setting.cache_blocks)) for _ in range(setting.replicas)]
    loads = [0] * setting.replicas
    events: list[tuple[float, int, int]] = []
    versions = [0] * setting.replicas
    jobs: list[Job] = []

    def schedule(number: int) -> None:
        versions[number] += 1
        heapq.heappush(events, (replicas[number].get_next_event_s(), number, versions[number]))

    def run_events(until_s: float) -> None:
        while events and events[0][0] <= until_s:
            at_s, number, version = heapq.heappop(events)
            if version != versions[number] or at_s == float("inf"):
                continue
            begun, ended = replicas[number].run_until(at_s)
            for job in begun:
                strategy.first_token(job.token)
            for job in ended:
                loads[number] -= 1
                strategy.ended(job.token)
            schedule(number)

    for place, request in enumerate(requests):
        run_events(request.arrival_s)
        number, token = strategy.choose(request, loads, request.arrival_s)
        job = Job(request, place, number, request.arrival_s, token=token)
        jobs.append(job)
        loads[number] += 1
        replicas[number].add(job, request.arrival_s)
        schedule(number)
    run_events(1e12)
    assert all(job.ended_s for job in jobs), "a request never ended: the cache is smaller than one prompt"
    return jobs
