"""Continuous batching over a paged KV cache: what one engine step computes, and how long that takes.

The rules are those of vLLM's V1 scheduler. A step has a budget of tokens. Running sequences come first, in the order
of their arrival: one token each when decoding, as much of the rest of the prompt as the budget holds when prefilling.
Then waiting sequences are admitted while the budget, the number of sequences and the free KV blocks allow; what the
prefix cache still holds of their prompts is not computed again. A running sequence that finds no free block preempts
the one admitted last, which gives up its blocks and computes them again later.

Time of a step, in seconds:

    (decode_step_ms + decode_step_ms_per_seq * decoding sequences) / 1000 + prefill tokens / prefill_tokens_per_s

Decoding reads all weights once a step whatever the batch (the constant) and each sequence's KV cache (the slope);
prefill is bound by arithmetic, so its cost grows with its tokens.

The module knows no clock, no event loop and no randomness: equal calls give equal steps. Every sequence finishes, for
a sequence alone always fits (`Limits` refuses anything else) and the oldest running one is never preempted by others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmos_workers.simulate.blocks import BlockPool
from llmos_workers.simulate.tokens import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that bound a step. Raises ValueError where a sequence of full length could never run."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    kv_blocks: int

    def __post_init__(self) -> None:
        if min(self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len, self.kv_blocks) < 1:
            raise ValueError("max_num_seqs, max_num_batched_tokens, max_model_len and kv_blocks must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be greater than or equal to "
                f"max_num_seqs ({self.max_num_seqs})."
            )
        if self.kv_blocks * BLOCK_TOKENS < self.max_model_len:
            raise ValueError(f"{self.kv_blocks} KV blocks do not hold {self.max_model_len} tokens")


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast the imagined accelerator is."""

    prefill_tokens_per_s: float
    decode_step_ms: float
    decode_step_ms_per_seq: float

    def compute_step_s(self, prefill_tokens: int, decode_sequences: int) -> float:
        """Seconds that a step takes; see the module's docstring."""
        decode_ms = self.decode_step_ms + self.decode_step_ms_per_seq * decode_sequences
        return decode_ms / 1000 + prefill_tokens / self.prefill_tokens_per_s


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence to serve: sizes in tokens, and a key for the content of each full block of prompt and output."""

    id: int
    prompt_tokens: int
    output_tokens: int
    block_keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens that a step computes for one sequence."""

    id: int
    tokens: int
    is_prefill: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What one step computes. `admitted` and `preempted` name sequences that started or lost their place in it."""

    chunks: tuple[Chunk, ...]
    admitted: tuple[int, ...]
    preempted: tuple[int, ...]
    prefix_queried_tokens: int
    cached_tokens: tuple[int, ...]
    """Prompt tokens that the prefix cache held, for each of `admitted`."""

    @property
    def prefix_hit_tokens(self) -> int:
        """Prompt tokens that the prefix cache held."""
        return sum(self.cached_tokens)

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that the step computes."""
        return sum(chunk.tokens for chunk in self.chunks if chunk.is_prefill)

    @property
    def decode_sequences(self) -> int:
        """Sequences that the step decodes."""
        return sum(not chunk.is_prefill for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Sequences that got one more token, and those of them that are complete."""

    produced: tuple[int, ...]
    finished: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Sequence:
    work: Work
    blocks: list[int] = field(default_factory=list)
    computed_tokens: int = 0
    produced_tokens: int = 0
    was_admitted: bool = False

    @property
    def known_tokens(self) -> int:
        return self.work.prompt_tokens + self.produced_tokens

    @property
    def missing_tokens(self) -> int:
        return self.known_tokens - self.computed_tokens

    @property
    def is_prefilling(self) -> bool:
        return self.missing_tokens > 1 or self.produced_tokens == 0


class Scheduler:
    """State of the engine. Call `begin_step`, let its time pass, call `finish_step`; add and abort at any moment."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = BlockPool(limits.kv_blocks)
        self._sequences: dict[int, _Sequence] = {}
        self._running: list[_Sequence] = []
        self._waiting: deque[_Sequence] = deque()

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place in the batch."""
        return len(self._waiting)

    @property
    def kv_usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return self._pool.usage

    @property
    def free_blocks(self) -> int:
        """KV blocks that no sequence refers to."""
        return self._pool.free

    def add(self, work: Work) -> None:
        """Queue a sequence.

        Raises:
            ValueError: it could never finish within `max_model_len`, produces nothing, or its id is taken.
        """
        if work.id in self._sequences:
            raise ValueError(f"sequence {work.id} is being served already")
        if work.prompt_tokens < 1 or work.output_tokens < 1:
            raise ValueError("a sequence has at least one prompt token and one output token")
        if work.prompt_tokens + work.output_tokens > self._limits.max_model_len:
            raise ValueError(f"prompt and output are longer than {self._limits.max_model_len} tokens")
        sequence = _Sequence(work)
        self._sequences[work.id] = sequence
        self._waiting.append(sequence)

    def abort(self, sequence_id: int) -> bool:
        """Forget a sequence and free its blocks. False if it is not being served (any more)."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return False
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._pool.release(sequence.blocks)
        return True

    def begin_step(self) -> Step:
        """Choose what the next step computes and reserve the KV blocks for it."""
        chunks: list[Chunk] = []
        preempted: list[int] = []
        budget = self._schedule_running(self._limits.max_num_batched_tokens, chunks, preempted)
        if preempted:
            return Step(tuple(chunks), (), tuple(preempted), 0, ())
        return self._admit_waiting(budget, chunks)

    def finish_step(self, step: Step) -> StepResult:
        """Book what the step computed. Sequences aborted in the meantime are left out."""
        produced: list[int] = []
        finished: list[int] = []
        for chunk in step.chunks:
            sequence = self._sequences.get(chunk.id)
            if sequence is None:
                continue
            self._book_computed(sequence, chunk.tokens)
            if sequence.missing_tokens:
                continue
            sequence.produced_tokens += 1
            produced.append(chunk.id)
            if sequence.produced_tokens == sequence.work.output_tokens:
                finished.append(chunk.id)
                self.abort(chunk.id)
        return StepResult(tuple(produced), tuple(finished))

    def _schedule_running(self, budget: int, chunks: list[Chunk], preempted: list[int]) -> int:
        index = 0
        while index < len(self._running) and budget > 0:
            sequence = self._running[index]
            tokens = min(sequence.missing_tokens, budget)
            while not self._reserve(sequence, tokens):
                victim = self._preempt_last()
                preempted.append(victim.work.id)
                if victim is sequence:
                    return budget
            chunks.append(Chunk(sequence.work.id, tokens, sequence.is_prefilling))
            budget -= tokens
            index += 1
        return budget

    def _admit_waiting(self, budget: int, chunks: list[Chunk]) -> Step:
        admitted: list[int] = []
        cached_tokens: list[int] = []
        queried = 0
        while self._waiting and budget > 0 and len(self._running) < self._limits.max_num_seqs:
            sequence = self._waiting[0]
            cached = self._find_cached(sequence)
            tokens = min(sequence.known_tokens - len(cached) * BLOCK_TOKENS, budget)
            if not self._reserve(sequence, tokens, cached):
                break
            self._running.append(self._waiting.popleft())
            chunks.append(Chunk(sequence.work.id, tokens, sequence.is_prefilling))
            budget -= tokens
            if not sequence.was_admitted:
                sequence.was_admitted = True
                admitted.append(sequence.work.id)
                queried += sequence.work.prompt_tokens
                cached_tokens.append(len(cached) * BLOCK_TOKENS)
        return Step(tuple(chunks), tuple(admitted), (), queried, tuple(cached_tokens))

    def _find_cached(self, sequence: _Sequence) -> list[int]:
        # The last token is always computed, for its output is the next token.
        usable = (sequence.known_tokens - 1) // BLOCK_TOKENS
        return self._pool.find_prefix(sequence.work.block_keys[:usable])

    def _reserve(self, sequence: _Sequence, tokens: int, cached: Sequence[int] = ()) -> bool:
        computed = sequence.computed_tokens + len(cached) * BLOCK_TOKENS
        needed = -(-(computed + tokens) // BLOCK_TOKENS) - len(sequence.blocks) - len(cached)
        woken = sum(self._pool.is_free(block) for block in cached)
        if needed + woken > self._pool.free:
            return False
        self._pool.take(cached)
        sequence.blocks += [*cached, *self._pool.allocate(max(0, needed))]
        sequence.computed_tokens = computed
        return True

    def _preempt_last(self) -> _Sequence:
        victim = self._running.pop()
        self._pool.release(victim.blocks)
        victim.blocks = []
        victim.computed_tokens = 0
        self._waiting.appendleft(victim)
        return victim

    def _book_computed(self, sequence: _Sequence, tokens: int) -> None:
        before = sequence.computed_tokens // BLOCK_TOKENS
        sequence.computed_tokens += tokens
        after = sequence.computed_tokens // BLOCK_TOKENS
        keys = sequence.work.block_keys
        for index in range(before, min(after, len(keys))):
            self._pool.name(sequence.blocks[index], keys[index])
