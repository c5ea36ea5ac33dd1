"""Where gangs stand and where they may go: the nodes of one class, now and when everybody who was asked to go is gone.

Each node is counted twice. `now` is what pods hold, pods that are ending included. `then` is what will be held when the
gangs that are stopping have gone and waiting gangs have taken what is reserved for them. A gang may start only where
both have room, so that it neither waits for a pod that is still there nor takes what is kept for another; room to
reclaim is looked for in `then` alone.

Where, among nodes with room:

- a gang of several pods goes into one fast-interconnect domain (the smallest that has room, so that large ones stay
  whole), on as few nodes as possible. Only if no domain could hold it even when empty does it span domains;
- a gang of one pod goes to the node on which least stays free, so that whole nodes stay free for gangs that need them;
- a pool's second replica does not join all the others on one node as long as another node has room: the failure of one
  node must not take the whole pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llmos_operator.planning.quota.shelf import Allowed, Shelf, anywhere
from llmos_operator.planning.quota.values import Gang, GangKind, Node, Placement

_NONE: Mapping[str, int] = {}


@dataclass(slots=True)
class _Place:
    node: Node
    total: int
    now: int = 0
    then: int = 0


class _View:
    """One of the two ways to count: all nodes together, and each domain of its own if there are several."""

    def __init__(self, domains: Iterable[str]) -> None:
        self.all = Shelf()
        names = sorted(set(domains))
        self.domains = {name: Shelf() for name in names} if len(names) > 1 else {}

    def put(self, node: Node, free: int) -> None:
        self.all.put(node.name, free)
        if self.domains:
            self.domains[node.domain].put(node.name, free)


class ClassRoom:
    """The nodes of one class. Mutable, for it follows every change of a holding."""

    def __init__(self, class_name: str, nodes: Iterable[Node]) -> None:
        self.class_name = class_name
        self._places = {node.name: _Place(node, max(0, node.accelerators - node.taken)) for node in nodes}
        domains = [place.node.domain for place in self._places.values()]
        self._now, self._then, self._empty = _View(domains), _View(domains), _View(domains)
        self._free_then = sum(place.total for place in self._places.values())
        self._largest_domain: dict[int, int] = {}
        """Most pods that an empty domain holds, by accelerators of a pod: at most one entry for each size of a pod."""
        for place in self._places.values():
            self._empty.put(place.node, place.total)
            self._put(place)

    def add(self, nodes: Iterable[str], accelerators: int, *, now: bool, then: bool) -> None:
        """Count so many accelerators as held on each of these nodes; negative ones as given back."""
        for name in nodes:
            place = self._places.get(name)
            # The node of a pod may be gone, or take no new pods: what is held there frees nothing for others.
            if place is None:
                continue
            if now:
                place.now += accelerators
            if then:
                self._free_then -= max(0, place.total - place.then)
                place.then += accelerators
                self._free_then += max(0, place.total - place.then)
            self._put(place)

    def has(self, nodes: Iterable[str]) -> bool:
        """Whether all these nodes exist."""
        return all(name in self._places for name in nodes)

    def fits(self, nodes: Iterable[str], per_pod: int) -> bool:
        """Whether these nodes have room for the pods when everybody who was asked to go is gone."""
        wanted: dict[str, int] = {}
        for name in nodes:
            wanted[name] = wanted.get(name, 0) + per_pod
        return self.has(wanted) and all(
            self._places[name].total - self._places[name].then >= count for name, count in wanted.items()
        )

    def find(self, gang: Gang, replicas: Mapping[str, int], *, then: bool = False) -> Placement | None:
        """A place for the gang, now or when everybody who was asked to go is gone; None if there is none."""
        return self._find(gang, replicas, self._then if then else self._now)

    def could_hold(self, gang: Gang) -> bool:
        """Whether the nodes could hold the gang if they were empty."""
        return self._find(gang, _NONE, self._empty) is not None

    def slots_beside(self, gang: Gang, held: Mapping[str, int]) -> int:
        """Pods of the gang that have room at the same time beside what is held on nodes."""
        allowed, per_pod = self._allowed(gang), gang.accelerators_per_pod
        return sum(
            max(0, place.total - held.get(name, 0)) // per_pod for name, place in self._places.items() if allowed(name)
        )

    def find_to_wait_for(self, gang: Gang) -> Placement | None:
        """The place that is likely to come free first: where most is free already."""
        found = self.find(gang, _NONE, then=True)
        if found is not None:
            return found
        allowed = self._allowed(gang)
        per_pod = gang.accelerators_per_pod
        places = [
            (place.total - place.then, place)
            for name, place in self._places.items()
            if place.total >= per_pod and allowed(name)
        ]
        if gang.pods > 1:
            places = self._of_best_domain(gang, places)
        places.sort(key=lambda item: (-item[0], item[1].node.name))
        chosen: list[str] = []
        for _, place in places:
            chosen += [place.node.name] * min(gang.pods - len(chosen), place.total // per_pod)
        return Placement(self.class_name, tuple(chosen)) if len(chosen) == gang.pods else None

    def largest_node(self) -> int:
        """Most accelerators of one node."""
        return self._empty.all.most()

    def most_free(self) -> int:
        """Most accelerators free on one node."""
        return self._now.all.most()

    def free_then(self) -> int:
        """Accelerators that nobody holds when everybody who was asked to go is gone."""
        return self._free_then

    def free(self) -> int:
        """Accelerators that no pod holds."""
        return sum(max(0, place.total - place.now) for place in self._places.values())

    def compute_fragmentation(self) -> float:
        """Part of the free accelerators that lie on nodes in use: 0 if all make whole nodes, 1 if none does."""
        free = self.free()
        whole = sum(place.total for place in self._places.values() if place.now <= 0 and place.node.taken <= 0)
        return 0.0 if free == 0 else 1.0 - min(free, whole) / free

    def _put(self, place: _Place) -> None:
        then = place.total - place.then
        self._now.put(place.node, min(place.total - place.now, then))
        self._then.put(place.node, then)

    def _find(self, gang: Gang, replicas: Mapping[str, int], view: _View) -> Placement | None:
        allowed = self._allowed(gang)
        per_pod = gang.accelerators_per_pod
        if view.all.most() < per_pod:
            return None
        if gang.pods > 1:
            nodes = self._find_for_many(gang, view, allowed)
            return None if nodes is None else Placement(self.class_name, nodes)
        # One node that holds all the pool's replicas is not joined by another one.
        avoided = tuple(replicas) if len(replicas) == 1 and gang.kind is not GangKind.JOB else ()
        node = view.all.best_fit(per_pod, allowed=allowed, avoided=avoided, replicas=replicas)
        return None if node is None else Placement(self.class_name, (node,))

    def _find_for_many(self, gang: Gang, view: _View, allowed: Allowed) -> tuple[str, ...] | None:
        pods, per_pod = gang.pods, gang.accelerators_per_pod
        if not view.domains or self._spans_domains(gang, allowed):
            return view.all.fill(pods, per_pod, allowed) if view.all.slots(per_pod) >= pods else None
        sized = [(slots, name) for name, shelf in view.domains.items() if (slots := shelf.slots(per_pod)) >= pods]
        for _, name in sorted(sized):
            nodes = view.domains[name].fill(pods, per_pod, allowed)
            if nodes is not None:
                return nodes
        return None

    def _spans_domains(self, gang: Gang, allowed: Allowed) -> bool:
        """Whether no domain could hold the gang even if it were empty."""
        pods, per_pod = gang.pods, gang.accelerators_per_pod
        if allowed is anywhere:
            if per_pod not in self._largest_domain:
                slots = (shelf.slots(per_pod) for shelf in self._empty.domains.values())
                self._largest_domain[per_pod] = max(slots)
            return self._largest_domain[per_pod] < pods
        return all(shelf.fill(pods, per_pod, allowed) is None for shelf in self._empty.domains.values())

    def _of_best_domain(self, gang: Gang, places: list[tuple[int, _Place]]) -> list[tuple[int, _Place]]:
        """The places in the domain that lacks least for the gang; all of them if it has to span domains."""
        if not self._empty.domains or self._spans_domains(gang, self._allowed(gang)):
            return places
        domains: dict[str, list[tuple[int, _Place]]] = {}
        for item in places:
            domains.setdefault(item[1].node.domain, []).append(item)
        per_pod = gang.accelerators_per_pod
        large = {
            name: sum(max(0, free) for free, _ in items)
            for name, items in domains.items()
            if sum(place.total // per_pod for _, place in items) >= gang.pods
        }
        return domains[min(large, key=lambda name: (-large[name], name))] if large else []

    def _allowed(self, gang: Gang) -> Allowed:
        selector = gang.node_selector
        if not selector:
            return anywhere
        return lambda name: selector <= self._places[name].node.labels
