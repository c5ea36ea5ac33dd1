"""Several gateways before the same replicas: each has a policy of its own and sees the requests that came to it.

Requests come to the gateways at random, as behind a Service. A gateway counts its own requests in flight; what the
others have in flight it knows either not at all, or (`report_s`) as of the last report, as LLMOS's gateways tell each
other. With it comes what a policy has to tell the same policy of another gateway (`Telling`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from bench.routing.replay import Strategy
from bench.routing.trace import Request
from llmos_gateway.routing import Placement

__all__ = ["Gateways"]


@runtime_checkable
class Telling(Protocol):
    """A policy that has something to tell other gateways."""

    def tell(self, since_s: float) -> Sequence[Placement]:
        """Return what it noted since then."""

    def learn(self, placements: Sequence[Placement]) -> None:
        """Take what another one told."""


@dataclass(slots=True)
class _Gateway:
    strategy: Strategy
    own: list[int]
    others: list[int]
    reported_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Token:
    gateway: int
    replica: int
    inner: object


@dataclass(slots=True)
class Gateways:
    """A policy that is several."""

    count: int
    replicas: int
    build: Callable[[], Strategy]
    report_s: float | None = None
    """Seconds between two reports; None where a gateway knows its own requests only."""
    seed: int = 0
    _gateways: list[_Gateway] = field(init=False)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Start the gateways."""
        zeros = [0] * self.replicas
        self._gateways = [_Gateway(self.build(), list(zeros), list(zeros)) for _ in range(self.count)]
        self._random = random.Random(self.seed)

    def choose(self, request: Request, loads: Sequence[int], now_s: float) -> tuple[int, object]:
        """Let one gateway choose."""
        number = self._random.randrange(self.count)
        gateway = self._gateways[number]
        if self.report_s is not None and now_s - gateway.reported_s >= self.report_s:
            gateway.others = [total - own for total, own in zip(loads, gateway.own, strict=True)]
            self._tell(gateway, gateway.reported_s)
            gateway.reported_s = now_s
        seen = [own + others for own, others in zip(gateway.own, gateway.others, strict=True)]
        replica, inner = gateway.strategy.choose(request, seen, now_s)
        gateway.own[replica] += 1
        return replica, _Token(number, replica, inner)

    def first_token(self, token: object) -> None:
        """Tell the gateway."""
        assert isinstance(token, _Token)
        self._gateways[token.gateway].strategy.first_token(token.inner)

    def ended(self, token: object) -> None:
        """Tell the gateway."""
        assert isinstance(token, _Token)
        gateway = self._gateways[token.gateway]
        gateway.own[token.replica] -= 1
        gateway.strategy.ended(token.inner)

    def _tell(self, gateway: _Gateway, since_s: float) -> None:
        strategy = gateway.strategy
        if not isinstance(strategy, Telling):
            return
        for other in self._gateways:
            if other is not gateway and isinstance(other.strategy, Telling):
                strategy.learn(other.strategy.tell(since_s))
