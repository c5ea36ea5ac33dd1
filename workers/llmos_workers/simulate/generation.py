"""From a checked request to sequences for the engine, and from their tokens to the answer. No I/O."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from llmos_workers.simulate.engine import Event, Job
from llmos_workers.simulate.protocol import GenerateRequest, Json, Shape, build_bad_request, build_usage
from llmos_workers.simulate.tokens import (
    Answer,
    build_answer,
    compute_answer_tokens,
    compute_block_keys,
    compute_digest,
    split_tokens,
)

STREAM_END = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Generation:
    """What a request for text means: one job for each choice, and the shape of its answer."""

    shape: Shape
    request: GenerateRequest
    jobs: tuple[Job, ...]
    prompt_tokens: int
    head: Json

    def build_body(self, texts: Sequence[str], reasons: Sequence[str], completion_tokens: int) -> Json:
        """The whole answer."""
        choices = [
            self.shape.build_choice(index, text, reason)
            for index, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        usage = build_usage(self.prompt_tokens, completion_tokens)
        return {**self.head, "object": self.shape.kind, "choices": choices, "usage": usage}

    def build_opening(self) -> bytes:
        """What a stream sends before any token."""
        lines = []
        for index, job in enumerate(self.jobs):
            if choice := self.shape.build_first(index):
                usage = {"usage": build_usage(job.prompt_tokens, 0)} if self._counts_in_events else {}
                lines.append(self._build_line([choice], **usage))
        return b"".join(lines)

    def build_line(self, event: Event, choice_tokens: int) -> bytes:
        """One token as a server-sent event. `choice_tokens` counts those of its choice so far.

        As in vLLM the count in every event is that of the choice and of its own prompt, and comes only beside the
        usage at the end.
        """
        choice = self.shape.build_delta(event.index, event.piece, event.finish_reason)
        if not self._counts_in_events:
            return self._build_line([choice])
        prompt_tokens = self.jobs[event.index].prompt_tokens
        return self._build_line([choice], usage=build_usage(prompt_tokens, choice_tokens))

    @property
    def _counts_in_events(self) -> bool:
        options = self.request.stream_options
        return options.include_usage and options.continuous_usage_stats

    def build_ending(self, completion_tokens: int) -> bytes:
        """What a stream sends after the last token."""
        if not self.request.stream_options.include_usage:
            return STREAM_END
        return self._build_line([], usage=build_usage(self.prompt_tokens, completion_tokens)) + STREAM_END

    def _build_line(self, choices: Sequence[Json], **extra: Json) -> bytes:
        body = {**self.head, "object": self.shape.chunk_kind, "choices": choices, **extra}
        return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Planner:
    """Sizes and seed that turn requests into jobs."""

    seed: int
    mean_output_tokens: int
    max_model_len: int
    salt: str = ""
    """Requests of another salt share no cache with these."""

    def plan_generation(
        self,
        shape: Shape,
        request: GenerateRequest,
        prompts: Sequence[Sequence[str]],
        *,
        head: Json,
        default_max_tokens: int | None,
    ) -> Generation:
        """Jobs of a request: `n` for each prompt.

        With max_tokens the answer has exactly that many tokens (or what is left of the context), so that an experiment
        decides the load; without, it ends by itself after a length that the seed draws.

        Raises:
            ApiError: a prompt fills the context or is empty.
        """
        limit = request.max_tokens or default_max_tokens
        jobs = [self._plan_job(request, prompt, choice, limit) for prompt in prompts for choice in range(request.n)]
        return Generation(shape, request, tuple(jobs), sum(map(len, prompts)), head)

    def plan_embedding(self, inputs: Sequence[Sequence[str]]) -> list[Job]:
        """One job for each input.

        Raises:
            ApiError: an input is longer than the context.
        """
        for tokens in inputs:
            self._check_length(tokens)
        return [Job(len(tokens), compute_block_keys(tokens)) for tokens in inputs]

    def _plan_job(self, request: GenerateRequest, prompt: Sequence[str], choice: int, limit: int | None) -> Job:
        self._check_length(prompt)
        room = self.max_model_len - len(prompt)
        digest = compute_digest(prompt, self.seed, request.seed, choice)
        length = limit + 1 if limit else compute_answer_tokens(digest, self.mean_output_tokens)
        answer = build_answer(digest, length, limit=min(limit or room, room), stop=request.stop_strings)
        return Job(len(prompt), self._compute_keys(prompt, answer, f"{self.salt}{request.cache_salt}"), answer)

    def _compute_keys(self, prompt: Sequence[str], answer: Answer, salt: str) -> tuple[bytes, ...]:
        return compute_block_keys([*prompt, *answer.pieces], salt)

    def _check_length(self, prompt: Sequence[str]) -> None:
        if not prompt:
            raise build_bad_request("The prompt is empty: send at least one character.", "prompt")
        if len(prompt) >= self.max_model_len:
            raise build_bad_request(
                f"This model's maximum context length is {self.max_model_len} tokens. However, your prompt contains "
                f"{len(prompt)} input tokens, which exceeds this limit even without any output tokens. Please reduce "
                f"the length of the input prompt. (parameter=input_tokens, value={len(prompt)})",
                "input_tokens",
            )


def build_prompts(inputs: Sequence[str | list[int]]) -> list[list[str]]:
    """Tokens of prompts that are texts or lists of token ids."""
    return [split_tokens(item) if isinstance(item, str) else [f"#{token}" for token in item] for item in inputs]


def build_vector(tokens: Sequence[str], seed: int, size: int) -> array[float]:
    """The embedding of an input: a unit vector of `size` numbers that only depends on its tokens and the seed."""
    raw = hashlib.shake_128(compute_digest(tokens, seed)).digest(size)
    length = math.sqrt(sum((byte - 127.5) ** 2 for byte in raw))
    return array("f", ((byte - 127.5) / length for byte in raw))


def encode_vector(vector: array[float], encoding: str) -> str | list[float]:
    """A vector as JSON numbers ("float"), or as base64 of 32-bit floats ("base64")."""
    return base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()
