"""Virtual token counters: who has had least of a pool, in proportion to its weight.

A flow is what a share belongs to: a tenant, or an API key that has no tenant. Each has a counter of the service that it
got, in the price of a prompt token, divided by its weight w:

    c_i  grows by  (input * prompt + cached * cached prompt + output * generated tokens) / w_i

The prompt is charged when the request is sent, generated tokens as they pass, and at the end the engine's own count
replaces both. An answer that comes in one piece shows no tokens on its way, so the mean of the flow's last answers is
charged beforehand. The flow with the lowest counter has the turn.

A flow that has nothing waiting saves nothing up. When it comes back it is lifted:

    c_i = max(c_i, floor - credit / w_i)

floor is the lowest counter of those that wait or, if nobody does, the counter of the flow that was last to have
something waiting. `credit` lets a flow that uses less than its share send a few requests at once: it is what
`CREDIT_REQUESTS` requests of this pool are worth on average, and never more than `most_credit`, in prompt tokens. It is
0 before a request has ended. A fixed one of a few thousand tokens would be minutes of service where requests are small.

What was charged before such a lift is gone in it: it is not given back when the request turns out to be cheaper or was
refused, or an estimate that is far too high, of a prompt that no engine takes, would save up what a lift takes away.

Two flows that both have something waiting get, in any stretch of time, service that differs by at most

    2 * max(input * L, output * M) + credit      (service divided by weight; weights of at least 1)

where L is the longest prompt and M the tokens, of prompts and answers, that one flow can have in flight (and output >=
input): a flow is served only while its counter is the lowest, and comes to be ahead of others only by what it then has
in flight.

Source: Sheng et al., Fairness in Serving Large Language Models (OSDI 2024, arXiv 2401.00588), algorithm 2 and theorem
4.4; the expected length of whole answers is its section 4.4. Its lift is the one above with a credit of 0.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MAX_FLOWS: Final = 4096
"""Idle flows beyond this are forgotten, the longest idle first. One that comes back then counts as new."""
CREDIT_REQUESTS: Final = 8
_SERVICE_MEMORY: Final = 64
"""Requests over which the mean service is taken."""
_LENGTH_MEMORY: Final = 16
"""Answers over which a flow's mean length is taken."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a token counts, in the price of a prompt token."""

    input: float = 1.0
    cached: float = 0.1
    """A prompt token that the engine had in its cache."""
    output: float = 2.0

    def compute(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """Return the service of one request."""
        cached = min(cached_tokens, prompt_tokens)
        return self.input * (prompt_tokens - cached) + self.cached * cached + self.output * output_tokens


@dataclass(slots=True, eq=False)
class Flow:
    """One tenant, or one key without a tenant, at one pool."""

    id: str
    weight: float = 1.0
    counter: float = 0.0
    running: int = 0
    """Requests that were sent and have not ended."""
    waiting: int = 0
    mean_output_tokens: float = 0.0
    active_s: float = field(default=0.0)
    """When it last sent a request."""
    lifts: int = 0
    """How often it was lifted."""

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing here."""
        return self.running == 0 and self.waiting == 0

    def charge(self, service: float) -> None:
        """Add to the counter; a negative service gives back."""
        self.counter += service / self.weight

    def learn_length(self, output_tokens: int) -> None:
        """Take the length of an answer into the mean."""
        if self.mean_output_tokens == 0:
            self.mean_output_tokens = float(output_tokens)
        else:
            self.mean_output_tokens += (output_tokens - self.mean_output_tokens) / _LENGTH_MEMORY


class Flows:
    """The flows of one pool that are remembered, least recently active first.

    Args:
        most_credit: what a flow that comes back may at most be below the floor.
        max_flows: how many idle ones are remembered.
    """

    def __init__(self, *, most_credit: float, max_flows: int = MAX_FLOWS) -> None:
        self._most_credit = most_credit
        self._mean_service = 0.0
        self._max_flows = max_flows
        self._flows: OrderedDict[str, Flow] = OrderedDict()
        self._last: Flow | None = None

    def __len__(self) -> int:
        return len(self._flows)

    @property
    def credit(self) -> float:
        """What a flow that comes back may be below the floor."""
        return min(self._most_credit, CREDIT_REQUESTS * self._mean_service)

    def learn_service(self, service: float) -> None:
        """Take what a request was worth into the mean."""
        if self._mean_service == 0:
            self._mean_service = service
        else:
            self._mean_service += (service - self._mean_service) / _SERVICE_MEMORY

    def find(self, flow_id: str, now_s: float) -> Flow:
        """Return a flow that sends a request now."""
        flow = self._flows.get(flow_id)
        if flow is None:
            self._forget_idle()
            flow = self._flows[flow_id] = Flow(flow_id, counter=float("-inf"))
        else:
            self._flows.move_to_end(flow_id)
        flow.active_s = now_s
        return flow

    def lift(self, flow: Flow, backlogged: Iterable[Flow]) -> None:
        """Let a flow that comes back begin near those that wait."""
        floor = min((other.counter for other in backlogged), default=None)
        if floor is None:
            floor = self._last.counter if self._last is not None else 0.0
        start = floor - self.credit / flow.weight
        if start > flow.counter:
            flow.counter = start
            flow.lifts += 1

    def has_left(self, flow: Flow) -> None:
        """Note that nothing of a flow waits any more."""
        self._last = flow

    def count_recent(self, since_s: float, most: int) -> int:
        """Return how many flows were active since then or are, at most `most`."""
        count = 0
        for flow in reversed(self._flows.values()):
            if flow.active_s < since_s and flow.is_idle:
                break
            count += 1
            if count >= most:
                break
        return count

    def _forget_idle(self) -> None:
        if len(self._flows) < self._max_flows:
            return
        # Those at the front have been idle for longest; one that still has something is rare there.
        idle = next((flow_id for flow_id, flow in self._flows.items() if flow.is_idle), None)
        if idle is not None:
            del self._flows[idle]
