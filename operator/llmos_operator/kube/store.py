"""The bodies of objects that this process knows, and when they are good enough to act on.

The watches bring every change of our own objects and of our pods with its body, and of Services the metadata. A
reconcile that asked the API server for all of that again would spend most of its time on answers that it has. So they
are remembered, under one rule:

    what is remembered is not older than anything that this process wrote or was told.

It is a weaker promise than asking, and enough for a level-triggered reconcile: a change that it cannot see yet comes as
an event, and has it run again. Versions, which grow with every change, keep the rule:

- A body counts while no higher version of its object was told. An event with a body replaces it; one with metadata
  only, or of a deletion, removes it.
- An answer is remembered unless something newer was told or written while the request was under way.
- After a write whose outcome is unknown its object is in doubt: nothing that events tell is believed, until a request
  that began later was answered. After the deletion of one by its uid all that is in doubt is whether it still exists,
  and the event of its end tells that: a uid never comes again.
- Absence of a single object is never remembered: what is not known is asked for. But once all objects of a kind whose
  events bring bodies were listed, all of them are known, unless one was told of or doubted whose body is missing.
- Another process may have written while this one was not the leader: then everything is forgotten, all objects of such
  kinds are listed anew, and events count from the version of that list on.

Events may be lost when a watch has to begin anew. For our own kinds the watch check finds that out; pods are forgotten
then, and at the latest after `AGE_S`; a Service is not believed for longer. Bodies are kept as JSON: a third of the
size, and nobody can change them.
"""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from llmos.api.names import (
    COMPONENT_PREPARE,
    COMPONENT_TIDY,
    COMPONENT_TRAIN,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    MANAGED_BY,
)
from llmos_operator.kube.client import Object, Objects, View
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    LLM_MODELS,
    PODS,
    SERVICES,
    TENANTS,
)

OWN_KINDS: Final = frozenset(
    {INFERENCE_POOLS.kind, LLM_MODELS.kind, ACCELERATOR_CLASSES.kind, TENANTS.kind, FINE_TUNE_JOBS.kind}
)
TOLD_KINDS: Final = OWN_KINDS | {PODS.kind}
"""Their events bring bodies."""
OWNER_LABELS: Final = (LABEL_POOL, LABEL_JOB)
"""Whose a pod is."""
CHILD_KINDS: Final = frozenset({SERVICES.kind})
"""Their events bring metadata; bodies come with answers."""
AGE_S: Final = 300.0
LIMIT_BYTES: Final = 64 * 1024**2
"""Of all bodies together; what was not asked for longest goes first. A pool takes about 3 KiB, a pod about 8."""


class Place(NamedTuple):
    """Where an object is."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, kind: str, metadata: Mapping[str, Any]) -> Place:
        """Return the place that an object's metadata names."""
        return cls(kind, metadata.get("namespace", ""), metadata["name"])


class Owner(NamedTuple):
    """Whose pods are: a pool's or a job's, with parts left empty anybody's; of a pod in doubt, one that is unknown."""

    namespace: str
    label: str = ""
    name: str = ""

    def covers(self, other: Owner) -> bool:
        """Whether the other is meant by this."""
        return all(mine in ("", its) for mine, its in zip(self, other, strict=True))

    def may_cover(self, other: Owner) -> bool:
        """The same where the other's name may not be known."""
        return self.covers(other) or (not other.name and self.namespace in ("", other.namespace))


ANYBODY: Final = Owner("")


class Told(dict[Place, float]):
    """The highest version of each object that was told or written while one request was under way."""

    is_void = False
    """Whether everything was forgotten meanwhile: the answer must not be remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: set[str] = set()
        """Uids of objects whose end was told meanwhile."""


@dataclass(slots=True)
class _Body:
    version: int
    data: bytes
    learnt_s: float
    owner: Owner


@dataclass(slots=True)
class _Shown:
    """What a view shows of all pods, in no order."""

    view: View
    pods: dict[Place, Object]
    left: set[Place]
    """Pods that came or changed since they were shown last."""


class Store:
    """Bodies by place. Used from one event loop.

    Args:
        clock: seconds, always growing.
        limit_bytes: limit of the sum of all bodies.
    """

    def __init__(self, clock: Callable[[], float], *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._bodies: OrderedDict[Place, _Body] = OrderedDict()
        self._places: defaultdict[str, set[Place]] = defaultdict(set)
        """Of the bodies, by kind: most lists are of kinds with a few objects."""
        self._pods: dict[Owner, set[Place]] = {}
        self._shown: _Shown | None = None
        """One is kept: there is one reader that looks at all pods all the time."""
        self._doubted: dict[Place, str] = {}
        """With the uid if only the end of that object is in doubt."""
        self._missing: defaultdict[str, dict[Place, Owner]] = defaultdict(dict)
        """Objects of told kinds that may exist and whose bodies are not known; of pods also whose they were."""
        self._listed: dict[str, tuple[float, float]] = {}
        """Versions of the lists of all objects of a kind, and when they were read."""
        self._requests: list[Told] = []

    def see(self, kind: str, event_type: str | None, item: Mapping[str, Any]) -> None:
        """Take note of what an event tells."""
        if not is_kept(kind):
            return
        place, version = Place.of(kind, item["metadata"]), _read_version(item)
        if version is None:
            self.doubt(place)
            return
        self._note(place, version)
        known = self._bodies.get(place)
        is_gone = event_type == "DELETED"
        if is_gone and (uid := item["metadata"].get("uid")):
            self._end(place, uid)
        if known is not None and (known.version > version or (known.version == version and not is_gone)):
            return
        self._drop(place)
        if kind not in TOLD_KINDS:
            return
        is_news = version > self._listed.get(kind, (math.inf,))[0]
        is_gone = is_gone or not _is_watched(kind, item["metadata"])
        if is_news and not is_gone and place not in self._doubted:
            self._put(place, version, item)
        elif not is_gone:
            self._missing[kind][place] = find_owner(place, item["metadata"])
        elif place not in self._doubted:
            self._missing[kind].pop(place, None)

    def get(self, place: Place) -> Object | None:
        """Return a body that may be acted on; None if the API server must be asked."""
        known = self._bodies.get(place)
        if known is None:
            return None
        if place.kind in CHILD_KINDS and self._clock() - known.learnt_s > AGE_S:
            self._drop(place)
            return None
        self._bodies.move_to_end(place)
        body: Object = orjson.loads(known.data)
        return body

    def list(self, kind: str) -> list[Object] | None:
        """Return the bodies of all objects of one of our own kinds; None if the API server must be asked."""
        if not self.is_listed(kind) or self._missing[kind]:
            return None
        places = sorted(self._places[kind])
        return [orjson.loads(self._bodies[place].data) for place in places]

    def list_pods(self, owner: Owner, view: View | None = None) -> Objects | None:
        """Return the bodies of the pods of a pool or a job, or of all; None if the API server must be asked.

        With `view`, what it shows of each; of all pods in no order, and the same object as the last time, if the pod
        has not changed since.
        """
        if not self.is_listed(PODS.kind) or self.find_doubted_pods(owner):
            return None
        if view is not None and owner == ANYBODY:
            return self._show_all(view)
        owners = [owner] if owner.name else filter(owner.covers, self._pods)
        places = [place for each in owners for place in self._pods.get(each, ())]
        pods: Objects = [orjson.loads(self._bodies[place].data) for place in sorted(places)]
        return [view(pod) for pod in pods] if view is not None else pods

    def _show_all(self, view: View) -> Objects:
        if self._shown is None or self._shown.view is not view:
            self._shown = _Shown(view, {}, set(self._places[PODS.kind]))
        shown = self._shown
        for place in tuple(shown.left):
            shown.pods[place] = view(orjson.loads(self._bodies[place].data))
            shown.left.remove(place)
        return list(shown.pods.values())

    def find_doubted_pods(self, owner: Owner) -> Sequence[Place]:
        """Return the pods that may exist, may be a pool's or a job's, and whose bodies are not known."""
        return [place for place, whose in self._missing[PODS.kind].items() if owner.may_cover(whose)]

    @contextmanager
    def request(self) -> Iterator[Told]:
        """Note what is told while the block waits for an answer, for `keep`."""
        told = Told()
        self._requests.append(told)
        try:
            yield told
        finally:
            self._requests[:] = [other for other in self._requests if other is not told]

    def keep(self, place: Place, answer: Mapping[str, Any] | None, told: Told) -> None:
        """Remember the body that a request brought, unless something newer was told meanwhile.

        Args:
            place: what was asked for or written.
            answer: the body; None if there is no such object.
            told: what was told while the request was under way.
        """
        newest = told.get(place, 0.0)
        if told.is_void or newest == math.inf or not is_kept(place.kind):
            return
        self._doubted.pop(place, None)
        if answer is None and newest == 0.0:
            self._missing[place.kind].pop(place, None)
        if answer is None or not _is_watched(place.kind, answer["metadata"]):
            return
        version, known = _read_version(answer), self._bodies.get(place)
        if version is None:
            self.doubt(place)
            return
        self._note(place, version)
        if version >= newest and (known is None or known.version < version):
            self._drop(place)
            self._put(place, version, answer)

    def keep_absence(self, kind: str, items: Iterable[Mapping[str, Any]], told: Told, owner: Owner = ANYBODY) -> None:
        """Note that a list of all of a kind or of an owner's pods, given to `keep` already, did not show the others."""
        if told.is_void:
            return
        shown = {Place.of(kind, item["metadata"]) for item in items}
        absent = [place for place, whose in self._missing[kind].items() if owner.covers(whose)]
        for place in absent:
            if place not in told and place not in shown:
                self._doubted.pop(place, None)
                self._missing[kind].pop(place)

    def is_listed(self, kind: str) -> bool:
        """Whether all objects of a kind were listed since they were forgotten."""
        if kind == PODS.kind and kind in self._listed and self._clock() - self._listed[kind][1] > AGE_S:
            self.forget(kind)
        return kind in self._listed

    def keep_list(self, kind: str, version: str, told: Told) -> None:
        """Note that all objects of a kind were read in one list of a version, and given to `keep`."""
        if not told.is_void:
            self._listed[kind] = (int(version) if version.isdecimal() else math.inf, self._clock())

    def lose(self, place: Place, told: Told) -> None:
        """A write was answered that there is no such object. If events told of one meanwhile, that is to be asked."""
        if told.is_void or told.get(place, 0.0) or place in self._doubted:
            self.doubt(place)
        else:
            self._drop(place)
            self._missing[place.kind].pop(place, None)
            # What others were answered before may still show it.
            self._note(place, math.inf)

    def doubt(self, place: Place, uid: str = "") -> None:
        """A write may or may not have changed an object: believe nothing about it until it was asked for again.

        With `uid`, the write was the deletion of that object alone.
        """
        if is_kept(place.kind):
            known = self._bodies.get(place)
            self._drop(place)
            self._doubted[place] = uid if self._doubted.get(place, uid) == uid else ""
            self._note(place, math.inf)
            if place.kind in TOLD_KINDS:
                missing = self._missing[place.kind]
                missing[place] = known.owner if known else missing.get(place, Owner(place.namespace))

    def forget(self, kind: str = "") -> None:
        """Believe nothing, or nothing about a kind: another process may have written, or an event was lost."""
        for place in tuple(self._places[kind] if kind else self._bodies):
            self._drop(place)
        for missing in [self._missing[kind]] if kind else self._missing.values():
            missing.clear()
        for listed in [listed for listed in self._listed if kind in ("", listed)]:
            del self._listed[listed]
        for told in self._requests:
            told.is_void = True

    def _end(self, place: Place, uid: str) -> None:
        for told in self._requests:
            told.ended.add(uid)
        if self._doubted.get(place) == uid:
            del self._doubted[place]

    def _note(self, place: Place, version: float) -> None:
        for told in self._requests:
            told[place] = max(told.get(place, 0.0), version)

    def _put(self, place: Place, version: int, item: Mapping[str, Any]) -> None:
        metadata = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
        data = orjson.dumps({**item, "metadata": metadata})
        owner = find_owner(place, metadata)
        self._bodies[place] = _Body(version, data, self._clock(), owner)
        self._places[place.kind].add(place)
        if place.kind == PODS.kind:
            self._pods.setdefault(owner, set()).add(place)
            if self._shown is not None:
                self._shown.left.add(place)
        self._missing[place.kind].pop(place, None)
        self._size_bytes += len(data)
        while self._size_bytes > self._limit_bytes:
            self.doubt(next(iter(self._bodies)))  # An event that is still on its way may be older than it was.

    def _drop(self, place: Place) -> None:
        if known := self._bodies.pop(place, None):
            self._size_bytes -= len(known.data)
            self._places[place.kind].discard(place)
            if place.kind == PODS.kind:
                self._pods[known.owner].discard(place)
                if not self._pods[known.owner]:
                    del self._pods[known.owner]
                if self._shown is not None:
                    self._shown.left.discard(place)
                    self._shown.pods.pop(place, None)


def is_kept(kind: str) -> bool:
    """Whether bodies of a kind are remembered."""
    return kind in TOLD_KINDS or kind in CHILD_KINDS


def _is_watched(kind: str, metadata: Mapping[str, Any]) -> bool:
    """Whether an object's changes are told: of built-in kinds only those that bear our label are."""
    return kind in OWN_KINDS or (metadata.get("labels") or {}).get(LABEL_MANAGED_BY) == MANAGED_BY


def find_owner(place: Place, metadata: Mapping[str, Any]) -> Owner:
    """Return whose it is. One that bears both labels, for a person gave it one, is the owner's who makes its kind."""
    labels = metadata.get("labels") or {}
    is_of_job = labels.get(LABEL_COMPONENT) in (COMPONENT_PREPARE, COMPONENT_TRAIN, COMPONENT_TIDY)
    order = (LABEL_JOB, LABEL_POOL) if is_of_job else (LABEL_POOL, LABEL_JOB)
    owners = (Owner(place.namespace, each, labels[each]) for each in order if labels.get(each))
    return next(owners, Owner(place.namespace))


def _read_version(item: Mapping[str, Any]) -> int | None:
    """Return the version of an object; None if it cannot be compared."""
    text = str(item["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdecimal() else None
