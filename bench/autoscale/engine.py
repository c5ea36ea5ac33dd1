"""One replica: an engine with continuous batching, chunked prefill and a paged KV cache, by events.

As vLLM's scheduler does: each step decodes one token of every running sequence, then spends what is left of the token
budget on prompts, in order of arrival; a prompt may take several steps. Each sequence holds blocks of 16 tokens; if a
sequence that decodes needs a block and none is free, the one that was admitted last loses its blocks, goes back to the
head of the queue, and is computed again. Steps with prompts are simulated one by one. While nothing but decoding is to
be done, the batch is the same in each step, so that many steps are one event, with their times in closed form:

    T(j) = j * (linear(n) + d * S) + d * n * j * (j - 1) / 2        after j steps, S tokens of context at first

An arrival that could be admitted cuts such a run at the end of the step it falls into.

All sequences that decode advance together, so a counter `K` of decoding steps says everything: a sequence that began at
`K0` with length `L` has length `L + K - K0` and ends at `K0 + remaining`. How many need a new block in a step follows
from the lengths modulo 16.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from bench.autoscale.profiles import BLOCK_TOKENS, Profile

WATERMARK = 0.01
"""Share of the blocks that admission leaves free, so that sequences can grow."""


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    first_token_s: float = math.nan
    finished_s: float = math.nan
    generated: int = 0
    """Tokens generated so far; up to date only while it does not decode."""
    preemptions: int = 0

    @property
    def ttft_s(self) -> float:
        """Time from arrival to the first token."""
        return self.first_token_s - self.arrived_s

    @property
    def tpot_s(self) -> float:
        """Mean time of the tokens after the first; 0 if there is none."""
        return (self.finished_s - self.first_token_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


@dataclass(slots=True, eq=False)
class Sequence:
    """A request that holds blocks."""

    request: Request
    target: int
    """Tokens to prefill: the prompt, and after a preemption what was generated before."""
    admitted: int
    """Number in the order of admission."""
    prefilled: int = 0
    offset: int = 0
    """Length less the counter of decoding steps, while it decodes."""
    ends: int = 0
    """Counter of decoding steps at which it ends."""


@dataclass(slots=True)
class _Step:
    """What the engine does now: one step with prompts, or a run of steps without."""

    begun_s: float
    end_s: float
    steps: int
    """Steps of the run; 1 with prompts."""
    chunks: list[tuple[Sequence, int]] = field(default_factory=list)


class Engine:
    """A replica's engine. The caller advances it at `next_s` and tells it of arrivals."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.free_blocks = profile.blocks
        self.waiting: deque[Request] = deque()
        self.prefilling: list[Sequence] = []
        self.decoding: list[tuple[int, int, Sequence]] = []
        """Heap by end; the number of admission breaks ties."""
        self.next_s = math.inf
        self.version = 0
        """Grows whenever `next_s` changes, so that events of before can be told."""
        self.steps_total = 0
        self.prompt_tokens_total = 0
        self.generation_tokens_total = 0
        self.preemptions_total = 0
        self._counter = 0
        self._offsets = 0
        """Sum of the offsets of sequences that decode."""
        self._residues = [0] * BLOCK_TOKENS
        """Sequences that decode by their offset modulo 16."""
        self._admitted = 0
        self._step: _Step | None = None
        self._watermark = max(1, int(profile.blocks * WATERMARK))

    @property
    def running(self) -> int:
        """Sequences that hold blocks."""
        return len(self.decoding) + len(self.prefilling)

    @property
    def kv_usage(self) -> float:
        """Share of the blocks in use; within a run as of its beginning."""
        return 1.0 - self.free_blocks / self.profile.blocks

    def count_steps_done(self, now_s: float) -> int:
        """Return the steps of the present run that ended by `now_s`, not yet in the totals."""
        step = self._step
        if step is None or step.chunks or now_s <= step.begun_s:
            return 0
        return min(step.steps, self._count_by(now_s - step.begun_s))

    def submit(self, request: Request, now_s: float) -> None:
        """Take a request in."""
        self.waiting.append(request)
        step = self._step
        if step is None:
            self._begin(now_s)
        elif not step.chunks and len(self.waiting) == 1 and self._can_admit():
            done = self._count_by(now_s - step.begun_s)
            if done + 1 < step.steps:
                step.steps = done + 1
                step.end_s = step.begun_s + self._compute_run_s(step.steps)
                self._set_next(step.end_s)

    def advance(self) -> list[Request]:
        """End the present step or run at `next_s`, begin the next, and return the requests that ended."""
        step = self._step
        assert step is not None, "advance() is called at next_s only"
        now_s, finished = step.end_s, []
        # A step with prompts decodes one token of every sequence, and so does each step of a run.
        self._decode(step.steps)
        while self.decoding and self.decoding[0][0] <= self._counter:
            sequence = heapq.heappop(self.decoding)[2]
            self._leave(sequence)
            finished.append(self._finish(sequence.request, now_s))
        for sequence, chunk in step.chunks:
            sequence.prefilled += chunk
            self.prompt_tokens_total += chunk
            if sequence.prefilled == sequence.target:
                self.prefilling.remove(sequence)
                self._begin_decoding(sequence, now_s, finished)
        self._begin(now_s)
        return finished

    def _decode(self, steps: int) -> None:
        if self.decoding:
            self.generation_tokens_total += len(self.decoding) * steps
        if not (self._step is not None and self._step.chunks):
            self.free_blocks -= self._count_new_blocks(steps)
        self._counter += steps
        self.steps_total += steps

    def _begin_decoding(self, sequence: Sequence, now_s: float, finished: list[Request]) -> None:
        """The last chunk of a prompt yields a token; the sequence decodes from the next step on."""
        request = sequence.request
        if math.isnan(request.first_token_s):
            request.first_token_s = now_s
        request.generated += 1
        self.generation_tokens_total += 1
        remaining = request.output_tokens - request.generated
        if remaining <= 0:
            self.free_blocks += _blocks(sequence.target)
            finished.append(self._finish(request, now_s))
            return
        sequence.offset = sequence.target - self._counter
        sequence.ends = self._counter + remaining
        self._offsets += sequence.offset
        self._residues[sequence.offset % BLOCK_TOKENS] += 1
        heapq.heappush(self.decoding, (sequence.ends, sequence.admitted, sequence))

    def _finish(self, request: Request, now_s: float) -> Request:
        request.generated = request.output_tokens
        request.finished_s = now_s
        return request

    def _leave(self, sequence: Sequence) -> None:
        """Free the blocks of a sequence that decoded."""
        self._offsets -= sequence.offset
        self._residues[sequence.offset % BLOCK_TOKENS] -= 1
        self.free_blocks += _blocks(sequence.offset + self._counter)

    def _begin(self, now_s: float) -> None:
        """Begin what is to be done next."""
        self._make_room_for_decoding()
        chunks = self._plan_chunks()
        while not chunks and not self.decoding and self.prefilling:
            # Prompts alone fill the cache: the one that came last makes room for the others.
            self._preempt(self.prefilling[-1])
            chunks = self._plan_chunks()
        if chunks:
            self.free_blocks -= self._count_new_blocks(1)
            self._step = _Step(now_s, now_s + self._compute_mixed_s(chunks), 1, chunks)
        elif self.decoding:
            steps = self._plan_run()
            self._step = _Step(now_s, now_s + self._compute_run_s(steps), steps)
        else:
            self._step = None
        self._set_next(self._step.end_s if self._step else math.inf)

    def _set_next(self, next_s: float) -> None:
        self.next_s = next_s
        self.version += 1

    def _make_room_for_decoding(self) -> None:
        while self._count_new_blocks(1) > self.free_blocks:
            last = max((entry[2] for entry in self.decoding), key=lambda sequence: sequence.admitted)
            if self.prefilling and self.prefilling[-1].admitted > last.admitted:
                last = self.prefilling[-1]
            self._preempt(last)

    def _preempt(self, sequence: Sequence) -> None:
        request = sequence.request
        if sequence in self.prefilling:
            self.prefilling.remove(sequence)
            self.free_blocks += _blocks(sequence.prefilled)
        else:
            self.decoding.remove((sequence.ends, sequence.admitted, sequence))
            heapq.heapify(self.decoding)
            self._leave(sequence)
            request.generated = request.output_tokens - (sequence.ends - self._counter)
        request.preemptions += 1
        self.preemptions_total += 1
        self.waiting.appendleft(request)

    def _can_admit(self) -> bool:
        return self.running < self.profile.max_sequences and self.free_blocks > self._watermark + len(self.decoding)

    def _plan_chunks(self) -> list[tuple[Sequence, int]]:
        """Choose the prompt tokens of the next step, and take their blocks."""
        chunks: list[tuple[Sequence, int]] = []
        if not self.prefilling and not self.waiting:
            return chunks
        budget = self.profile.max_batched_tokens - len(self.decoding)
        reserved = self._count_new_blocks(1)
        for sequence in self.prefilling:
            budget = self._add_chunk(chunks, sequence, budget, self.free_blocks - reserved)
        while budget > 0 and self.waiting and self._can_admit():
            request = self.waiting[0]
            sequence = Sequence(request, request.prompt_tokens + request.generated, self._admitted)
            left = self._add_chunk(
                chunks, sequence, budget, self.free_blocks - reserved - self._watermark - len(self.decoding)
            )
            if left == budget:
                break
            budget = left
            self.waiting.popleft()
            self._admitted += 1
            self.prefilling.append(sequence)
        return chunks

    def _add_chunk(self, chunks: list[tuple[Sequence, int]], sequence: Sequence, budget: int, free: int) -> int:
        """Add a chunk of `sequence` if it has blocks; return the budget that is left."""
        chunk = min(sequence.target - sequence.prefilled, budget)
        new_blocks = _blocks(sequence.prefilled + chunk) - _blocks(sequence.prefilled)
        if chunk <= 0 or new_blocks > free:
            return budget
        self.free_blocks -= new_blocks
        chunks.append((sequence, chunk))
        return budget - chunk

    def _count_new_blocks(self, steps: int) -> int:
        """Return the blocks that sequences need to decode `steps` more tokens each."""
        if not self.decoding:
            return 0
        full, rest = divmod(steps, BLOCK_TOKENS)
        first = -self._counter
        return len(self.decoding) * full + sum(self._residues[(first - i) % BLOCK_TOKENS] for i in range(rest))

    def _plan_run(self) -> int:
        """Return how many steps can be taken with this very batch."""
        steps = self.decoding[0][0] - self._counter
        by_blocks = self.free_blocks // len(self.decoding) * BLOCK_TOKENS
        return min(steps, by_blocks) if by_blocks else 1

    def _compute_mixed_s(self, chunks: list[tuple[Sequence, int]]) -> float:
        profile, decoding = self.profile, len(self.decoding)
        tokens = decoding + sum(chunk for _, chunk in chunks)
        pairs = sum(chunk * (sequence.prefilled + chunk / 2) for sequence, chunk in chunks)
        context = self._offsets + decoding * self._counter
        return profile.compute_linear_s(tokens) + profile.context_token_s * context + profile.pair_s * pairs

    def _run_coefficients(self) -> tuple[float, float]:
        """Return A and B of T(j) = A j^2 + B j."""
        count, profile = len(self.decoding), self.profile
        growing = profile.context_token_s * count / 2
        context = self._offsets + count * self._counter
        return growing, profile.compute_linear_s(count) + profile.context_token_s * context - growing

    def _compute_run_s(self, steps: int) -> float:
        growing, constant = self._run_coefficients()
        return growing * steps**2 + constant * steps

    def _count_by(self, elapsed_s: float) -> int:
        """Return how many steps of a run end within `elapsed_s`."""
        growing, constant = self._run_coefficients()
        # The root in a form without cancellation.
        return int(2 * elapsed_s / (constant + math.sqrt(constant**2 + 4 * growing * elapsed_s)))


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
