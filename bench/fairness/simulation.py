"""The clock: requests come, a side lets them go, engines batch them. One run of one side under one scenario.

Replicas are the engines of `bench.autoscale` (continuous batching by vLLM's rules, step times fitted to measurements);
a request goes to the one with the fewest in flight. What the gateway is told is what a gateway is told: tokens as they
pass, ends, and each second (a quarter while requests wait) what each replica runs and lets wait. A request that is let
go when another one ends reaches the engine within the step that has just begun, so it is computed from the next one on.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from bench.autoscale.engine import Engine, Request
from bench.autoscale.profiles import load_profile
from bench.fairness.sides import Side
from bench.fairness.workload import RETRY_S, Job, Scenario, Source
from llmos_gateway.fairness import Costs, EngineFigures

COSTS = Costs()
SAMPLE_S = 1.0
REPORT_S, AWAITED_REPORT_S = 1.0, 0.25
ARRIVE, ENGINE, REPORT, WAKE = range(4)


class TokenEngine(Engine):
    """An engine that tells how far each answer is."""

    def read_generated(self, now_s: float) -> Iterator[tuple[Job, int]]:
        """Return the tokens generated so far of each request that decodes."""
        counter = self._counter + self.count_steps_done(now_s)
        for ends, _, sequence in self.decoding:
            job = _as_job(sequence.request)
            yield job, min(job.output_tokens, job.output_tokens - (ends - counter))


@dataclass
class Result:
    """What came of a run."""

    scenario: Scenario
    until_s: float
    jobs: list[Job] = field(default_factory=list)
    """Answered in full."""
    refused: int = 0
    services: list[dict[str, float]] = field(default_factory=list)
    """Each second: the service that each tenant got since the beginning, in the price of a prompt token."""
    waiting: list[dict[str, int]] = field(default_factory=list)
    """Each second: requests of each tenant that wait for their first token."""
    in_engines: list[int] = field(default_factory=list)
    """Each second: requests that wait in engines."""
    running: list[int] = field(default_factory=list)


class Simulation:
    """Runs one scenario through one side, or through several gateways that do not know each other's queues."""

    def __init__(
        self,
        scenario: Scenario,
        build_side: Callable[[int, Callable[[str], float]], Side],
        *,
        seconds: float,
        seed: int = 1,
    ) -> None:
        profile = load_profile(scenario.gpu)
        if scenario.max_sequences:
            profile = replace(profile, max_sequences=scenario.max_sequences)
        self.engines = [TokenEngine(profile) for _ in range(scenario.replicas)]
        self._scenario = scenario
        self._seconds = seconds
        self._sources = {tenant.name: Source(tenant, seed) for tenant in scenario.tenants}
        self._on = [[0] * scenario.replicas for _ in range(scenario.gateways)]
        """Requests in flight by gateway and replica."""
        self._told = [[0] * scenario.replicas for _ in range(scenario.gateways)]
        """The same, as the gateways last told each other."""
        self.sides = [build_side(number, self._build_others(number)) for number in range(scenario.gateways)]
        self._wakes_s = [0.0] * scenario.gateways
        self._gateway: dict[Job, int] = {}
        self._generator = random.Random(seed)
        self._events: list[tuple[float, int, int, object]] = []
        self._numbers = itertools.count()
        self._silent: list[set[Job]] = [set() for _ in self.engines]
        self._done: dict[str, float] = dict.fromkeys(self._sources, 0.0)
        self._open: dict[str, set[Job]] = {name: set() for name in self._sources}
        self.result = Result(scenario, seconds)

    def run(self) -> Result:
        """Run until the time is over; what is under way then counts as service, not as answers."""
        for source in self._sources.values():
            for job in source.build_first(self._seconds):
                self._at(job.arrived_s, ARRIVE, job)
        for number in range(len(self.sides)):
            self._at(REPORT_S / 2, REPORT, number)
        sampled_s = 0.0
        while self._events and self._events[0][0] <= self._seconds:
            now_s, _, kind, thing = heapq.heappop(self._events)
            while sampled_s + SAMPLE_S <= now_s:
                sampled_s += SAMPLE_S
                self._sample(sampled_s)
            self._happen(now_s, kind, thing)
            self._release(now_s)
        return self.result

    def _at(self, moment_s: float, kind: int, thing: object) -> None:
        heapq.heappush(self._events, (moment_s, next(self._numbers), kind, thing))

    def _happen(self, now_s: float, kind: int, thing: object) -> None:
        if kind == ARRIVE:
            assert isinstance(thing, Job)
            number = self._generator.randrange(len(self.sides))
            self._gateway[thing] = number
            self._open[thing.tenant].add(thing)
            self._refuse(self.sides[number].arrive(thing, now_s), now_s)
        elif kind == ENGINE:
            assert isinstance(thing, tuple)
            replica, version = thing
            if version == self.engines[replica].version:
                self._advance(replica, now_s)
        elif kind == REPORT:
            assert isinstance(thing, int)
            self._report(thing, now_s)

    def _advance(self, replica: int, now_s: float) -> None:
        engine = self.engines[replica]
        finished = engine.advance()
        begun = [job for job in self._silent[replica] if not math.isnan(job.first_token_s)]
        for job in begun:
            self._silent[replica].discard(job)
            self.sides[self._gateway[job]].begin(job)
        for request in finished:
            job = _as_job(request)
            number = self._gateway.pop(job)
            self._on[number][replica] -= 1
            self.sides[number].end(job, now_s)
            self._open[job.tenant].discard(job)
            self._done[job.tenant] += COSTS.compute(job.prompt_tokens, 0, job.output_tokens)
            self.result.jobs.append(job)
            self._ask_again(job, now_s)
        self._schedule(replica)

    def _ask_again(self, job: Job, now_s: float) -> None:
        source = self._sources[job.tenant]
        if source.tenant.clients:
            self._at(now_s, ARRIVE, source.build(now_s))

    def _refuse(self, jobs: Sequence[Job], now_s: float) -> None:
        for job in jobs:
            self.result.refused += 1
            del self._gateway[job]
            self._open[job.tenant].discard(job)
            self._ask_again(job, now_s + RETRY_S)

    def _release(self, now_s: float) -> None:
        for number, side in enumerate(self.sides):
            if side.is_awaited:
                side.progress(
                    pair
                    for engine in self.engines
                    for pair in engine.read_generated(now_s)
                    if self._gateway[pair[0]] == number
                )
            sent, refused = side.release(now_s)
            self._refuse(refused, now_s)
            for job in sent:
                self._send(job, number, now_s)
            next_s = max(side.find_next_s(now_s), now_s + 1e-6)
            if next_s < math.inf and not now_s < self._wakes_s[number] <= next_s:
                self._wakes_s[number] = next_s
                self._at(next_s, WAKE, None)

    def _send(self, job: Job, number: int, now_s: float) -> None:
        replica = min(range(len(self.engines)), key=lambda r: sum(on[r] for on in self._on))
        job.sent_s, job.replica = now_s, replica
        self._on[number][replica] += 1
        self._silent[replica].add(job)
        engine = self.engines[replica]
        before = engine.version
        engine.submit(job, now_s)
        if job.tenant == self.sides[number].first and engine.waiting and engine.waiting[-1] is job:
            engine.waiting.appendleft(engine.waiting.pop())
        if engine.version != before:
            self._schedule(replica)

    def _schedule(self, replica: int) -> None:
        engine = self.engines[replica]
        if engine.next_s < math.inf:
            self._at(engine.next_s, ENGINE, (replica, engine.version))

    def _report(self, number: int, now_s: float) -> None:
        side = self.sides[number]
        self._told[number] = list(self._on[number])
        for replica, engine in enumerate(self.engines):
            side.tell(replica, EngineFigures(engine.running, len(engine.waiting), engine.kv_usage))
        self._at(now_s + (AWAITED_REPORT_S if side.is_awaited else REPORT_S), REPORT, number)

    def _build_others(self, number: int) -> Callable[[str], float]:
        def count(address: str) -> float:
            return float(sum(told[int(address)] for other, told in enumerate(self._told) if other != number))

        return count

    def _sample(self, now_s: float) -> None:
        services = dict(self._done)
        for engine in self.engines:
            for job, tokens in engine.read_generated(now_s):
                services[job.tenant] += COSTS.compute(job.prompt_tokens, 0, tokens)
        self.result.services.append(services)
        self.result.waiting.append(
            {name: sum(math.isnan(job.first_token_s) for job in jobs) for name, jobs in self._open.items()}
        )
        self.result.in_engines.append(sum(len(engine.waiting) for engine in self.engines))
        self.result.running.append(sum(engine.running for engine in self.engines))


def _as_job(request: Request) -> Job:
    """The engines know requests; those of this simulation are jobs."""
    assert isinstance(request, Job)
    return request
