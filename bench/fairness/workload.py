"""Who asks for what: tenants with their clients, and the scenarios that are compared.

A tenant is either *backlogged*, so many clients that each send the next request as soon as the last one is answered, or
*open*, with requests that come at random (Poisson) whatever becomes of earlier ones. Lengths are lognormal around a
median, cut at both ends, as prompts and answers of conversations are. Each tenant draws from a generator of its own, so
that it asks for the same whatever side serves it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from bench.autoscale.engine import Request

RETRY_S = 1.0
"""A client that was refused comes again after this."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts or answers."""

    median: int
    most: int
    spread: float = 0.6
    """Standard deviation of the logarithm."""

    def draw(self, generator: random.Random) -> int:
        """Return one length."""
        return max(8, min(self.most, round(generator.lognormvariate(math.log(self.median), self.spread))))


@dataclass(frozen=True)
class Tenant:
    """One tenant's traffic."""

    name: str
    prompt: Lengths
    output: Lengths
    clients: int = 0
    """Backlogged clients; 0 for open traffic."""
    per_s: float = 0.0
    """Open traffic: requests a second."""
    begins_s: float = 0.0
    weight: float = 1.0
    streams: float = 1.0
    """Share of requests whose answers are streams."""


@dataclass(slots=True, eq=False)
class Job(Request):
    """A request of a tenant."""

    tenant: str = ""
    is_stream: bool = True
    sent_s: float = math.nan
    """When the gateway let it go."""
    replica: int = -1


@dataclass(frozen=True)
class Scenario:
    """What a side has to cope with."""

    name: str
    tenants: tuple[Tenant, ...]
    gpu: str = "l40s"
    replicas: int = 2
    max_sequences: int = 0
    """Sequences an engine runs at most; 0 leaves vLLM's default for the GPU."""
    gateways: int = 1

    def get(self, name: str) -> Tenant:
        """Return a tenant."""
        return next(tenant for tenant in self.tenants if tenant.name == name)

    def keep_only(self, name: str) -> Scenario:
        """Return the scenario with one tenant alone."""
        return replace(self, tenants=(self.get(name),))


class Source:
    """The requests of one tenant."""

    def __init__(self, tenant: Tenant, seed: int) -> None:
        self.tenant = tenant
        self._generator = random.Random(f"{tenant.name} {seed}")

    def build_first(self, until_s: float) -> list[Job]:
        """Return the requests that do not depend on answers: of each client the first, or all that come at random."""
        tenant = self.tenant
        if tenant.clients:
            # Not all in the same instant: clients are programs that were started one after the other.
            return [self.build(tenant.begins_s + number * 2.0 / tenant.clients) for number in range(tenant.clients)]
        jobs, now_s = [], tenant.begins_s
        while (now_s := now_s + self._generator.expovariate(tenant.per_s)) < until_s:
            jobs.append(self.build(now_s))
        return jobs

    def build(self, arrived_s: float) -> Job:
        """Return the next request."""
        tenant, generator = self.tenant, self._generator
        prompt, output = tenant.prompt.draw(generator), tenant.output.draw(generator)
        return Job(arrived_s, prompt, output, tenant=tenant.name, is_stream=generator.random() < tenant.streams)


SHORT, LONG = Lengths(300, 2000), Lengths(1500, 6000)
FEW, MANY = Lengths(60, 300), Lengths(300, 1200)


def build_scenarios() -> list[Scenario]:
    """Return what is measured."""
    weights = (_chat("three", clients=400, weight=3), _chat("one", clients=400))
    return [
        Scenario(
            "different requests",
            (
                Tenant("short, long answers", SHORT, MANY, clients=1200),
                Tenant("long, short answers", LONG, FEW, clients=600),
            ),
        ),
        Scenario("weights 3:1", weights),
        Scenario("weights 3:1, whole answers", tuple(replace(tenant, streams=0.0) for tenant in weights)),
        Scenario("weights 3:1, two gateways", tuple(replace(tenant, clients=1000) for tenant in weights), gateways=2),
        Scenario("aggressor", (_chat("victim", per_s=2.0), _chat("aggressor", clients=600, begins_s=20.0))),
        Scenario(
            "aggressor, 64 sequences",
            (_chat("victim", per_s=2.0), _chat("aggressor", clients=600, begins_s=20.0)),
            max_sequences=64,
        ),
        Scenario(
            "aggressor, long prompts",
            (_chat("victim", per_s=1.0), Tenant("aggressor", LONG, FEW, clients=600, begins_s=20.0)),
        ),
        Scenario(
            "aggressor, h100",
            (_chat("victim", per_s=8.0), _chat("aggressor", clients=3000, begins_s=20.0)),
            gpu="h100",
        ),
    ]


def _chat(name: str, *, clients: int = 0, per_s: float = 0.0, begins_s: float = 0.0, weight: float = 1.0) -> Tenant:
    """Return a tenant that asks as conversations do."""
    return Tenant(
        name, Lengths(600, 4000), Lengths(200, 800), clients=clients, per_s=per_s, begins_s=begins_s, weight=weight
    )
