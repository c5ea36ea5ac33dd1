"""When a request may be tried again, where, and after which pause. Only asked while the caller has seen nothing.

- Unreachable: nothing was sent. Up to `max_attempts`; another replica at once, one that was tried already after a pause
  that doubles. This bridges the second or two in which a replica is gone and still listed.
- Lost: the replica may have died of this very request, so it may cost at most `max_losses` replicas.
- Declined: each other replica is asked once; if none is left the caller gets the engine's own answer.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from llmos_gateway.protocol.errors import ApiError, BadGatewayError, UnavailableError
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.proxy.upstream import DeclinedError, LostError, ReplicaError

RETRY_AFTER_S = 2.0


class Retries:
    """What one request has tried."""

    __slots__ = ("_attempts", "_limits", "_losses", "_pauses", "tried")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._attempts = 0
        self._losses = 0
        self._pauses = 0
        self.tried: set[str] = set()
        """Addresses that are left out of the next choice."""

    def plan_pause_s(self, failed: str, error: ReplicaError, present: Collection[str]) -> float | None:
        """Return how long to wait before the next try, None if there is none.

        Args:
            failed: the address that was tried.
            error: what became of it.
            present: the addresses that are ready now.
        """
        self.tried.add(failed)
        self._attempts += 1
        self._losses += isinstance(error, LostError)
        is_spent = self._attempts >= self._limits.max_attempts or self._losses > self._limits.max_losses
        if is_spent:
            return None
        if any(address not in self.tried for address in present):
            return 0.0
        if isinstance(error, DeclinedError):
            return None
        return self.start_over()

    def start_over(self) -> float:
        """Let all replicas be tried again; return the pause before that."""
        self.tried.clear()
        pause_s = min(self._limits.retry_pause_s * float(2**self._pauses), self._limits.max_retry_pause_s)
        self._pauses += 1
        # Requests that failed together must not come back together.
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing


def build_failure(error: ReplicaError, pool_id: str) -> ApiError:
    """Return what the caller is told when nothing is tried any more."""
    if isinstance(error, LostError):
        return BadGatewayError(
            f"The replica of {pool_id} that worked on this request was lost before it answered. Try again.",
            "replica_lost",
        )
    return UnavailableError(
        f"No replica of {pool_id} can be reached. Try again in a moment.",
        "replica_unreachable",
        retry_after_s=RETRY_AFTER_S,
    )
