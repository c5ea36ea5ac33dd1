"""What gateways told of canaries that jobs follow. All of it may be lost at any time: gateways tell their totals anew.

A gateway that ended keeps what it told: its requests were made. What was counted at another share, or beside another
name, is not mixed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llmos.api.load import ArmLoad, CanaryLoad, GatewayLoad, Latencies
from llmos_operator.reconcilers.keys import Key

MOST_GATEWAYS: Final = 64
"""Lives of gateways that are told apart for one canary; those that were silent for longest are summed up."""
_ENDED: Final = ""


class CanaryBoard:
    """Canaries by pool (`namespace/name`) and adapter."""

    def __init__(self) -> None:
        self._followed: dict[Key, frozenset[tuple[str, str]]] = {}
        self._told: dict[tuple[str, str], dict[str, CanaryLoad]] = {}

    def clear(self) -> None:
        """Begin anew: those who follow say so again with their next pass."""
        self._followed.clear()
        self._told.clear()

    def is_needed(self) -> bool:
        """Whether any job follows a canary."""
        return bool(self._followed)

    def follow(self, key: Key, canaries: Iterable[tuple[str, str]]) -> None:
        """Note which canaries a job wants to know of."""
        self._followed[key] = frozenset(canaries)
        self._forget_others()

    def forget(self, key: Key) -> None:
        """A job wants to know of none any more."""
        if self._followed.pop(key, None) is not None:
            self._forget_others()

    def take(self, load: GatewayLoad) -> None:
        """A gateway tells."""
        for pool_id, name in frozenset().union(*self._followed.values()):
            pool = load.pools.get(pool_id)
            canary = pool.canaries.get(name) if pool is not None else None
            if canary is not None:
                _put(self._told.setdefault((pool_id, name), {}), load.boot, canary)

    def read(self, pool_id: str, name: str, replaces: str, weight: int) -> CanaryLoad:
        """Return what all gateways together counted of a canary at its present share."""
        total = CanaryLoad(replaces=replaces, weight=weight)
        for load in self._told.get((pool_id, name), {}).values():
            if (load.replaces, load.weight) == (replaces, weight):
                total = _add(total, load)
        return total

    def _forget_others(self) -> None:
        followed = frozenset().union(*self._followed.values())
        self._told = {canary: told for canary, told in self._told.items() if canary in followed}


def _put(told: dict[str, CanaryLoad], boot: str, load: CanaryLoad) -> None:
    before = told.pop(boot, None)
    if before is not None and _count(before) > _count(load) and _is_same(before, load):
        # An answer that was overtaken.
        load = before
    told[boot] = load
    while len(told) > MOST_GATEWAYS:
        silent = next(name for name in told if name != _ENDED)
        ended, more = told.pop(_ENDED, CanaryLoad()), told.pop(silent)
        told[_ENDED] = _add(ended, more) if _is_same(ended, more) else more


def _is_same(one: CanaryLoad, other: CanaryLoad) -> bool:
    return (one.replaces, one.weight) == (other.replaces, other.weight)


def _count(load: CanaryLoad) -> int:
    arms = (load.result, load.incumbent)
    return sum(arm.requests_total + arm.given_up_total for arm in arms)


def _add(one: CanaryLoad, other: CanaryLoad) -> CanaryLoad:
    return CanaryLoad(
        replaces=other.replaces,
        weight=other.weight,
        result=_add_arms(one.result, other.result),
        incumbent=_add_arms(one.incumbent, other.incumbent),
    )


def _add_arms(one: ArmLoad, other: ArmLoad) -> ArmLoad:
    return ArmLoad(
        requests_total=one.requests_total + other.requests_total,
        failed_total=one.failed_total + other.failed_total,
        given_up_total=one.given_up_total + other.given_up_total,
        ttft=_add_latencies(one.ttft, other.ttft),
        tpot=_add_latencies(one.tpot, other.tpot),
    )


def _add_latencies(one: Latencies, other: Latencies) -> Latencies:
    if len(one.counts) != len(other.counts):
        # A gateway of another version has other buckets; nothing can be said of both together.
        return one
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return Latencies(counts=counts, sum_s=one.sum_s + other.sum_s)
