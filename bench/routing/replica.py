"""A simulated engine: prefix cache of a bounded number of blocks, chunked prefill in order of arrival, batched decode.

One step of the engine takes

    step_s = base_s + chunk_tokens * prefill_token_s (if a prompt is being computed) + sequences * sequence_s

and in it the prompt at the head of the queue advances by chunk_tokens and each decoding sequence by one token. Between
two events these rates are constant, so that time is advanced from event to event instead of step by step.

Blocks behave as in vLLM: those of running requests cannot be evicted, the others form an LRU in which the end of a
prompt is evicted before its beginning; a prompt whose blocks do not fit waits, and all behind it. Room for the answer
is taken at the start. Answers are not cached, because the trace does not say which prompts contain them.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from bench.routing.trace import BLOCK_TOKENS, Request

__all__ = ["BlockCache", "Job", "Profile", "Replica"]

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Profile:
    """How fast one replica is."""

    base_s: float = 0.010
    prefill_token_s: float = 1 / 15_000
    sequence_s: float = 0.000_15
    chunk_tokens: int = 2048
    max_sequences: int = 256

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens per second while nothing is decoded."""
        return self.chunk_tokens / (self.base_s + self.chunk_tokens * self.prefill_token_s)


@dataclass(slots=True)
class Job:
    """One request on its way through a replica."""

    request: Request
    number: int
    replica: int
    sent_s: float
    cached_blocks: int = 0
    first_token_s: float = 0.0
    ended_s: float = 0.0
    token: object = None
    """What the policy wants to see again when the job advances."""

    @property
    def new_tokens(self) -> int:
        """Prompt tokens that are computed: at least the last one always is."""
        return max(1, self.request.input_tokens - self.cached_blocks * BLOCK_TOKENS)

    @property
    def output_blocks(self) -> int:
        """Blocks that the answer takes."""
        return -(-self.request.output_tokens // BLOCK_TOKENS)


class BlockCache:
    """The KV blocks of one replica."""

    def __init__(self, capacity_blocks: int) -> None:
        self._free = capacity_blocks
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def count_prefix(self, blocks: tuple[int, ...]) -> int:
        """Return how many blocks from the first on are there."""
        for count, block in enumerate(blocks):
            if block not in self._users and block not in self._idle:
                return count
        return len(blocks)

    def take(self, blocks: tuple[int, ...], private_blocks: int) -> bool:
        """Take the blocks of a request, evicting idle ones; return False and change nothing if they do not fit."""
        missing = sum(1 for block in blocks if block not in self._users and block not in self._idle)
        revived = sum(1 for block in blocks if block in self._idle)
        if missing + private_blocks > self._free + len(self._idle) - revived:
            return False
        for block in blocks:
            self._idle.pop(block, None)
            self._users[block] = self._users.get(block, 0) + 1
        self._free -= missing + private_blocks
        while self._free < 0:
            self._idle.popitem(last=False)
            self._free += 1
        return True

    def give_back(self, blocks: tuple[int, ...], private_blocks: int) -> None:
        """Let go of a request's blocks: they stay cached until others need the room."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._idle[block] = None
        self._free += private_blocks


@dataclass(slots=True)
class Replica:
    """One engine. Times are seconds since the start of the replay."""

    profile: Profile
    cache: BlockCache
    now_s: float = 0.0
    waiting: deque[Job] = field(default_factory=deque)
    prefilling: Job | None = None
    prefill_left: float = 0.0
    decoded: float = 0.0
    """Tokens that a sequence decoding since the start would have by now."""
    decoding: list[tuple[float, int, Job]] = field(default_factory=list)

    def add(self, job: Job, now_s: float) -> None:
        """Queue a request."""
        self._advance(now_s)
        self.waiting.append(job)
        self._start_next()

    def get_next_event_s(self) -> float:
        """Return when something will have ended if nothing arrives; infinity if the replica is idle."""
        step_s = self._step_s()
        ends = []
        if self.prefilling is not None:
            ends.append(self.prefill_left / self.profile.chunk_tokens * step_s)
        if self.decoding:
            ends.append((self.decoding[0][0] - self.decoded) * step_s)
        return self.now_s + max(0.0, min(ends)) if ends else float("inf")

    def run_until(self, now_s: float) -> tuple[list[Job], list[Job]]:
        """Advance to an event and return the jobs that got their first token, and those that ended."""
        self._advance(now_s)
        begun, ended = [], []
        if self.prefilling is not None and self.prefill_left <= _EPSILON * self.profile.chunk_tokens:
            job, self.prefilling = self.prefilling, None
            job.first_token_s = now_s
            begun.append(job)
            heapq.heappush(self.decoding, (self.decoded + job.request.output_tokens - 1, job.number, job))
        while self.decoding and self.decoding[0][0] <= self.decoded + _EPSILON * max(1.0, self.decoded):
            job = heapq.heappop(self.decoding)[2]
            job.ended_s = now_s
            self.cache.give_back(job.request.blocks, job.output_blocks)
            ended.append(job)
        self._start_next()
        return begun, ended

    def _step_s(self) -> float:
        chunk = self.profile.chunk_tokens if self.prefilling is not None else 0
        profile = self.profile
        return profile.base_s + chunk * profile.prefill_token_s + len(self.decoding) * profile.sequence_s

    def _advance(self, now_s: float) -> None:
        steps = (now_s - self.now_s) / self._step_s()
        self.decoded += steps
        self.prefill_left -= steps * self.profile.chunk_tokens
        self.now_s = now_s

    def _start_next(self) -> None:
        if self.prefilling is not None or not self.waiting or len(self.decoding) >= self.profile.max_sequences:
            return
        job = self.waiting[0]
        cached = self.cache.count_prefix(job.request.blocks)
        if not self.cache.take(job.request.blocks, job.output_blocks):
            return
        self.waiting.popleft()
        job.cached_blocks = cached
        self.prefilling, self.prefill_left = job, float(job.new_tokens)
