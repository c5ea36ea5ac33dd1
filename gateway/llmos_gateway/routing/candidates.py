"""What a policy chooses from, as columns: the same position in each list is the same replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Candidates", "Policy", "Score"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The replicas that may get a request (at least one), and what speaks for each."""

    prompt_tokens: int
    """Estimated length of the prompt."""
    loads: Sequence[int]
    """Requests in flight on each replica, from this gateway and, as far as known, from others."""
    cached_tokens: Sequence[int]
    """Tokens of this prompt that each replica probably has in its cache."""
    queued_tokens: Sequence[int]
    """Prompt tokens that this gateway sent to each replica and whose prefill has not ended yet."""
    home: int | None = None
    """The replica that has this conversation by what gateways told each other, or that all would take for it where some
    do not tell; None where nobody knows it, and where this is the only gateway."""


Score: TypeAlias = tuple[float, ...]
"""Compared from left to right; the lowest is chosen, equal ones take turns."""

Policy: TypeAlias = Callable[[Candidates], Sequence[Score]]
"""A pure function: one score for each replica."""
