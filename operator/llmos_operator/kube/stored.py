"""`Kube` that answers from memory what need not be asked, and passes on all else.

`Store` and `Freshness` decide what counts; here requests are led past them. Every write goes to the API
server, and its answer into the store. What is not known for sure is asked for: a reconcile cannot tell the difference
but by its speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from llmos.api.names import FIELD_MANAGER, LABEL_MANAGED_BY, MANAGED_BY
from llmos_operator.kube.client import Kube, Object, Objects, View
from llmos_operator.kube.errors import KubeError, NotFound
from llmos_operator.kube.freshness import Freshness
from llmos_operator.kube.resources import PODS, Resource, resource_of
from llmos_operator.kube.store import OWN_KINDS, OWNER_LABELS, Owner, Place, Store, find_owner, is_kept

FEW_PODS: Final = 8
"""Of one owner all pods are few: they are listed as soon as two are in doubt."""
ROUNDS: Final = 3
"""How often pods that come to be in doubt are asked for one by one until all are listed."""
_IS_LABEL: Final = re.compile(r"[\w./-]+")
_WATCHED_PODS: Final = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


class Memory:
    """All that this process remembers of the cluster.

    Args:
        clock: seconds, always growing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.freshness = Freshness(PODS)
        self.store = Store(clock)

    def see(self, kind: str, event_type: str | None, item: Mapping[str, Any]) -> None:
        """Take note of what an event tells."""
        self.freshness.see(kind, item["metadata"])
        self.store.see(kind, event_type, item)

    def miss(self, resource: Resource) -> None:
        """The watch of a kind has begun anew. Of our own kinds the watch check finds out what went meanwhile."""
        if resource == PODS:
            self.store.forget(PODS.kind)

    def doubt(self, kind: str, namespace: str, name: str) -> None:
        """Ask for an object again: an event about it was lost."""
        self.store.doubt(Place(kind, namespace, name))

    def forget(self) -> None:
        """Another process may have written meanwhile."""
        self.freshness.forget()
        self.store.forget()


class Server(Kube, Protocol):
    """What memory needs of the API server beside what a reconcile does."""

    async def visit(
        self,
        resource: Resource,
        see: Callable[[Object], None],
        *,
        label_selector: str = "",
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

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", view: View | None = None
    ) -> Objects:
        if resource.kind in OWN_KINDS and not namespace and not label_selector:
            items = await self._list_own(resource)
            return [view(item) for item in items] if view is not None else items
        terms = _read_terms(label_selector) if resource == PODS else {}
        if (owner := _read_owner(namespace, terms)) is not None:
            return await self._list_pods(owner, terms, view)
        return await self._server.list(resource, namespace=namespace, label_selector=label_selector, view=view)

    async def _list_pods(self, owner: Owner, terms: Mapping[str, str], view: View | None) -> Objects:
        """Return pods of ours. What a person gave the label of a pool is not watched, and not shown."""
        if not self._store.is_listed(PODS.kind):
            await self._learn_bodies(PODS, _WATCHED_PODS)
        pods = await self._recall_pods(owner, view)
        if pods is None:
            asked = await self._ask_for_pods(owner)
            # What is remembered is the same object as the last time, if the pod has not changed since.
            pods = self._store.list_pods(owner, view)
            if pods is None:
                pods = [view(pod) for pod in asked] if view is not None else asked
        else:
            self._on_answer("list", PODS.kind)
        # What makes a pod one of ours is not looked at again in each of thousands.
        rest = {key: value for key, value in terms.items() if (key, value) not in _implied_terms(owner)}
        return [pod for pod in pods if _is_selected(pod, rest)] if rest else pods

    async def _recall_pods(self, owner: Owner, view: View | None) -> Objects | None:
        """Return remembered pods; the few that are in doubt are asked for one by one, which is less than all pods.

        While they are asked for, events may tell of something newer, and others may come to be in doubt.
        """
        with contextlib.suppress(KubeError):  # Then the list tells what is wrong, or answers.
            for _ in range(ROUNDS):
                doubted = self._store.find_doubted_pods(owner)
                if len(doubted) > (1 if owner.name else FEW_PODS):
                    break
                for place in doubted:
                    await self.get(PODS, place.name, place.namespace)
                if (pods := self._store.list_pods(owner, view)) is not None:
                    return pods
        return self._store.list_pods(owner, view)

    async def _ask_for_pods(self, owner: Owner) -> Objects:
        selector = f"{_WATCHED_PODS},{owner.label}={owner.name}" if owner.name else _WATCHED_PODS
        with self._store.request() as told:
            pods = await self._server.list(PODS, namespace=owner.namespace, label_selector=selector)
        for pod in pods:
            self._store.keep(Place.of(PODS.kind, pod["metadata"]), pod, told)
        self._store.keep_absence(PODS.kind, pods, told, owner)
        return [pod for pod in pods if owner.covers(find_owner(Place.of(PODS.kind, pod["metadata"]), pod["metadata"]))]

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
        place = Place(resource.kind, namespace, name)
        return await self._send(place, lambda: self._server.merge(resource, name, namespace, patch))

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        with self._store.request() as told:
            try:
                await self._server.delete(resource, name, namespace, uid=uid, grace_period_s=grace_period_s)
            finally:
                # What is left of it, and for how long, only the API server knows.
                if not uid or uid not in told.ended:
                    self._store.doubt(Place(resource.kind, namespace, name), uid)

    async def tail_log(
        self, name: str, namespace: str, container: str, *, lines: int = 1, previous: bool = False
    ) -> str:
        return await self._server.tail_log(name, namespace, container, lines=lines, previous=previous)

    async def create_event(self, manifest: Mapping[str, Any]) -> None:
        await self._server.create_event(manifest)

    async def _write(self, manifest: Mapping[str, Any], send: Callable[[], Awaitable[Object]]) -> Object:
        return await self._send(Place.of(resource_of(manifest).kind, manifest["metadata"]), send)

    async def _send(self, place: Place, send: Callable[[], Awaitable[Object]]) -> Object:
        with self._store.request() as told:
            try:
                answer = await send()
            except BaseException as error:
                if isinstance(error, NotFound) and error.missing_name == place.name:
                    self._store.lose(place, told)
                else:
                    self._store.doubt(place)
                raise
        self._store.keep(place, answer, told)
        return answer

    async def _learn_bodies(self, resource: Resource, label_selector: str = "") -> None:
        async with self._learning[resource.kind]:
            if self._store.is_listed(resource.kind):
                return
            with self._store.request() as told:
                version = await self._server.visit(
                    resource,
                    lambda item: self._store.keep(Place.of(resource.kind, item["metadata"]), item, told),
                    label_selector=label_selector,
                )
                self._store.keep_list(resource.kind, version, told)


def _read_terms(label_selector: str) -> dict[str, str]:
    """Return label and value of each term, with an empty value where any will do; nothing if a term says more."""
    terms = [term.partition("=")[::2] for term in label_selector.split(",")]
    return dict(terms) if all(_IS_LABEL.fullmatch(key) for key, _ in terms) else {}


def _read_owner(namespace: str, terms: Mapping[str, str]) -> Owner | None:
    """Return whose pods are selected; None if it may be somebody else's than ours."""
    for label in OWNER_LABELS:
        if terms.get(label):
            return Owner(namespace, label, terms[label])
    return Owner(namespace) if terms.get(LABEL_MANAGED_BY) == MANAGED_BY else None


def _implied_terms(owner: Owner) -> tuple[tuple[str, str], ...]:
    """Return what is true for all pods that are remembered of an owner."""
    return (LABEL_MANAGED_BY, MANAGED_BY), (owner.label, owner.name)


def _is_selected(pod: Object, terms: Mapping[str, str]) -> bool:
    labels = pod["metadata"]["labels"]
    return all(key in labels and value in ("", labels[key]) for key, value in terms.items())
