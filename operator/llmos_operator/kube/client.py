"""The only door to the cluster: what a reconcile may ask of the API server.

`Kube` takes and gives plain dicts. It hides HTTP, paging and authentication, and nothing else: no cache, no retries
(the work queue retries whole reconciles) and no decisions. Tests inject a fake with the same methods instead of
patching anything.

All children are written by server-side apply with `force`: the operator sends its full intent under its own field
manager, so a field that it no longer names disappears, and a field that someone else owns stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from llmos.api.names import FIELD_MANAGER
from llmos_operator.kube.resources import Resource

__all__ = ["Kube", "Object", "Objects", "Resource", "View"]

Object = dict[str, Any]
"""One Kubernetes object as JSON has it."""
Objects = list[Object]  # Inside `Kube`, `list` is a method.
View = Callable[[Object], Object]
"""What to show of an object. Pure; what it returns may be shown again as long as the object does not change."""


class Kube(Protocol):
    """Requests to the API server.

    Every method may raise `Unavailable` of `kube.errors`, and every write `Fenced`.
    """

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """Return one object, or None if it does not exist."""
        ...

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", view: View | None = None
    ) -> Objects:
        """Return all matching objects, without `managedFields`; an empty namespace means all of them.

        With `view`, what it shows of each instead, its labels among that, in any order: not to be changed, it may be
        shown again.
        """
        ...

    async def create(self, manifest: Mapping[str, Any]) -> Object:
        """Create an object that must not exist yet; raises `Conflict` if it does."""
        ...

    async def apply(self, manifest: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Object:
        """Server-side apply with force: create the object or take over the named fields. Return the stored object.

        `metadata.uid` in the manifest makes sure that an object of the same name is not mistaken for it, and
        `metadata.resourceVersion` that nobody else wrote meanwhile: both raise `Conflict`.
        """
        ...

    async def apply_status(self, manifest: Mapping[str, Any]) -> Object:
        """Server-side apply of the `status` subresource under the status field manager; raises `NotFound`.

        Only `metadata.resourceVersion` is a precondition here (`Conflict`); the API server does not compare the uid.
        """
        ...

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
        """Merge labels and annotations (None removes one) and replace the finalizers; raises `NotFound`.

        With `resource_version` it raises `Conflict` when someone else wrote meanwhile; always give it with finalizers.
        """
        ...

    async def merge(self, resource: Resource, name: str, namespace: str, patch: Mapping[str, Any]) -> Object:
        """JSON merge patch: null removes a field, a list replaces the whole list; raises `NotFound`.

        `metadata.uid` in the patch makes sure that an object of the same name is not mistaken for it (`Conflict`).
        """
        ...

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        """Delete with background propagation; an object that is gone already is fine.

        With `uid`, an object of the same name that replaced it raises `Conflict` and stays.
        """
        ...

    async def tail_log(
        self, name: str, namespace: str, container: str, *, lines: int = 1, previous: bool = False
    ) -> str:
        """Return the last lines of a container's log, or an empty string when there is none to be had."""
        ...

    async def create_event(self, manifest: Mapping[str, Any]) -> None:
        """Record an Event (events.k8s.io/v1). Nothing depends on it: a failure is logged and otherwise ignored."""
        ...
