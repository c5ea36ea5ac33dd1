"""A cluster as a value: objects in, objects out, every request recorded.

`FakeKube` keeps the promises of `Kube` that reconcilers rest on: server-side apply with ownership by field manager,
separate status, uid, resourceVersion and generation, label selectors, finalizers, graceful deletion of pods. The same
scenarios run against it and against a real kube-apiserver (tests/integration/operator/test_kube_contract.py), so that
it cannot lie about them. It validates and defaults nothing, and knows no namespaces.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from llmos.api.names import FIELD_MANAGER, STATUS_FIELD_MANAGER
from llmos_operator.kube.client import Kube, Object, Objects, View
from llmos_operator.kube.errors import Conflict, KubeError, NotFound
from llmos_operator.kube.resources import PODS, Resource, resource_of
from tests.operator import fake_merge
from tests.operator.fake_merge import Tree

START = datetime(2026, 1, 1, tzinfo=UTC)
DEFAULT_GRACE_PERIOD_S = 30
SERVER_FIELDS = ("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp")
"""Metadata that a manifest may state as a precondition but never sets."""


class Write(NamedTuple):
    """One write that reached the server, whether or not it changed anything."""

    verb: str
    """create, apply, apply_status, patch or delete."""
    kind: str
    name: str
    """`namespace/name`, or `name` for cluster-scoped kinds."""


class Place(NamedTuple):
    """Where an object is stored."""

    resource: Resource
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class FakeKube(Kube):
    """An API server in memory.

    Args:
        objects: what exists at the start, written by nobody in particular.
        now: the clock for creation and deletion time stamps.
    """

    def __init__(self, *objects: Mapping[str, Any], now: Callable[[], datetime] = lambda: START) -> None:
        self.now = now
        self.writes: list[Write] = []
        """Every write that was asked for."""
        self.changes: list[Write] = []
        """Those of `writes` that changed the stored object; a second reconcile must add none."""
        self.reads: list[Write] = []
        self.events: Objects = []
        self.logs: dict[tuple[str, str, str, bool], str] = {}
        """Logs by (namespace, pod, container, previous)."""
        self._objects: dict[Place, Object] = {}
        self._applied: dict[Place, dict[str, Tree]] = defaultdict(dict)
        self._failures: dict[tuple[str, str], list[KubeError | None]] = defaultdict(list)
        self._counter = 0
        for manifest in objects:
            self.put(manifest)

    # What tests do: the part of other writers, of the kubelet and of the garbage collector.

    def put(self, manifest: Mapping[str, Any]) -> Object:
        """Store an object as another client would, with its status; replace the one of the same name."""
        place = _place(manifest)
        item = copy.deepcopy(dict(manifest))
        if current := self._objects.get(place):
            item["metadata"] |= {key: value for key, value in current["metadata"].items() if key in SERVER_FIELDS}
        return self._commit("", place, item)

    def set_status(self, resource: Resource, name: str, namespace: str = "", **fields: Any) -> Object:
        """Replace fields of the status, as the kubelet or a controller would."""
        place = Place(resource, namespace, name)
        current = self._objects[place]
        return self._commit("", place, {**current, "status": {**current.get("status", {}), **copy.deepcopy(fields)}})

    def stored(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return a copy of an object that must exist."""
        return copy.deepcopy(self._objects[Place(resource, namespace, name)])

    def all(self, resource: Resource) -> Objects:
        """Return copies of all objects of a kind, in order of name."""
        return [copy.deepcopy(self._objects[place]) for place in sorted(self._places(resource), key=str)]

    def finish_deletion(self, resource: Resource, name: str, namespace: str = "") -> None:
        """The kubelet is done with a pod, or a controller with its finalizers: the object goes away."""
        del self._objects[Place(resource, namespace, name)]

    def collect_garbage(self) -> None:
        """Delete every object whose owners are all gone, until nothing changes; pods go at once."""
        while orphans := [place for place, item in self._objects.items() if self._is_orphan(item)]:
            for place in orphans:
                del self._objects[place]

    def fail_next(self, verb: str, kind: str, error: KubeError, *, times: int = 1, after: int = 0) -> None:
        """Let the next requests of a verb (get, list, log or one that writes) for a kind fail, `after` so many that do
        not."""
        self._failures[(verb, kind)].extend([None] * after + [error] * times)

    def forget_writes(self) -> None:
        """Start a new record, for example before the second reconcile of a test."""
        self.writes.clear()
        self.changes.clear()
        self.reads.clear()

    # What reconcilers do.

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        place = Place(resource, namespace, name)
        self.reads.append(Write("get", resource.kind, str(place)))
        self._fail("get", resource.kind)
        return copy.deepcopy(self._objects.get(place))

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", view: View | None = None
    ) -> Objects:
        self.reads.append(Write("list", resource.kind, namespace))
        self._fail("list", resource.kind)
        selected = parse_selector(label_selector)
        return [
            view(item) if view is not None else item
            for item in self.all(resource)
            if item["metadata"].get("namespace", "") == namespace or not namespace
            if selected(item["metadata"].get("labels") or {})
        ]

    async def create(self, manifest: Mapping[str, Any]) -> Object:
        place = _place(manifest)
        self._record("create", place)
        if place in self._objects:
            raise Conflict(f"create of {place.resource.kind} {place}: it exists already.", code=409)
        return self._commit("create", place, _without(manifest, "status"))

    async def apply(self, manifest: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Object:
        place = _place(manifest)
        self._record("apply", place)
        _check_identity(place, manifest["metadata"], self._objects.get(place))
        intent = _without(manifest, "status") | {"metadata": _without(manifest["metadata"], *SERVER_FIELDS)}
        return self._apply("apply", place, intent, field_manager)

    async def apply_status(self, manifest: Mapping[str, Any]) -> Object:
        place = _place(manifest)
        self._record("apply_status", place)
        precondition = _without(manifest["metadata"], "uid")  # The real server does not look at it here.
        _check_identity(place, precondition, self._existing("apply_status", place))
        return self._apply("apply_status", place, {"status": copy.deepcopy(manifest["status"])}, STATUS_FIELD_MANAGER)

    async def patch_metadata(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        labels: Mapping[str, str | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
        finalizers: Sequence[str] | None = None,
        resource_version: str | None = None,
    ) -> Object:
        place = Place(resource, namespace, name)
        self._record("patch", place)
        current = self._existing("patch", place)
        if resource_version:
            _check_identity(place, {"resourceVersion": resource_version}, current)
        metadata = dict(current["metadata"])
        patched: Tree = {}
        for field, changes in (("labels", labels), ("annotations", annotations)):
            if changes:
                merged = {**metadata.get(field, {}), **changes}
                metadata[field] = {key: value for key, value in merged.items() if value is not None}
                patched[field] = dict(changes)
        if finalizers is not None:
            metadata["finalizers"] = list(finalizers)
            patched["finalizers"] = {}
        self._disown(place, {"metadata": patched})
        return self._commit("patch", place, {**current, "metadata": metadata})

    async def merge(self, resource: Resource, name: str, namespace: str, patch: Mapping[str, Any]) -> Object:
        place = Place(resource, namespace, name)
        self._record("patch", place)
        current = self._existing("patch", place)
        _check_identity(place, patch.get("metadata") or {}, current)
        self._disown(place, fake_merge.build_tree({**patch, "metadata": _without(patch.get("metadata") or {}, "uid")}))
        return self._commit("patch", place, fake_merge.merge_patch(current, patch))

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        place = Place(resource, namespace, name)
        self._record("delete", place)
        current = self._objects.get(place)
        if current is None:
            return
        if uid:
            _check_identity(place, {"uid": uid}, current)
        grace_s = _grace_period_s(current, grace_period_s) if resource is PODS else 0
        metadata = current["metadata"] | {"deletionGracePeriodSeconds": grace_s}
        metadata.setdefault("deletionTimestamp", _timestamp(self.now()))
        self._commit("delete", place, {**current, "metadata": metadata})

    async def tail_log(
        self, name: str, namespace: str, container: str, *, lines: int = 1, previous: bool = False
    ) -> str:
        self.reads.append(Write("log", PODS.kind, f"{namespace}/{name}"))
        self._fail("log", PODS.kind)
        text = self.logs.get((namespace, name, container, previous), "")
        return "".join(text.splitlines(keepends=True)[-lines:])

    async def create_event(self, manifest: Mapping[str, Any]) -> None:
        place = _place(manifest)
        self._record("create", place)
        self.changes.append(self.writes[-1])
        self.events.append(copy.deepcopy(dict(manifest)))

    # How it is stored.

    def _apply(self, verb: str, place: Place, intent: Object, manager: str) -> Object:
        current = self._objects.get(place)
        if current is None:
            self._applied.pop(place, None)
        owned = self._applied[place]
        tree = fake_merge.build_tree(intent)
        abandoned = fake_merge.subtract(owned.pop(manager, {}), tree)
        base = fake_merge.remove(fake_merge.build_tree(current or {}), abandoned, owned.values())
        owned[manager] = tree
        return self._commit(verb, place, fake_merge.build_value(fake_merge.merge(base, tree)))

    def _commit(self, verb: str, place: Place, item: Object) -> Object:
        """Store what a write leads to; an empty verb is another client's write and is not recorded."""
        current = self._objects.get(place)
        if item == current:
            return copy.deepcopy(item)
        if verb:
            self.changes.append(Write(verb, place.resource.kind, str(place)))
        self._counter += 1
        metadata = item["metadata"]
        if current is None:
            metadata = self._new_identity() | metadata
        else:
            generation = current["metadata"]["generation"] + (_spec(item) != _spec(current))
            metadata = {**metadata, "resourceVersion": str(self._counter), "generation": generation}
        stored = {**item, "metadata": metadata}
        self._objects[place] = stored
        if _is_finished(metadata):
            del self._objects[place]
        return copy.deepcopy(stored)

    def _new_identity(self) -> Object:
        return {
            "uid": f"00000000-0000-0000-0000-{self._counter:012d}",
            "resourceVersion": str(self._counter),
            "generation": 1,
            "creationTimestamp": _timestamp(self.now()),
        }

    def _disown(self, place: Place, patched: Tree) -> None:
        owned = self._applied[place]
        for manager, tree in owned.items():
            owned[manager] = fake_merge.remove(tree, patched, ())

    def _record(self, verb: str, place: Place) -> None:
        self.writes.append(Write(verb, place.resource.kind, str(place)))
        self._fail(verb, place.resource.kind)

    def _fail(self, verb: str, kind: str) -> None:
        failures = self._failures[(verb, kind)]
        if failures and (failure := failures.pop(0)) is not None:
            raise failure

    def _existing(self, verb: str, place: Place) -> Object:
        if place not in self._objects:
            error = NotFound(f"{verb} of {place.resource.kind} {place}: not found.", code=404)
            error.missing_name = place.name
            raise error
        return self._objects[place]

    def _places(self, resource: Resource) -> Iterable[Place]:
        return (place for place in self._objects if place.resource == resource)

    def _is_orphan(self, item: Object) -> bool:
        owners = {reference["uid"] for reference in item["metadata"].get("ownerReferences", ())}
        return bool(owners) and owners.isdisjoint(other["metadata"]["uid"] for other in self._objects.values())


def parse_selector(selector: str) -> Callable[[Mapping[str, str]], bool]:
    """Return a predicate over labels for `a=b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas."""
    requirements = [part.strip() for part in re.split(r",(?![^(]*\))", selector) if part.strip()]
    return lambda labels: all(_is_met(requirement, labels) for requirement in requirements)


def _is_met(requirement: str, labels: Mapping[str, str]) -> bool:
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s*\(([^)]*)\)", requirement):
        key, verb, values = match.groups()
        return (labels.get(key) in {value.strip() for value in values.split(",")}) is (verb == "in")
    if match := re.fullmatch(r"([^=!\s]+)\s*(!=|==|=)\s*(\S*)", requirement):
        key, verb, value = match.groups()
        return (labels.get(key) == value) is (verb != "!=")
    return requirement[1:] not in labels if requirement.startswith("!") else requirement in labels


def _place(manifest: Mapping[str, Any]) -> Place:
    metadata = manifest["metadata"]
    return Place(resource_of(manifest), metadata.get("namespace", ""), metadata.get("name", ""))


def _check_identity(place: Place, wanted: Mapping[str, Any], current: Object | None) -> None:
    found = current["metadata"] if current else {}
    for field in ("uid", "resourceVersion"):
        if wanted.get(field) and wanted[field] != found.get(field):
            cause = f"{field} {wanted[field]} was expected, {found.get(field, 'no object')} was found"
            raise Conflict(f"{place.resource.kind} {place}: {cause}.", code=409)


def _without(item: Mapping[str, Any], *fields: str) -> Object:
    return copy.deepcopy({key: value for key, value in item.items() if key not in fields})


def _is_finished(metadata: Mapping[str, Any]) -> bool:
    """Whether an object that is being deleted has nothing left to wait for."""
    is_waiting = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
    return "deletionTimestamp" in metadata and not is_waiting


def _spec(item: Object) -> Object:
    return {key: value for key, value in item.items() if key not in {"metadata", "status"}}


def _grace_period_s(pod: Object, asked_s: int | None) -> int:
    spec = pod.get("spec", {})
    if not spec.get("nodeName") or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
        return 0  # No kubelet has anything to stop.
    return int(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_PERIOD_S) if asked_s is None else asked_s)


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
