"""What stands between callers and replicas in each run: nothing, a limit of requests, Kthena's rule, and ours.

**FCFS** sends everything on at once; the engines' queues are in order of arrival.

**Requests per minute**: each tenant has a token bucket; what is beyond it is refused. The limit is what the pool did
under FCFS, divided evenly: an administrator cannot know it better.

**Kthena** (volcano-sh/kthena, commit 3cc05728, `pkg/kthena-router/datastore/fairness_queue.go` and `token_tracker.go`):
the priority of a request is the tokens that its user was answered in the last five minutes (input x 1 + output x 2),
reckoned when it comes and, as shipped, not again; lowest first, of one user in order of arrival. As shipped requests
leave at 100 a second. With `FAIRNESS_MAX_CONCURRENT` as many are in flight as it says; its documentation proposes 32.
Who waits for longer than a minute is refused. There are no weights.

**Victim first** sends everything on at once and lets the engines serve the victim before all others, also inside their
queues. No gateway can do that; it tells how soon a victim can be answered at all by engines that are kept full.

**LLMOS** is the code of the gateway (`llmos_gateway.fairness`), told what a gateway is told.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from bench.fairness.workload import Job, Tenant
from llmos_gateway.fairness import EngineFigures, FairQueue, QueueFull, QueueLimits, Ticket, Window


class Side(Protocol):
    """A gateway. `release` is asked after everything that happens."""

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        """Take a request in; return those that are refused now, which may be another one."""

    def begin(self, job: Job) -> None:
        """A request has its first token."""

    def end(self, job: Job, now_s: float) -> None:
        """A request is answered."""

    def tell(self, replica: int, figures: EngineFigures) -> None:
        """A replica tells its load."""

    def progress(self, jobs: Iterable[tuple[Job, int]]) -> None:
        """So many tokens of these streams have passed."""

    def release(self, now_s: float) -> tuple[list[Job], list[Job]]:
        """Return what is sent and what is refused now."""

    def find_next_s(self, now_s: float) -> float:
        """Return when to ask again though nothing happens."""

    @property
    def is_awaited(self) -> bool:
        """Whether requests wait here."""

    @property
    def first(self) -> str:
        """Tenant whose requests overtake all others in the engines; empty for none."""


class Passing:
    """FCFS, and what the others have in common."""

    is_awaited = False
    first = ""
    """Tenant whose requests overtake all others in the engines."""

    def __init__(self) -> None:
        self._ready: list[Job] = []

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        self._ready.append(job)
        return []

    def begin(self, job: Job) -> None:
        """Nothing to note."""

    def end(self, job: Job, now_s: float) -> None:
        """Nothing to note."""

    def tell(self, replica: int, figures: EngineFigures) -> None:
        """Nothing to note."""

    def progress(self, jobs: Iterable[tuple[Job, int]]) -> None:
        """Nothing to note."""

    def release(self, now_s: float) -> tuple[list[Job], list[Job]]:
        sent, self._ready = self._ready, []
        return sent, []

    def find_next_s(self, now_s: float) -> float:
        return math.inf


class VictimFirst(Passing):
    """FCFS, with the victim at the head of the engines' queues."""

    first = "victim"


class PerMinute(Passing):
    """A limit of requests for each tenant."""

    def __init__(self, per_minute: float) -> None:
        super().__init__()
        self._per_s = per_minute / 60
        self._left: dict[str, tuple[float, float]] = {}

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        left, then_s = self._left.get(job.tenant, (self._per_s * 60, now_s))
        left = min(self._per_s * 60, left + (now_s - then_s) * self._per_s)
        if left < 1:
            self._left[job.tenant] = (left, now_s)
            return [job]
        self._left[job.tenant] = (left - 1, now_s)
        return super().arrive(job, now_s)


@dataclass
class _Usage:
    answers: deque[tuple[float, float]] = field(default_factory=deque)
    total: float = 0.0

    def read(self, since_s: float) -> float:
        while self.answers and self.answers[0][0] < since_s:
            self.total -= self.answers.popleft()[1]
        return self.total


class Kthena(Passing):
    """Kthena's queue.

    Args:
        max_concurrent: requests in flight; 0 lets 100 go a second instead, as shipped.
    """

    WINDOW_S, TIMEOUT_S, PER_S = 300.0, 60.0, 100.0

    def __init__(self, max_concurrent: int = 0) -> None:
        super().__init__()
        self._max_concurrent = max_concurrent
        self._usage: dict[str, _Usage] = {}
        self._heap: list[tuple[float, float, int, Job]] = []
        self._count = 0
        self._arrivals: deque[float] = deque()
        """When requests came, also those that have left."""
        self._in_flight = 0
        self._next_s = 0.0

    @property
    def is_awaited(self) -> bool:  # type: ignore[override]  # a constant of its base
        return bool(self._heap)

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        priority = self._usage.setdefault(job.tenant, _Usage()).read(now_s - self.WINDOW_S)
        self._count += 1
        self._arrivals.append(now_s)
        heapq.heappush(self._heap, (priority, now_s, self._count, job))
        return []

    def end(self, job: Job, now_s: float) -> None:
        self._in_flight -= 1
        usage = self._usage[job.tenant]
        tokens = job.prompt_tokens + 2.0 * job.output_tokens
        usage.answers.append((now_s, tokens))
        usage.total += tokens

    def release(self, now_s: float) -> tuple[list[Job], list[Job]]:
        sent: list[Job] = []
        refused = self._drop_late(now_s)
        while self._heap and self._may_send(now_s):
            sent.append(heapq.heappop(self._heap)[-1])
            self._in_flight += 1
            self._next_s = max(self._next_s, now_s - 1 / self.PER_S) + 1 / self.PER_S
        return sent, refused

    def find_next_s(self, now_s: float) -> float:
        return self._next_s if self._heap and not self._max_concurrent else math.inf

    def _may_send(self, now_s: float) -> bool:
        return self._in_flight < self._max_concurrent if self._max_concurrent else now_s >= self._next_s - 1e-9

    def _drop_late(self, now_s: float) -> list[Job]:
        since_s = now_s - self.TIMEOUT_S
        if not self._arrivals or self._arrivals[0] >= since_s:
            return []
        while self._arrivals and self._arrivals[0] < since_s:
            self._arrivals.popleft()
        late = [entry for entry in self._heap if entry[1] < since_s]
        if late:
            self._heap = [entry for entry in self._heap if entry[1] >= since_s]
            heapq.heapify(self._heap)
        return [entry[-1] for entry in late]


class Llmos(Passing):
    """One gateway of ours."""

    LIMITS = QueueLimits(max_waiting=10_000, max_per_flow=5_000)
    """More than `spec.hold` allows by default, so that no side is judged by whom it refuses."""

    def __init__(
        self, tenants: Iterable[Tenant], replicas: int, *, gateways: int = 1, others: Callable[[str], float]
    ) -> None:
        super().__init__()
        self._weights = {tenant.name: tenant.weight for tenant in tenants}
        self._queue, self._window = FairQueue(), Window()
        self._window.retain([str(number) for number in range(replicas)])
        self._gateways, self._others = gateways, others
        self._tickets: dict[Job, Ticket] = {}
        self._jobs: dict[Ticket, Job] = {}

    @property
    def is_awaited(self) -> bool:  # type: ignore[override]  # a constant of its base
        return self._queue.waiting > 0

    def arrive(self, job: Job, now_s: float) -> list[Job]:
        try:
            ticket, pushed = self._queue.arrive(
                job.tenant,
                self._weights[job.tenant],
                prompt_tokens=job.prompt_tokens,
                is_whole=not job.is_stream,
                now_s=now_s,
                limits=self.LIMITS,
            )
        except QueueFull:
            return [job]
        self._tickets[job], self._jobs[ticket] = ticket, job
        return [self._forget(pushed)] if pushed is not None else []

    def begin(self, job: Job) -> None:
        if job.is_stream:
            self._window.begin(str(job.replica))

    def end(self, job: Job, now_s: float) -> None:
        if job.is_stream:
            self._window.end(str(job.replica))
        ticket = self._tickets[job]
        self._queue.end(ticket, (job.prompt_tokens, 0, job.output_tokens))
        self._forget(ticket)

    def tell(self, replica: int, figures: EngineFigures) -> None:
        self._window.tell(str(replica), figures, is_awaited=self.is_awaited)

    def progress(self, jobs: Iterable[tuple[Job, int]]) -> None:
        for job, tokens in jobs:
            if job.is_stream and job in self._tickets:
                self._queue.progress(self._tickets[job], tokens)

    def release(self, now_s: float) -> tuple[list[Job], list[Job]]:
        room = self._window.compute_room(gateways=self._gateways, others=self._others)
        return [self._jobs[ticket] for ticket in self._queue.admit(room, now_s)], []

    def _forget(self, ticket: Ticket) -> Job:
        job = self._jobs.pop(ticket)
        del self._tickets[job]
        return job
