"""The queue of one pool: who waits, who may go, and who is told to come back later.

Within a flow the order is that of arrival; between flows the lowest counter goes first (see `counters`). If the first
may not go, nobody goes: whoever jumped ahead because it is small would take the turn of one that waits.

Who may go. The window (see `window`) says how many requests of the pool may be sent at once: `shared` for everybody,
and `reserve` beyond that for flows that have less in flight than their part of it, by weight, among those that have
anything here. Without a reserve a flow that comes to a pool full of others' long answers would wait for one of them to
end. It is kept only where several flows were active within `RECENT_S`; a pool that one tenant has to itself is filled.

Bounds. A flow has at most `max_per_flow` waiting, the pool `max_waiting`. In a full queue the flow with most waiting
for its weight has to give way: its newest request is pushed out for one of another flow (longest queue drop; Suter et
al., 1999), so that nobody can close the queue to others.

Whoever is refused is told when there will be room: what the flow has waiting, over the pace at which requests went
lately, times the part of it that is the flow's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from llmos_gateway.fairness.counters import Costs, Flow, Flows
from llmos_gateway.fairness.window import Room

MOST_CREDIT: Final = 8192.0
RECENT_S: Final = 60.0
UNKNOWN_WAIT_S: Final = 10.0
MAX_WAIT_S: Final = 3600.0
_PACE_OVER: Final = 64
"""Departures over which the pace is taken."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many may wait."""

    max_waiting: int = 1000
    max_per_flow: int = 200


class QueueFull(Exception):  # noqa: N818 - the request was refused; nothing is broken
    """There is no room for a request.

    `of_flow` says whether its own flow has too many waiting; `retry_after_s` when there will be room.
    """

    def __init__(self, *, of_flow: bool, retry_after_s: float) -> None:
        super().__init__("the queue is full")
        self.of_flow = of_flow
        self.retry_after_s = retry_after_s


@dataclass(slots=True, eq=False)
class Ticket:
    """One request."""

    flow: Flow
    prompt_tokens: int
    """Estimated."""
    is_whole: bool
    """Whether its answer comes in one piece, so that nothing is seen of it before the end."""
    is_waiting: bool = True
    charged: float = 0.0
    refundable: float = 0.0
    """What of it was charged since the flow was lifted last."""
    lifts: int = 0
    """Of the flow, when it was charged last."""
    output_tokens: int = 0
    """Generated tokens that are charged."""


class FairQueue:
    """The requests of one pool, waiting or sent.

    Args:
        costs: what a token counts.
        most_credit: see `counters`.
        max_flows: flows that are remembered.
    """

    def __init__(
        self, costs: Costs | None = None, *, most_credit: float = MOST_CREDIT, max_flows: int | None = None
    ) -> None:
        self.running = 0
        """Requests that were sent and have not ended."""
        self.waiting = 0
        self._costs = costs or Costs()
        self._flows = Flows(most_credit=most_credit, **({} if max_flows is None else {"max_flows": max_flows}))
        self._lines: dict[Flow, dict[Ticket, None]] = {}
        """Of flows that have something waiting, in the order of its arrival."""
        self._active_weight = 0.0
        self._departures: deque[float] = deque(maxlen=_PACE_OVER)

    def arrive(
        self,
        flow_id: str,
        weight: float,
        *,
        prompt_tokens: int,
        is_whole: bool,
        now_s: float,
        limits: QueueLimits = QueueLimits(),
    ) -> tuple[Ticket, Ticket | None]:
        """Take a request in. Return its ticket, and the one that was pushed out for it.

        Raises:
            QueueFull: there is no room.
        """
        flow = self._flows.find(flow_id, now_s)
        if not flow.is_idle:
            self._active_weight += weight - flow.weight
        flow.weight = weight
        pushed = self._make_room(flow, limits)
        if flow not in self._lines:
            self._flows.lift(flow, self._lines)
            self._lines[flow] = {}
        ticket = Ticket(flow, prompt_tokens, is_whole)
        self._lines[flow][ticket] = None
        if flow.is_idle:
            self._active_weight += weight
        flow.waiting += 1
        self.waiting += 1
        return ticket, pushed

    def admit(self, room: Room, now_s: float) -> list[Ticket]:
        """Return the requests that are to be sent now."""
        sent: list[Ticket] = []
        while self._lines and self.running < room.shared + room.reserve:
            flow = min(self._lines, key=_turn)
            if self.running >= room.shared and not self._may_use_reserve(flow, room, now_s):
                break
            sent.append(self._send(flow, now_s))
        return sent

    def leave(self, ticket: Ticket) -> None:
        """Take a request that waits out again: its caller is gone, or its time is over."""
        if ticket.is_waiting:
            ticket.is_waiting = False
            self._take_out(ticket)
            self._settle_weight(ticket.flow)

    def progress(self, ticket: Ticket, output_tokens: int) -> None:
        """Charge what was generated so far."""
        more = output_tokens - ticket.output_tokens
        if more > 0:
            ticket.output_tokens = output_tokens
            self._charge(ticket, self._costs.output * more)

    def end(self, ticket: Ticket, usage: tuple[int, int, int] | None) -> None:
        """Note that a request that was sent has ended.

        Args:
            ticket: the request.
            usage: prompt tokens, cached ones among them, and generated tokens, as the engine counted them; None where
                it did not say, so that what was charged stays.
        """
        if usage is not None:
            self._charge(ticket, self._costs.compute(*usage) - ticket.charged)
            if usage[2]:
                ticket.flow.learn_length(usage[2])
            if any(usage):
                self._flows.learn_service(self._costs.compute(*usage))
        ticket.flow.running -= 1
        self.running -= 1
        self._settle_weight(ticket.flow)

    def estimate_wait_s(self, flow: Flow) -> float:
        """Return when a request that came now would probably be sent."""
        times = self._departures
        if len(times) < 2 or times[-1] <= times[0]:
            return UNKNOWN_WAIT_S
        pace = (len(times) - 1) / (times[-1] - times[0])
        weight = sum(other.weight for other in self._lines if other is not flow) + flow.weight
        return min(MAX_WAIT_S, (flow.waiting + 1) / (pace * flow.weight / weight))

    def get_waiting(self) -> list[Ticket]:
        """Return all that wait."""
        return [ticket for line in self._lines.values() for ticket in line]

    def read_counters(self) -> dict[str, float]:
        """Return the counters of flows that have something waiting, for those who look."""
        return {flow.id: flow.counter for flow in self._lines}

    def _make_room(self, flow: Flow, limits: QueueLimits) -> Ticket | None:
        if flow.waiting >= limits.max_per_flow:
            raise QueueFull(of_flow=True, retry_after_s=self.estimate_wait_s(flow))
        if self.waiting < limits.max_waiting:
            return None
        longest = max(self._lines, key=_length, default=flow)
        if longest is flow or _length(longest) <= (flow.waiting + 1) / flow.weight:
            raise QueueFull(of_flow=False, retry_after_s=self.estimate_wait_s(flow))
        newest = next(reversed(self._lines[longest]))
        self.leave(newest)
        return newest

    def _may_use_reserve(self, flow: Flow, room: Room, now_s: float) -> bool:
        if self._flows.count_recent(now_s - RECENT_S, 2) < 2:
            return True
        return flow.running < room.shared * flow.weight / self._active_weight

    def _send(self, flow: Flow, now_s: float) -> Ticket:
        ticket = next(iter(self._lines[flow]))
        ticket.is_waiting = False
        flow.running += 1
        self.running += 1
        self._take_out(ticket)
        if self._lines:
            self._departures.append(now_s)
        self._charge(ticket, self._costs.input * ticket.prompt_tokens)
        if ticket.is_whole:
            self.progress(ticket, round(flow.mean_output_tokens))
        return ticket

    def _take_out(self, ticket: Ticket) -> None:
        flow = ticket.flow
        line = self._lines[flow]
        del line[ticket]
        flow.waiting -= 1
        self.waiting -= 1
        if not line:
            del self._lines[flow]
            self._flows.has_left(flow)

    def _settle_weight(self, flow: Flow) -> None:
        if flow.is_idle:
            self._active_weight = max(0.0, self._active_weight - flow.weight)

    def _charge(self, ticket: Ticket, service: float) -> None:
        flow = ticket.flow
        if ticket.lifts != flow.lifts:
            ticket.lifts, ticket.refundable = flow.lifts, 0.0
        service = max(service, -ticket.refundable)
        ticket.charged += service
        ticket.refundable += service
        flow.charge(service)


def _turn(flow: Flow) -> tuple[float, float]:
    """Who goes first; of equal counters the flow that has less in flight for its weight."""
    return flow.counter, flow.running / flow.weight


def _length(flow: Flow) -> float:
    return flow.waiting / flow.weight
