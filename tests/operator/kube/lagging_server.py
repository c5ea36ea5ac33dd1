"""A server whose watch lags: every change becomes an event that waits until a test delivers it.

It can lose the answer of a write that it has carried out, and it lets things happen between carrying out a request and
answering it, which is when memory and cluster can come apart.
"""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from llmos.api.names import FIELD_MANAGER
from llmos_operator.kube.client import Object, Objects, View
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import Resource
from tests.operator.fake_kube import START, FakeKube, Place, parse_selector

T = TypeVar("T")


class Told(NamedTuple):
    """One watch event."""

    kind: str
    type: str
    item: Object


class LaggingServer(FakeKube):
    """`between` runs after a request was carried out and before it is answered."""

    def __init__(self, *objects: Mapping[str, Any], now: Callable[[], datetime] = lambda: START) -> None:
        self.pending: defaultdict[str, deque[Told]] = defaultdict(deque)
        """Events by kind, in order: each kind has a watch of its own."""
        super().__init__(*objects, now=now)
        self.between: Callable[[], None] = lambda: None
        self.loses_next_answer = False
        self.visits = 0
        self.written: Objects = []
        """What every write left behind, whether or not its answer was lost."""

    async def remove(self, resource: Resource, name: str, namespace: str) -> None:
        """Another client deletes an object."""
        await super().delete(resource, name, namespace)

    def finish_deletion(self, resource: Resource, name: str, namespace: str = "") -> None:
        last = self.stored(resource, namespace, name)
        super().finish_deletion(resource, name, namespace)
        self._counter += 1
        last["metadata"]["resourceVersion"] = str(self._counter)
        self.pending[resource.kind].append(Told(resource.kind, "DELETED", last))

    def version(self, resource: Resource, namespace: str, name: str) -> int | None:
        item = self._objects.get(Place(resource, namespace, name))
        return int(item["metadata"]["resourceVersion"]) if item else None

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        return self._answer(await super().get(resource, name, namespace))

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", view: View | None = None
    ) -> Objects:
        return self._answer(await super().list(resource, namespace=namespace, label_selector=label_selector, view=view))

    async def visit(
        self,
        resource: Resource,
        see: Callable[[Object], None],
        *,
        label_selector: str = "",
    ) -> str:
        self.visits += 1
        selected = parse_selector(label_selector)
        items, version = self._answer((self.all(resource), str(self._counter)))
        for item in items:
            if selected(item["metadata"].get("labels") or {}):
                see(item)
        return version

    async def apply(self, manifest: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Object:
        return self._answer_write(await super().apply(manifest, field_manager=field_manager))

    async def apply_status(self, manifest: Mapping[str, Any]) -> Object:
        return self._answer_write(await super().apply_status(manifest))

    async def merge(self, resource: Resource, name: str, namespace: str, patch: Mapping[str, Any]) -> Object:
        return self._answer_write(await super().merge(resource, name, namespace, patch))

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        await super().delete(resource, name, namespace, uid=uid, grace_period_s=grace_period_s)
        self._answer(None)

    def _answer(self, value: T) -> T:
        between, self.between = self.between, lambda: None
        between()
        return value

    def _answer_write(self, item: Object) -> Object:
        is_lost, self.loses_next_answer = self.loses_next_answer, False
        self._answer(item)
        self.written.append(item)
        if is_lost:
            raise Unavailable("the answer was lost")
        return item

    def _commit(self, verb: str, place: Place, item: Object) -> Object:
        before = self._objects.get(place)
        stored = super()._commit(verb, place, item)
        after = self._objects.get(place)
        if after is not before:
            event_type = "ADDED" if before is None else "DELETED" if after is None else "MODIFIED"
            self.pending[place.resource.kind].append(Told(place.resource.kind, event_type, copy.deepcopy(stored)))
        return stored


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what never waits for anything to its end."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("It waits for something.")
