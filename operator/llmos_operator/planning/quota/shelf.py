"""Nodes of one class in order of what is free on them, so that the best fit is found without looking at every node.

Nodes with the same number of free accelerators lie in one compartment, sorted by name. A node has at most some dozen
accelerators, so a search looks at some dozen compartments, however many nodes there are.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator, Mapping

Allowed = Callable[[str], bool]

_LOOK_AT = 32
"""Nodes that are compared for how well a pool's replicas are spread; beyond that any is as good."""


def anywhere(_node: str) -> bool:
    """Allow every node."""
    return True


class Shelf:
    """Nodes by free accelerators."""

    def __init__(self) -> None:
        self._free: dict[str, int] = {}
        self._compartments: dict[int, list[str]] = {}
        self._most = 0

    def put(self, node: str, free: int) -> None:
        """Say how many accelerators are free on a node; less than none is none."""
        free = max(0, free)
        before = self._free.get(node)
        if before == free:
            return
        if before is not None:
            names = self._compartments[before]
            del names[bisect_left(names, node)]
        self._free[node] = free
        insort(self._compartments.setdefault(free, []), node)
        self._most = max(self._most, free)

    def most(self) -> int:
        """Most accelerators free on one node."""
        while self._most > 0 and not self._compartments.get(self._most):
            self._most -= 1
        return self._most

    def slots(self, per_pod: int) -> int:
        """Pods of so many accelerators that have room at the same time."""
        return sum(len(names) * (free // per_pod) for free, names in self._compartments.items())

    def best_fit(
        self, per_pod: int, *, allowed: Allowed, avoided: Collection[str], replicas: Mapping[str, int]
    ) -> str | None:
        """The node that has room for one pod and keeps least of it, None if there is none.

        Among equals the one with fewer of the same owner's `replicas`. Nodes in `avoided` come last.
        """
        last = None
        for free in range(per_pod, self.most() + 1):
            names = self._compartments.get(free)
            if not names:
                continue
            if not replicas and allowed is anywhere:
                return names[0]
            found = [name for name in _first(names, _LOOK_AT, allowed) if name not in avoided]
            if found:
                return min(found, key=lambda name: (replicas.get(name, 0), name)) if replicas else found[0]
            if avoided and last is None:
                last = next((name for name in names if name in avoided and allowed(name)), None)
        return last

    def fill(self, pods: int, per_pod: int, allowed: Allowed) -> tuple[str, ...] | None:
        """One node for each pod, on as few nodes as possible; the last pods go where they fit best."""
        chosen: list[str] = []
        for free in range(self.most(), per_pod - 1, -1):
            slots = free // per_pod
            for name in self._compartments.get(free, ()):
                if not allowed(name):
                    continue
                left = pods - len(chosen)
                if slots >= left:
                    return tuple(chosen + self._smallest(left, per_pod, frozenset(chosen), allowed))
                chosen += [name] * slots
        return None

    def _smallest(self, pods: int, per_pod: int, used: frozenset[str], allowed: Allowed) -> list[str]:
        """The unused node that has room for all these pods and keeps least of it; the caller knows there is one."""
        return next(
            [name] * pods
            for free in range(pods * per_pod, self.most() + 1)
            for name in self._compartments.get(free, ())
            if name not in used and allowed(name)
        )


def _first(names: list[str], most: int, allowed: Allowed) -> Iterator[str]:
    count = 0
    for name in names:
        if allowed(name):
            yield name
            count += 1
            if count == most:
                return
