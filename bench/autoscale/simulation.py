"""A gateway, replicas that take time to start, and a policy that is asked once a second.

The gateway sends each request at once to the ready replica with the fewest requests in flight, and holds requests
while there is none. A new replica is paid for from its creation and answers after the cold start. To shrink, replicas
that are starting go first (the youngest), then the least busy ones: they get no more requests, finish what they have,
and are paid for until then. After the last arrival nothing is scaled any more, and what is left is served; GPU time
is counted until the last arrival, latencies of all requests.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bench.autoscale.engine import Engine, Request
from bench.autoscale.profiles import BLOCK_TOKENS, Profile
from bench.autoscale.traces import Arrival

LONGEST_SHARE = 0.9
"""Of the KV cache; longer requests are cut to it, as a model's context length would refuse them."""
LONGEST_TAIL_S = 7200.0


@dataclass(slots=True, eq=False)
class Replica:
    """One replica from creation to end."""

    name: str
    number: int
    created_s: float
    ready_s: float
    engine: Engine
    in_flight: int = 0
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class EngineView:
    """What one ready replica tells."""

    name: str
    running: int
    waiting: int
    kv_usage: float
    prompt_tokens_total: int
    generation_tokens_total: int
    steps_total: int
    preemptions_total: int


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees, once a second. Draining replicas are in no number but `draining` and `in_flight`."""

    now_s: float
    current: int
    """Replicas that are ready or starting."""
    engines: tuple[EngineView, ...]
    starting_ages_s: tuple[float, ...]
    became_ready_s: tuple[float, ...]
    """Start-up times of replicas that became ready in this second."""
    draining: int
    held: int
    held_prompt_tokens: int
    oldest_held_s: float
    in_flight: int
    concurrency: float
    """Requests held or in flight, on average over the second."""
    arrivals: int
    arrived_prompt_tokens: int
    finished: tuple[Request, ...]

    @property
    def ready(self) -> int:
        """Replicas that answer."""
        return len(self.engines)

    @property
    def waiting(self) -> int:
        """Requests in the engines' queues, and held ones."""
        return self.held + sum(engine.waiting for engine in self.engines)


class Policy(Protocol):
    """A way to choose the number of replicas."""

    def decide(self, view: View) -> int | None:
        """Return the number of replicas there should be; None leaves it as it is. Called each second."""


@dataclass
class Outcome:
    """What came of a run."""

    requests: list[Request]
    gpu_seconds: float
    changes: int
    """How often the number of replicas was changed."""
    most_replicas: int
    preemptions: int
    timeline: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Each second: replicas that are ready or starting, ready ones, requests in flight, requests held."""


class Simulation:
    """One run."""

    def __init__(
        self,
        profile: Profile,
        arrivals: Sequence[Arrival],
        policy: Policy,
        *,
        cold_start_s: float,
        initial: int,
        limits: tuple[int, int],
    ) -> None:
        self._profile = profile
        self._cold_start_s = cold_start_s
        self._policy = policy
        self._lowest, self._highest = limits
        longest = int(profile.blocks * BLOCK_TOKENS * LONGEST_SHARE)
        self._requests = [
            Request(a.time_s, max(1, min(a.prompt_tokens, longest - a.output_tokens)), a.output_tokens)
            for a in arrivals
        ]
        self._created = 0
        self._ready = [self._create(0.0, 0.0) for _ in range(initial)]
        self._starting: list[Replica] = []
        self._draining: list[Replica] = []
        self._held: deque[Request] = deque()
        self._events: list[tuple[float, int, int, Replica]] = []
        """Heap of engines' next moments: time, tie-breaker, version, replica."""
        self._next_arrival = 0
        self._in_flight = 0
        self._gpu_seconds = 0.0
        self._changes = 0
        self._most = initial
        self._preemptions = 0
        self._timeline: list[tuple[int, int, int, int]] = []
        self._concurrency_area = 0.0
        self._area_until_s = 0.0
        self._arrivals = self._arrived_prompt_tokens = 0
        self._finished: list[Request] = []
        self._became_ready_s: list[float] = []

    def run(self) -> Outcome:
        """Run to the end."""
        end_s = math.ceil(self._requests[-1].arrived_s) + 1
        for second in range(1, end_s + 1):
            self._run_until(float(second))
            self._tick(float(second))
        self._count_gpu_seconds(float(end_s))
        second = end_s
        while (self._in_flight or self._held) and second < end_s + LONGEST_TAIL_S:
            second += 1
            self._run_until(float(second))
            self._start_ready(float(second))
        self._preemptions += sum(r.engine.preemptions_total for r in (*self._ready, *self._draining))
        return Outcome(self._requests, self._gpu_seconds, self._changes, self._most, self._preemptions, self._timeline)

    def _create(self, now_s: float, start_s: float) -> Replica:
        self._created += 1
        return Replica(f"r{self._created}", self._created, now_s, now_s + start_s, Engine(self._profile))

    def _run_until(self, until_s: float) -> None:
        events, requests = self._events, self._requests
        while True:
            arrival_s = requests[self._next_arrival].arrived_s if self._next_arrival < len(requests) else math.inf
            event_s = events[0][0] if events else math.inf
            if min(arrival_s, event_s) > until_s:
                return
            if arrival_s <= event_s:
                self._arrive(requests[self._next_arrival])
                self._next_arrival += 1
            else:
                self._advance(heapq.heappop(events))

    def _arrive(self, request: Request) -> None:
        self._count_area(request.arrived_s)
        self._arrivals += 1
        self._arrived_prompt_tokens += request.prompt_tokens
        self._held.append(request)
        if self._ready:
            self._route(request.arrived_s)

    def _route(self, now_s: float) -> None:
        while self._held and self._ready:
            request = self._held.popleft()
            replica = min(self._ready, key=_get_in_flight)
            replica.in_flight += 1
            self._in_flight += 1
            before = replica.engine.version
            replica.engine.submit(request, now_s)
            if replica.engine.version != before:
                self._schedule(replica)

    def _schedule(self, replica: Replica) -> None:
        engine = replica.engine
        if engine.next_s < math.inf:
            heapq.heappush(self._events, (engine.next_s, replica.number, engine.version, replica))

    def _advance(self, event: tuple[float, int, int, Replica]) -> None:
        now_s, _, version, replica = event
        if version != replica.engine.version:
            return
        finished = replica.engine.advance()
        if finished:
            self._count_area(now_s)
            replica.in_flight -= len(finished)
            self._in_flight -= len(finished)
            self._finished += finished
            if replica.is_draining and replica.in_flight == 0:
                self._end(replica, now_s)
        self._schedule(replica)

    def _end(self, replica: Replica, now_s: float) -> None:
        self._draining.remove(replica)
        self._gpu_seconds += max(0.0, now_s - replica.created_s)
        self._preemptions += replica.engine.preemptions_total

    def _count_area(self, now_s: float) -> None:
        self._concurrency_area += (self._in_flight + len(self._held)) * (now_s - self._area_until_s)
        self._area_until_s = now_s

    def _tick(self, now_s: float) -> None:
        self._start_ready(now_s)
        self._count_area(now_s)
        view = self._build_view(now_s)
        self._concurrency_area = 0.0
        self._arrivals = self._arrived_prompt_tokens = 0
        self._finished, self._became_ready_s = [], []
        wanted = self._policy.decide(view)
        if wanted is not None:
            self._scale(min(self._highest, max(self._lowest, wanted)), now_s)
        current = len(self._ready) + len(self._starting)
        self._timeline.append((current, len(self._ready), self._in_flight, len(self._held)))

    def _start_ready(self, now_s: float) -> None:
        started = [replica for replica in self._starting if replica.ready_s <= now_s]
        if not started:
            return
        self._starting = [replica for replica in self._starting if replica.ready_s > now_s]
        self._ready += started
        self._became_ready_s += [replica.ready_s - replica.created_s for replica in started]
        self._route(now_s)

    def _scale(self, wanted: int, now_s: float) -> None:
        current = len(self._ready) + len(self._starting)
        if wanted == current:
            return
        self._changes += 1
        self._most = max(self._most, wanted)
        self._starting += [self._create(now_s, self._cold_start_s) for _ in range(wanted - current)]
        surplus = current - wanted
        while surplus > 0 and self._starting:
            self._gpu_seconds += now_s - self._starting.pop().created_s
            surplus -= 1
        for _ in range(surplus):
            replica = min(self._ready, key=_get_in_flight)
            self._ready.remove(replica)
            replica.is_draining = True
            self._draining.append(replica)
            if replica.in_flight == 0:
                self._end(replica, now_s)

    def _count_gpu_seconds(self, now_s: float) -> None:
        """Count replicas that live at the end; what they do later is not counted."""
        for replica in (*self._ready, *self._starting, *self._draining):
            self._gpu_seconds += now_s - replica.created_s
            replica.created_s = math.inf

    def _build_view(self, now_s: float) -> View:
        oldest_s = now_s - self._held[0].arrived_s if self._held else 0.0
        return View(
            now_s=now_s,
            current=len(self._ready) + len(self._starting),
            engines=tuple(_view_engine(replica, now_s) for replica in self._ready),
            starting_ages_s=tuple(now_s - replica.created_s for replica in self._starting),
            became_ready_s=tuple(self._became_ready_s),
            draining=len(self._draining),
            held=len(self._held),
            held_prompt_tokens=sum(request.prompt_tokens for request in self._held),
            oldest_held_s=oldest_s,
            in_flight=self._in_flight,
            concurrency=self._concurrency_area,
            arrivals=self._arrivals,
            arrived_prompt_tokens=self._arrived_prompt_tokens,
            finished=tuple(self._finished),
        )


def _get_in_flight(replica: Replica) -> int:
    return replica.in_flight


def _view_engine(replica: Replica, now_s: float) -> EngineView:
    engine = replica.engine
    steps = engine.count_steps_done(now_s)
    return EngineView(
        name=replica.name,
        running=engine.running,
        waiting=len(engine.waiting),
        kv_usage=engine.kv_usage,
        prompt_tokens_total=engine.prompt_tokens_total,
        generation_tokens_total=engine.generation_tokens_total + steps * len(engine.decoding),
        steps_total=engine.steps_total + steps,
        preemptions_total=engine.preemptions_total,
    )
