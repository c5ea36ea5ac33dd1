"""Which pods there are, by pool, job and gang, kept from look to look. Pure but for what it remembers.

The ledger looks at all pods many times a second, and of thousands few change from one look to the next. A pod that did
not change is the same object as in the last look, so what changed is found by identity alone, and only that is sorted
in anew. What is handed out stays as it is: where a gang or a pool has other pods, it has another list or mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from llmos.api.names import ANNOTATION_QUOTA, LABEL_POOL, LABEL_REPLICA
from llmos_operator.planning.quota import Swap
from llmos_operator.planning.quota_jobs import is_train_pod
from llmos_operator.planning.quota_pods import is_gated, read_labels, read_node, read_order
from llmos_operator.planning.quota_record import read_record

JsonObject = Mapping[str, Any]
Members = Sequence[JsonObject]
"""Pods of one gang, by rank."""
K = TypeVar("K")
Place = tuple[str, str]
"""Namespace and name of a pool, or of a replica."""


class Roster:
    """All pods that may hold accelerators.

    Attributes:
        gangs: pods of pools and jobs by the id of their gang: those about which something may be decided.
        unfinished: those of them whose leader bears a record of the ledger and of which a pod waits at a gate: one was
            admitted and not released in full, unless its record says less.
        pools: pods that say which replica they are, by pool and replica. The pool may not exist.
        attempts: pods of jobs, by namespace and name of the attempt.
        loose: pods on a node that are in no gang, in no order.
    """

    def __init__(self, pods: Iterable[JsonObject] = ()) -> None:
        self._clear()
        self.follow(pods)

    def _clear(self) -> None:
        self.gangs: dict[str, Members] = {}
        self.unfinished: dict[str, Members] = {}
        self.pools: dict[Place, Mapping[str, Members]] = {}
        self.attempts: dict[Place, Members] = {}
        self._pods: dict[int, JsonObject] = {}
        """By identity: as long as a pod is here, no other object can have the same."""
        self._loose: dict[int, JsonObject] = {}
        self._swaps: dict[int, tuple[Swap, ...]] = {}
        self._own: dict[Place, dict[str, Members]] = {}
        """Mappings of pools that were made in this look and not handed out yet."""

    @property
    def loose(self) -> Iterable[JsonObject]:
        return self._loose.values()

    def follow(self, pods: Iterable[JsonObject]) -> None:
        """Take all pods as they are now."""
        before, now = self._pods, {id(pod): pod for pod in pods}
        try:
            for known in before.keys() - now.keys():
                self._remove(before[known])
            for new in now.keys() - before.keys():
                self._add(now[new])
        except BaseException:
            self._clear()  # Half of a change must not be taken for all of it.
            raise
        self._pods, self._own = now, {}

    def find_pods(self, gang_id: str) -> Members:
        """Return the pods of a gang, also of one about which nothing is decided: they do not say of which pool."""
        if gang_id in self.gangs:
            return self.gangs[gang_id]
        namespace, _, replica = gang_id.partition("/")
        return self.pools.get((namespace, ""), {}).get(replica, ())

    def find_swaps(self) -> Iterator[Swap]:
        """Return who was asked to go for whom, as the records of those tell for whom it was."""
        for swaps in self._swaps.values():
            yield from swaps

    def _add(self, pod: JsonObject) -> None:
        if swaps := read_record(pod["metadata"]).swaps:
            self._swaps[id(pod)] = swaps
        gang_id, pool, attempt = _read_places(pod)
        if gang_id is not None:
            self._set_gang(gang_id, _with(self.gangs.get(gang_id, ()), pod))
        elif read_node(pod):
            self._loose[id(pod)] = pod
        if attempt is not None:
            self.attempts[attempt] = _with(self.attempts.get(attempt, ()), pod)
        if pool is not None:
            replicas, replica = self._own_replicas(pool), read_labels(pod)[LABEL_REPLICA]
            replicas[replica] = _with(replicas.get(replica, ()), pod)

    def _remove(self, pod: JsonObject) -> None:
        self._swaps.pop(id(pod), None)
        self._loose.pop(id(pod), None)
        gang_id, pool, attempt = _read_places(pod)
        if gang_id is not None:
            self._set_gang(gang_id, _without(self.gangs[gang_id], pod))
        if attempt is not None:
            _set(self.attempts, attempt, _without(self.attempts[attempt], pod))
        if pool is not None:
            replicas, replica = self._own_replicas(pool), read_labels(pod)[LABEL_REPLICA]
            _set(replicas, replica, _without(replicas[replica], pod))
            if not replicas:
                del self.pools[pool], self._own[pool]

    def _set_gang(self, gang_id: str, members: Members) -> None:
        _set(self.gangs, gang_id, members)
        if members and _has_record(members[0]) and any(map(is_gated, members)):
            self.unfinished[gang_id] = members
        else:
            self.unfinished.pop(gang_id, None)

    def _own_replicas(self, pool: Place) -> dict[str, Members]:
        if pool not in self._own:
            self._own[pool] = dict(self.pools.get(pool, {}))
            self.pools[pool] = self._own[pool]
        return self._own[pool]


def _read_places(pod: JsonObject) -> tuple[str | None, Place | None, Place | None]:
    """Return where a pod belongs: the id of its gang, its pool, its attempt; None where it belongs to none."""
    labels, namespace = read_labels(pod), pod["metadata"]["namespace"]
    replica = labels.get(LABEL_REPLICA)
    if replica is None:
        return None, None, None
    gang_id = f"{namespace}/{replica}"
    if is_train_pod(pod):
        return gang_id, None, (namespace, replica)
    pool = labels.get(LABEL_POOL)
    return (gang_id if pool is not None else None), (namespace, pool or ""), None


def _has_record(pod: JsonObject) -> bool:
    return ANNOTATION_QUOTA in (pod["metadata"].get("annotations") or ())


def _with(members: Members, pod: JsonObject) -> Members:
    return tuple(sorted((*members, pod), key=read_order)) if members else (pod,)


def _without(members: Members, pod: JsonObject) -> Members:
    return tuple(each for each in members if each is not pod)


def _set(groups: dict[K, Members], key: K, members: Members) -> None:
    if members:
        groups[key] = members
    else:
        del groups[key]
