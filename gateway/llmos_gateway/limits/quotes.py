"""How much a request reserves before it may go on, and when its reservation has to grow.

A request that says how long its answer may be reserves that: prompt + max_tokens, all or nothing. One that does not
say it is open ended:

    a stream          begins with `STEP_TOKENS` and reserves more as it goes on, so that it holds little that it does
                      not need, and may run out on its way
    a whole answer    reserves the prompt and the model's context, for the prompt may be shorter than the estimate, or
                      what is left if that is less; then the engine is told to stop there, for nobody could later

The number of prompt tokens is an estimate (`prompts`); the engine's own number replaces it at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmos_gateway.limits.terms import Terms

STEP_TOKENS: Final = 256
"""Tokens of each choice that an open stream reserves at once."""
MAX_ASKED: Final = 2**45
"""Nobody's answer takes 35 billion tokens; what is asked for stays so small that sums are exact."""
UNKNOWN_ANSWER_TOKENS: Final = 4096
"""Longest whole answer to reckon with where the model's context is not known."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What is asked of the ledger."""

    least: int
    """Less is of no use."""
    most: int
    step: int = 0
    """How much more is reserved at once as the answer goes on; 0 = it cannot go beyond `most`."""
    prompt: int = 0
    """What of it is for the prompt."""
    answer_token: int = 0
    """What one token of each choice counts; 0 where the answer is bounded already."""
    longest: int = 0
    """Tokens that the context surely has room for behind the prompt; an engine may refuse to be asked for more."""

    def find_cap(self, amount: int) -> int | None:
        """Return how long the answer may be with what was granted, None if nobody has to tell the engine."""
        if not self.answer_token or self.step or amount >= self.most:
            return None
        return max(1, min(self.longest, (amount - self.prompt) // self.answer_token))


def build_quote(
    terms: Terms,
    *,
    prompt_tokens: int,
    choices: int,
    answer_tokens: int | None,
    is_stream: bool,
    context_tokens: int = 0,
) -> Quote:
    """Return what a request reserves.

    Args:
        terms: what a token counts.
        prompt_tokens: an estimate.
        choices: answers, over all prompts.
        answer_tokens: the longest each answer may be; None = the request does not say.
        is_stream: whether it can be stopped on its way.
        context_tokens: longest prompt and answer of the model; 0 = unknown.
    """
    prompt = terms.weigh_ahead(prompt_tokens, 0)
    token = terms.weigh_ahead(0, choices)
    if answer_tokens is not None:
        bounded = min(answer_tokens, context_tokens) if context_tokens else answer_tokens
        amount = terms.weigh_ahead(prompt_tokens, bounded * choices)
        return _build(amount, amount, prompt=prompt)
    if is_stream:
        step = token * STEP_TOKENS
        return _build(prompt + token, prompt + step, step=step, prompt=prompt, answer_token=token)
    context = context_tokens or UNKNOWN_ANSWER_TOKENS
    longest = max(1, context - prompt_tokens) if context_tokens else context
    return _build(prompt + token, prompt + token * context, prompt=prompt, answer_token=token, longest=longest)


def _build(least: int, most: int, **parts: int) -> Quote:
    return Quote(min(least, MAX_ASKED), min(most, MAX_ASKED), **{name: min(n, MAX_ASKED) for name, n in parts.items()})
