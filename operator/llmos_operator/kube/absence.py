"""Which pools are known to have no pods at all.

Most first looks at a pool find none, and each would cost a list. But what is missing cannot be told by events, so it is
known from one list for all pools, and from then on by exclusion: whoever is told of a pod of a pool, or is about to
write one, takes the pool out (`touch`); a list that found none puts it back, if nothing touched the pool meanwhile.
Pods are made by this process only, so that a pool it has never touched cannot have any that it would miss.

The list is read again after `AGE_S`, because an event may be lost when a watch has to begin anew, and when this process
becomes the leader, because another one may have made pods before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from llmos.api.names import LABEL_POOL

AGE_S: Final = 300.0


class Owner(NamedTuple):
    """A pool, by its name."""

    namespace: str
    name: str


class Touched(set[Owner]):
    """Pools that something was told or written about while one list was under way."""

    is_void = False
    """Whether everything was forgotten meanwhile: the answer counts for nothing."""


class Absence:
    """The pools that have no pods. Used from one event loop.

    Args:
        clock: seconds, always growing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known_until_s = 0.0
        self._present: set[Owner] = set()
        self._lists: list[Touched] = []

    @property
    def is_known(self) -> bool:
        """Whether the list of all pools is young enough; if not, `learn` first."""
        return self._clock() < self._known_until_s

    def holds(self, owner: Owner) -> bool:
        """Whether a pool is known to have no pods."""
        return self.is_known and owner not in self._present

    def touch(self, owner: Owner | None) -> None:
        """An event told of a pod of the pool, or one is about to be written."""
        if owner is not None:
            self._present.add(owner)
            for touched in self._lists:
                touched.add(owner)

    @contextmanager
    def list(self) -> Iterator[Touched]:
        """Note what is touched while the block reads a list."""
        touched = Touched()
        self._lists.append(touched)
        try:
            yield touched
        finally:
            self._lists[:] = [other for other in self._lists if other is not touched]

    def learn(self, owners: Iterable[Owner], touched: Touched) -> None:
        """Take over a list of all pools that have pods."""
        if not touched.is_void:
            self._present = touched.union(owners)
            self._known_until_s = self._clock() + AGE_S

    def learn_none(self, owner: Owner, touched: Touched) -> None:
        """A list has shown that the pool has no pods."""
        if not touched.is_void and owner not in touched:
            self._present.discard(owner)

    def forget(self) -> None:
        """Another process may have made pods meanwhile."""
        self._known_until_s = 0.0
        self._present.clear()
        for touched in self._lists:
            touched.is_void = True


def owner_of(metadata: Mapping[str, Any]) -> Owner | None:
    """Return the pool that a pod's labels name."""
    name = (metadata.get("labels") or {}).get(LABEL_POOL)
    return Owner(metadata.get("namespace", ""), name) if name else None


def owner_in(namespace: str, label_selector: str) -> Owner | None:
    """Return the pool to whose pods a list is limited."""
    terms = dict(term.partition("=")[::2] for term in label_selector.split(","))
    name = terms.get(LABEL_POOL)
    return Owner(namespace, name) if namespace and name else None
