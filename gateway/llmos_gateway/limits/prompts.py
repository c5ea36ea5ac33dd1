"""How many tokens to reserve for a prompt that only its engine can count.

The gateway's estimate is the prompt's bytes over 4. A model's tokenizer may make more of it (code, digits, some
languages), and its chat template adds to it. What is reserved too little is charged at the end, beyond a limit if it
was the last; so for each pool the reservation follows the worst that was seen lately:

    reserved = (estimate + 16) x factor       factor = counted / (estimate + 16), at once where that is more,
                                                       a fiftieth of the way back where it is less; from 1 to 4

What is far beyond that (images) is no matter of a tokenizer, and says nothing about the next prompt.
"""

from __future__ import annotations

import math
from typing import Final

TEMPLATE_TOKENS: Final = 16
FIRST_FACTOR: Final = 1.25
LARGEST_FACTOR: Final = 4.0
_BACK: Final = 0.02
MAX_POOLS: Final = 10_000


class PromptFactors:
    """What was seen of each pool's prompts."""

    def __init__(self) -> None:
        self._factors: dict[str, float] = {}

    def scale(self, pool_id: str, estimate: int) -> int:
        """Return the tokens to reserve for a prompt."""
        return math.ceil((estimate + TEMPLATE_TOKENS) * self._factors.get(pool_id, FIRST_FACTOR))

    def learn(self, pool_id: str, estimate: int, counted: int) -> None:
        """Take in what the engine counted for a prompt that was estimated so."""
        seen = counted / (estimate + TEMPLATE_TOKENS)
        if not counted or seen > LARGEST_FACTOR:
            return
        factor = self._factors.pop(pool_id, FIRST_FACTOR)
        seen = max(1.0, seen)
        if len(self._factors) >= MAX_POOLS:
            # The pool that was seen longest ago: each one is put at the end.
            del self._factors[next(iter(self._factors))]
        self._factors[pool_id] = seen if seen > factor else factor - (factor - seen) * _BACK
