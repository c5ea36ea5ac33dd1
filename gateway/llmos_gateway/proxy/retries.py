"""When a request may be tried again, where, and after which pause. Only asked while the caller has seen nothing.

- Unreachable: nothing was sent, another try costs nothing. Another replica is tried at once. If none is left the
  request is held as if there were no replica, until another one comes, one can be reached again, or a pause that
  doubles has passed: a replica that died is listed until the cluster has noticed. The pool's hold limits say how long.
- Missing: the replica does not have the adapter, for example because it was restarted. The same as unreachable.
- Lost: the replica may have died of this very request, so it may cost at most `max_losses` replicas.
- Declined: each other replica is asked once; if none is left the caller gets the engine's own answer.

All tries but those that cost nothing together are bounded by `max_attempts`.
"""

from __future__ import annotations

import random
from collections.abc import Collection

from llmos_gateway.protocol.errors import BadGatewayError
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.proxy.upstream import DeclinedError, LostError, MissingError, ReplicaError, UnreachableError


class Retries:
    """What one request has tried."""

    __slots__ = ("_attempts", "_limits", "_losses", "_pauses", "avoided", "pause_s", "tried")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._attempts = 0
        self._losses = 0
        self._pauses = 0
        self.tried: set[str] = set()
        """Addresses that are left out of the next choice."""
        self.avoided: frozenset[str] = frozenset()
        """Addresses for which the request does not go on before its pause has passed."""
        self.pause_s = 0.0

    def may_go_on(self, failed: str, error: ReplicaError, present: Collection[str]) -> bool:
        """Whether the request is tried again, as `tried`, `avoided` and `pause_s` say.

        Args:
            failed: the address that was tried.
            error: what became of it.
            present: the addresses that are ready now.
        """
        self.tried.add(failed)
        self.avoided, self.pause_s = frozenset(), 0.0
        self._attempts += not isinstance(error, UnreachableError | MissingError)
        self._losses += isinstance(error, LostError)
        if self._attempts >= self._limits.max_attempts or self._losses > self._limits.max_losses:
            return False
        if any(address not in self.tried for address in present):
            return True
        if isinstance(error, DeclinedError):
            return False
        self.start_over()
        return True

    def start_over(self) -> None:
        """Let all replicas be tried again after a pause."""
        self.avoided = frozenset(self.tried)
        self.tried.clear()
        pause_s = min(self._limits.retry_pause_s * float(2**self._pauses), self._limits.max_retry_pause_s)
        # A pause at its longest does not grow, nor does what it is computed from.
        self._pauses += pause_s < self._limits.max_retry_pause_s
        # Requests that failed together must not come back together.
        self.pause_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing


def build_failure(pool_id: str) -> BadGatewayError:
    """Return what the caller of a request is told that was lost too often."""
    return BadGatewayError(
        f"The replica of {pool_id} that worked on this request was lost before it answered. Try again.",
        "replica_lost",
    )
