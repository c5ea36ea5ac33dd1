"""What reconciles and the autoscaler tell each other: pools that scale in one direction, decisions in the other.

A reconcile knows the pool and its replicas; the load task (`runtime/load.py`) knows the load. Each writes down what it
knows and reads what the other wrote; neither waits. All of it is in one event loop, and all of it can be lost: pools
are written again by their next reconcile, decisions begin anew from what status kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from llmos.api.scaling import ScalingStatus
from llmos_operator.planning.sampling import ScaledPool
from llmos_operator.reconcilers.keys import Key


def _tell_nobody(_key: Key) -> None:
    return None


class Board:
    """Pools with `scaling`, and the decisions about them.

    Attributes:
        on_forget: told the key of each pool that left.
    """

    def __init__(self) -> None:
        self.on_forget: Callable[[Key], None] = _tell_nobody
        self._pools: dict[Key, ScaledPool] = {}
        self._decisions: dict[Key, ScalingStatus] = {}

    @property
    def pools(self) -> Mapping[Key, ScaledPool]:
        """All pools that scale."""
        return MappingProxyType(self._pools)

    def publish(self, key: Key, pool: ScaledPool) -> None:
        """Write down a pool that scales."""
        self._pools[key] = pool

    def forget(self, key: Key) -> None:
        """Take a pool off that is gone or scales no longer."""
        self._decisions.pop(key, None)
        if self._pools.pop(key, None) is not None:
            self.on_forget(key)

    def decide(self, key: Key, decision: ScalingStatus) -> None:
        """Write down a decision; one about a pool that left meanwhile is dropped."""
        if key in self._pools:
            self._decisions[key] = decision

    def decision(self, key: Key) -> ScalingStatus | None:
        """Return the decision about a pool as it is to stand in status, None before the first one."""
        return self._decisions.get(key)

    def clear(self) -> None:
        """Forget everything: this process does not decide any more."""
        for key in tuple(self._pools):
            self.forget(key)
