"""The engine in real time: lets each step of the scheduler take its time, then hands tokens to those who wait.

It decides nothing about batching (scheduler.py) and knows nothing of HTTP (app.py). A step's end is planned from the
planned end of the one before, so a late wake-up of the event loop does not slow the imagined accelerator down; only a
lag above one second is given up, for then the host is too slow for the timing asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from llmos_workers.simulate.metrics import Metrics
from llmos_workers.simulate.scheduler import Limits, Scheduler, Step, Timing, Work
from llmos_workers.simulate.settings import Faults
from llmos_workers.simulate.tokens import Answer

_MAX_LAG_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence that a request asks for. `answer` is None for an embedding, which only has a prompt."""

    prompt_tokens: int
    block_keys: tuple[bytes, ...]
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One more token of a request's sequence number `index`. `finish_reason` is set on its last one."""

    index: int
    piece: str
    finish_reason: str | None


@dataclass(slots=True)
class _Running:
    job: Job
    index: int
    events: asyncio.Queue[Event]
    arrived_s: float
    cached_tokens: int = 0
    produced: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


class QueueFullError(Exception):
    """The engine holds as many requests as it may."""


class Submission:
    """The sequences of one request in flight. Whoever submitted them closes it when nobody reads any more."""

    def __init__(
        self, ids: Sequence[int], events: asyncio.Queue[Event], forget: Callable[[Sequence[int]], None]
    ) -> None:
        self._ids = ids
        self._events = events
        self._forget = forget
        self._is_closed = False

    async def tokens(self) -> AsyncIterator[Event]:
        """Yield the tokens of all sequences as they come, until each of them has ended."""
        left = len(self._ids)
        while left:
            event = await self._events.get()
            left -= event.finish_reason is not None
            yield event

    def close(self) -> None:
        """Give batch places and KV blocks of what is unfinished back. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._forget(self._ids)


class Engine:
    """Serves jobs one step at a time. `run` must be running for anything to be answered."""

    def __init__(
        self,
        limits: Limits,
        timing: Timing,
        metrics: Metrics,
        *,
        faults: Faults,
        max_queued: int,
        crash: Callable[[], NoReturn],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = Scheduler(limits)
        self._timing = timing
        self._metrics = metrics
        self._faults = faults
        self._max_queued = max_queued
        self._crash = crash
        self._clock = clock
        self._ids = itertools.count()
        self._sequences: dict[int, _Running] = {}
        self._work_arrived = asyncio.Event()
        self._served_requests = 0
        metrics.watch("num_requests_running", "Requests in the batch.", lambda: self._scheduler.running)
        metrics.watch("num_requests_waiting", "Requests waiting for the batch.", lambda: self._scheduler.waiting)
        metrics.watch("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent.", lambda: self._scheduler.kv_usage)

    def submit(self, jobs: Sequence[Job]) -> Submission:
        """Queue the sequences of one request.

        Raises:
            QueueFullError: too many sequences are held already.
        """
        if len(self._sequences) + len(jobs) > self._max_queued:
            raise QueueFullError
        # At most one event for each token of the answers, which max_model_len bounds.
        events: asyncio.Queue[Event] = asyncio.Queue()
        ids = [self._start(index, job, events) for index, job in enumerate(jobs)]
        self._work_arrived.set()
        return Submission(ids, events, self._forget)

    async def run(self) -> NoReturn:
        """Compute steps for as long as there is work, and wait for more."""
        due_s = self._clock()
        while True:
            if not self._sequences:
                self._work_arrived.clear()
                await self._work_arrived.wait()
                due_s = self._clock()
            await self._fail_on_request()
            step = self._scheduler.begin_step()
            self._count_step(step)
            due_s += self._timing.compute_step_s(step.prefill_tokens, step.decode_sequences)
            due_s = max(due_s, self._clock() - _MAX_LAG_S)
            await asyncio.sleep(max(0.0, due_s - self._clock()))
            self._deliver(step)

    def _start(self, index: int, job: Job, events: asyncio.Queue[Event]) -> int:
        sequence_id = next(self._ids)
        output_tokens = len(job.answer.pieces) if job.answer else 1
        self._scheduler.add(Work(sequence_id, job.prompt_tokens, output_tokens, job.block_keys))
        self._sequences[sequence_id] = _Running(job, index, events, self._clock())
        return sequence_id

    def _forget(self, ids: Sequence[int]) -> None:
        aborted = [sequence_id for sequence_id in ids if self._scheduler.abort(sequence_id)]
        for sequence_id in aborted:
            self._metrics.count_finished("abort")
            del self._sequences[sequence_id]
        self._served_requests += not aborted

    async def _fail_on_request(self) -> None:
        crash_after, hang_after = self._faults.crash_after_requests, self._faults.hang_after_requests
        if crash_after is not None and self._served_requests >= crash_after:
            self._crash()
        if hang_after is not None and self._served_requests >= hang_after:
            await asyncio.Event().wait()

    def _count_step(self, step: Step) -> None:
        now_s = self._clock()
        for sequence_id, cached_tokens in zip(step.admitted, step.cached_tokens, strict=True):
            self._metrics.queue_s.observe(now_s - self._sequences[sequence_id].arrived_s)
            self._sequences[sequence_id].cached_tokens = cached_tokens
        self._metrics.prefix_queries.inc(step.prefix_queried_tokens)
        self._metrics.prefix_hits.inc(step.prefix_hit_tokens)
        self._metrics.preemptions.inc(len(step.preempted))

    def _deliver(self, step: Step) -> None:
        result = self._scheduler.finish_step(step)
        now_s = self._clock()
        finished = set(result.finished)
        step_tokens = 0
        for sequence_id in result.produced:
            running = self._sequences[sequence_id]
            step_tokens += self._count_token(running, now_s)
            reason = None
            piece = ""
            if running.job.answer:
                piece = running.job.answer.pieces[running.produced - 1]
            if sequence_id in finished:
                reason = running.job.answer.finish_reason if running.job.answer else "stop"
                self._count_finished(running, reason, now_s)
                del self._sequences[sequence_id]
            running.events.put_nowait(Event(running.index, piece, reason))
        # Like vLLM: a step without output, inside a long prefill, is not counted; its tokens are with the first token.
        if result.produced:
            self._metrics.step_tokens.observe(step_tokens)

    def _count_token(self, running: _Running, now_s: float) -> int:
        """Count one token of a sequence; return the tokens that had to be computed for it."""
        running.produced += 1
        computed = 1 if running.job.answer else 0
        if running.produced == 1:
            running.first_s = now_s
            computed += running.job.prompt_tokens - running.cached_tokens
            self._metrics.prompt_tokens.inc(running.job.prompt_tokens)
            self._metrics.cached_prompt_tokens.inc(running.cached_tokens)
            self._metrics.first_token_s.observe(now_s - running.arrived_s)
        else:
            self._metrics.inter_token_s.observe(now_s - running.last_s)
        running.last_s = now_s
        if running.job.answer:
            self._metrics.generation_tokens.inc()
        return computed

    def _count_finished(self, running: _Running, reason: str, now_s: float) -> None:
        self._metrics.count_finished(reason)
        self._metrics.request_s.observe(now_s - running.arrived_s)
        if running.produced > 1:
            self._metrics.output_token_s.observe((now_s - running.first_s) / (running.produced - 1))
