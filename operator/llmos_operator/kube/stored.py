"""`Kube` that answers from memory what need not be asked, and passes on all else.

`Store`, `Absence` and `Freshness` decide what counts; here requests are led past them. Every write goes to the API
server, and its answer into the store. What is not known for sure is asked for: a reconcile cannot tell the difference
but by its speed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from llmos.api.names import FIELD_MANAGER, LABEL_POOL
from llmos_operator.kube.absence import Absence, Owner, owner_in, owner_of
from llmos_operator.kube.client import Kube, Object, Objects
from llmos_operator.kube.freshness import Freshness
from llmos_operator.kube.resources import PODS, Resource, resource_of
from llmos_operator.kube.store import OWN_KINDS, Place, Store, is_kept


class Memory:
    """All that this process remembers of the cluster.

    Args:
        clock: seconds, always growing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.freshness = Freshness(PODS)
        self.store = Store(clock)
        self.pods = Absence(clock)

    def see(self, kind: str, event_type: str | None, item: Mapping[str, Any]) -> None:
        """Take note of what an event tells."""
        self.freshness.see(kind, item["metadata"])
        if kind == PODS.kind:
            self.pods.touch(owner_of(item["metadata"]))
        self.store.see(kind, event_type, item)

    def doubt(self, kind: str, namespace: str, name: str) -> None:
        """Ask for an object again: an event about it was lost."""
        self.store.doubt(Place(kind, namespace, name))

    def forget(self) -> None:
        """Another process may have written meanwhile."""
        self.freshness.forget()
        self.store.forget()
        self.pods.forget()


class Server(Kube, Protocol):
    """What memory needs of the API server beside what a reconcile does."""

    async def visit(
        self,
        resource: Resource,
        see: Callable[[Object], None],
        *,
        label_selector: str = "",
        metadata_only: bool = False,
    ) -> str:
        """Show every object of a kind in all namespaces, as of one moment after the call; return its version."""
        ...


class StoredKube(Kube):
    """Memory in front of the API server.

    Args:
        server: where everything else is asked and written.
        memory: whoever watches tells it of events.
        on_answer: told the verb and kind of every read that memory answered.
    """

    def __init__(
        self,
        server: Server,
        memory: Memory,
        on_answer: Callable[[str, str], None] = lambda _verb, _kind: None,
    ) -> None:
        self._server = server
        self._store = memory.store
        self._pods = memory.pods
        self._on_answer = on_answer
        self._learning: Final = defaultdict[str, asyncio.Lock](asyncio.Lock)

    def is_learning(self, resource: Resource) -> bool:
        """Whether reads of a kind wait until all of its objects were listed."""
        return self._learning[resource.kind].locked()

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        place = Place(resource.kind, namespace, name)
        if not is_kept(place.kind):
            return await self._server.get(resource, name, namespace)
        if resource.kind in OWN_KINDS and not self._store.is_listed(resource.kind):
            await self._learn_bodies(resource)
        if (known := self._store.get(place)) is not None:
            self._on_answer("get", resource.kind)
            return known
        with self._store.request() as told:
            answer = await self._server.get(resource, name, namespace)
        self._store.keep(place, answer, told)
        # An event may have told more than the answer does.
        return self._store.get(place) or answer

    async def list(self, resource: Resource, *, namespace: str = "", label_selector: str = "") -> Objects:
        if resource.kind in OWN_KINDS and not namespace and not label_selector:
            return await self._list_own(resource)
        owner = owner_in(namespace, label_selector) if resource == PODS else None
        if owner is None:
            return await self._server.list(resource, namespace=namespace, label_selector=label_selector)
        if not self._pods.is_known:
            await self._learn_pods()
        if self._pods.holds(owner):
            self._on_answer("list", resource.kind)
            return []
        with self._pods.list() as touched:
            items = await self._server.list(resource, namespace=namespace, label_selector=label_selector)
        if not items:
            self._pods.learn_none(owner, touched)
        return items

    async def _list_own(self, resource: Resource) -> Objects:
        if not self._store.is_listed(resource.kind):
            await self._learn_bodies(resource)
        if (known := self._store.list(resource.kind)) is not None:
            self._on_answer("list", resource.kind)
            return known
        with self._store.request() as told:
            items = await self._server.list(resource)
        for item in items:
            self._store.keep(Place.of(resource.kind, item["metadata"]), item, told)
        self._store.keep_absence(resource.kind, items, told)
        return items

    async def create(self, manifest: Mapping[str, Any]) -> Object:
        return await self._write(manifest, lambda: self._server.create(manifest))

    async def apply(self, manifest: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Object:
        return await self._write(manifest, lambda: self._server.apply(manifest, field_manager=field_manager))

    async def apply_status(self, manifest: Mapping[str, Any]) -> Object:
        return await self._write(manifest, lambda: self._server.apply_status(manifest))

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
        return await self._send(
            Place(resource.kind, namespace, name),
            lambda: self._server.patch_metadata(
                resource,
                name,
                namespace,
                labels=labels,
                annotations=annotations,
                finalizers=finalizers,
                resource_version=resource_version,
            ),
        )

    async def merge(self, resource: Resource, name: str, namespace: str, patch: Mapping[str, Any]) -> Object:
        return await self._send(
            Place(resource.kind, namespace, name), lambda: self._server.merge(resource, name, namespace, patch)
        )

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        try:
            await self._server.delete(resource, name, namespace, uid=uid, grace_period_s=grace_period_s)
        finally:
            # What is left of it, and for how long, only the API server knows.
            self._store.doubt(Place(resource.kind, namespace, name))

    async def tail_log(
        self, name: str, namespace: str, container: str, *, lines: int = 1, previous: bool = False
    ) -> str:
        return await self._server.tail_log(name, namespace, container, lines=lines, previous=previous)

    async def create_event(self, manifest: Mapping[str, Any]) -> None:
        await self._server.create_event(manifest)

    async def _write(self, manifest: Mapping[str, Any], send: Callable[[], Awaitable[Object]]) -> Object:
        resource, metadata = resource_of(manifest), manifest["metadata"]
        owner = owner_of(metadata) if resource == PODS else None
        try:
            return await self._send(Place.of(resource.kind, metadata), send)
        finally:
            self._pods.touch(owner)

    async def _send(self, place: Place, send: Callable[[], Awaitable[Object]]) -> Object:
        with self._store.request() as told:
            try:
                answer = await send()
            except BaseException:
                self._store.doubt(place)
                raise
        self._store.keep(place, answer, told)
        return answer

    async def _learn_bodies(self, resource: Resource) -> None:
        async with self._learning[resource.kind]:
            if self._store.is_listed(resource.kind):
                return
            with self._store.request() as told:
                version = await self._server.visit(
                    resource, lambda item: self._store.keep(Place.of(resource.kind, item["metadata"]), item, told)
                )
                self._store.keep_list(resource.kind, version, told)

    async def _learn_pods(self) -> None:
        async with self._learning[PODS.kind]:
            if self._pods.is_known:
                return
            owners: set[Owner] = set()

            def see(pod: Object) -> None:
                if owner := owner_of(pod["metadata"]):
                    owners.add(owner)

            with self._pods.list() as touched:
                await self._server.visit(PODS, see, label_selector=LABEL_POOL, metadata_only=True)
                self._pods.learn(owners, touched)
