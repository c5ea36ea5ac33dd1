"""How old a list may be: not older than anything that this process wrote or was told.

A list that must hold the very last state makes the API server wait until its cache has caught up with the newest
revision of the whole store. For a kind that is quiet while others change that takes up to 100 ms (the interval at which
the cache asks etcd for progress), for each list. A reconcile does not need that much: a change that it misses comes as
an event, and has it run again. What it does need is to see its own writes, or it would take away a second replica
because it cannot see yet that it took away the first, and the change that an event has just told.

So versions of objects are noted when they are written and when they are told, and lists ask for "not older than" the
highest of them. As long as none is known, a list is exact. Versions are compared as numbers, which Kubernetes promises
for its own kinds; one that is no number makes the next list exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmos_operator.kube.resources import Resource


class Freshness:
    """The highest resource version known of each of some kinds.

    Args:
        kinds: only these are tracked; of all others `floor` knows nothing.
    """

    def __init__(self, *kinds: Resource) -> None:
        self._kinds = frozenset(kind.kind for kind in kinds)
        self._highest: dict[str, int] = {}
        self._exact: set[str] = set()

    def floor(self, kind: str) -> str:
        """Return the version that a list must not be older than; empty if it must be exact."""
        return str(self._highest[kind]) if kind in self._exact else ""

    def see_list(self, kind: str, metadata: Mapping[str, Any]) -> None:
        """Note the version of an exact list: from now on nothing older may be shown."""
        if kind in self._kinds and self._note(kind, metadata):
            self._exact.add(kind)

    def see(self, kind: str, metadata: Mapping[str, Any]) -> None:
        """Note the version of an object that was written, or that an event told."""
        if kind in self._kinds and not self._note(kind, metadata):
            self._exact.discard(kind)

    def doubt(self, kind: str) -> None:
        """Make the next list of a kind exact: a write may have reached the server, and at which version is unknown."""
        self._exact.discard(kind)

    def forget(self) -> None:
        """Make the next lists exact: another process may have written meanwhile."""
        self._exact.clear()

    def _note(self, kind: str, metadata: Mapping[str, Any]) -> bool:
        version = str(metadata.get("resourceVersion", ""))
        if not version.isdecimal():
            return False
        self._highest[kind] = max(self._highest.get(kind, 0), int(version))
        return True
