"""The flows of one kind: list, get, create, apply, delete, watch, wait, scale, suspend, attach.

They decide which requests are made and what the answers mean; they do no I/O (flow.py). Objects are applied by
server-side apply with only the fields that the caller set, so that defaults stay the server's and fields that another
manager owns stay theirs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, cast

from llmos.api import AcceleratorClass, AttachTo, FineTuneJob, InferencePool, LLMModel, Tenant
from llmos.api.names import GROUP, VERSION
from llmos.client.answers import check
from llmos.client.errors import ConflictError, NotFoundError, OverloadedError, UnreachableError
from llmos.client.flow import Emit, Flow, Open, Read, Request, Send, Sleep, parse_object
from llmos.client.readiness import AnyKind, Verdict, build_not_ready, judge

M = TypeVar("M", bound=LLMModel | InferencePool | AcceleratorClass | Tenant | FineTuneJob)

DEFAULT_FIELD_MANAGER: Final = "llmos-cli"
_PAGE_OBJECTS: Final = 500
_WATCH_S: Final = 240
_WATCH_SILENCE_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0


@dataclass(frozen=True)
class Event(Generic[M]):
    """One change that a watch saw."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: M


@dataclass(frozen=True)
class ResourceFlows(Generic[M]):
    """The operations on one kind, as flows. `namespace` None means all, where the operation allows it."""

    model: type[M]
    clock: Callable[[], float] = time.monotonic

    def collection(self, namespace: str | None) -> str:
        """Path of the objects of a namespace, or of all."""
        root = f"/apis/{GROUP}/{VERSION}"
        if self.model.info.scope == "Cluster" or namespace is None:
            return f"{root}/{self.model.info.plural}"
        return f"{root}/namespaces/{namespace}/{self.model.info.plural}"

    def title(self, namespace: str | None, name: str) -> str:
        """How errors call the object."""
        inside = self.model.info.scope == "Namespaced" and namespace
        return f"{self.model.info.kind} {f'{namespace}/' if inside else ''}{name}"

    def get(self, namespace: str, name: str) -> Flow[M]:
        """Read one object."""
        reply = yield Send(Request("GET", f"{self.collection(namespace)}/{name}"))
        return self._parse(check(reply, self.title(namespace, name)).as_object())

    def list(self, namespace: str | None, label_selector: str = "") -> Flow[tuple[M, ...]]:
        """Read all objects, page by page."""
        objects, _version = yield from self._list_at(namespace, {"labelSelector": label_selector})
        return objects

    def _list_at(self, namespace: str | None, selectors: dict[str, str]) -> Flow[tuple[tuple[M, ...], str]]:
        objects: list[M] = []
        params = {"limit": str(_PAGE_OBJECTS)} | {key: value for key, value in selectors.items() if value}
        while True:
            reply = yield Send(Request("GET", self.collection(namespace), params))
            page = check(reply, self.model.info.kind).as_object()
            objects += (self._parse(item) for item in page.get("items", ()))
            metadata = page.get("metadata", {})
            if not metadata.get("continue"):
                return tuple(objects), str(metadata.get("resourceVersion", ""))
            params["continue"] = metadata["continue"]

    def _parse(self, body: dict[str, Any]) -> M:
        return cast("M", self.model.model_validate(body))  # mypy looks the method up on the bound, a union

    def apply(self, namespace: str, thing: M, field_manager: str, force: bool) -> Flow[M]:
        """Server-side apply of the fields that are set on the object; returns what the server made of it."""
        manifest = build_apply_manifest(thing)
        inside = thing.metadata.namespace or namespace
        reply = yield Send(
            Request(
                "PATCH",
                f"{self.collection(inside)}/{thing.metadata.name}",
                {"fieldManager": field_manager, "force": str(force).lower()},
                manifest,
                "application/apply-patch+yaml",
            )
        )
        return self._parse(check(reply, self.title(inside, thing.metadata.name)).as_object())

    def create(self, namespace: str, thing: M, field_manager: str) -> Flow[M]:
        """Make the object with the fields that are set on it; returns what the server made of it.

        Raises:
            ConflictError: there is one of that name.
        """
        inside = thing.metadata.namespace or namespace
        title = self.title(inside, thing.metadata.name)
        where = self.collection(inside)
        reply = yield Send(Request("POST", where, {"fieldManager": field_manager}, build_apply_manifest(thing)))
        if reply.status == 409:
            raise ConflictError(f"{title} exists already.", "Choose another name, or delete that one first.")
        return self._parse(check(reply, title).as_object())

    def delete(self, namespace: str, name: str) -> Flow[None]:
        """Ask the server to delete one object; its finalizers may hold it for a while."""
        reply = yield Send(Request("DELETE", f"{self.collection(namespace)}/{name}"))
        check(reply, self.title(namespace, name))

    def scale(self, namespace: str, name: str, replicas: int, field_manager: str) -> Flow[None]:
        """Set the number of replicas through the scale subresource."""
        reply = yield Send(
            Request(
                "PATCH",
                f"{self.collection(namespace)}/{name}/scale",
                {"fieldManager": field_manager},
                {"spec": {"replicas": replicas}},
                "application/merge-patch+json",
            )
        )
        check(reply, self.title(namespace, name))

    def suspend(self, namespace: str, name: str, field_manager: str, *, suspend: bool) -> Flow[M]:
        """Set spec.suspend; returns the object."""
        return (yield from self._change_spec(namespace, name, field_manager, {"suspend": suspend}))

    def attach(self, namespace: str, name: str, field_manager: str, targets: Sequence[AttachTo]) -> Flow[M]:
        """Set spec.output.attachTo; returns the object."""
        output = {"attachTo": [target.to_manifest() for target in targets]}
        return (yield from self._change_spec(namespace, name, field_manager, {"output": output}))

    def _change_spec(self, namespace: str, name: str, field_manager: str, spec: dict[str, Any]) -> Flow[M]:
        reply = yield Send(
            Request(
                "PATCH",
                f"{self.collection(namespace)}/{name}",
                {"fieldManager": field_manager},
                {"spec": spec},
                "application/merge-patch+json",
            )
        )
        return self._parse(check(reply, self.title(namespace, name)).as_object())

    def watch(self, namespace: str | None) -> Flow[None]:
        """Emit an Event for every object and then for every change, without end; lost connections are made again.

        Objects that went away while the connection was lost are reported as DELETED with their last known state.
        """
        known: dict[tuple[str | None, str], M] = {}
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                objects, version = yield from self._list_at(namespace, {})
                pause_s = _FIRST_PAUSE_S
                yield from _emit_differences(known, objects)
                yield from self._follow_all(namespace, version, known)
            except (UnreachableError, OverloadedError):
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            yield Sleep(pause_s)

    def _follow_all(self, namespace: str | None, version: str, known: dict[tuple[str | None, str], M]) -> Flow[None]:
        """Emit changes from the version on, until the server does not know it any more."""
        while True:
            if not (yield from self._open_watch(namespace, version, _WATCH_S)):
                return
            before = version
            while (line := (yield Read())) is not None:
                event = parse_object(line)
                if event.get("type") == "ERROR":
                    return
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    continue
                thing = self._parse(event["object"])
                _remember(known, thing, gone=event["type"] == "DELETED")
                yield Emit(Event(event["type"], thing))
            if version == before:
                yield Sleep(_FIRST_PAUSE_S)

    def _open_watch(
        self, namespace: str | None, version: str, timeout_s: int, selectors: dict[str, str] | None = None
    ) -> Flow[bool]:
        """Open the stream; False if the server does not know the version any more."""
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(timeout_s),
            **(selectors or {}),
        }
        silence_s = timeout_s + _WATCH_SILENCE_S
        reply = yield Open(Request("GET", self.collection(namespace), params, read_timeout_s=silence_s))
        if reply.status == 410:
            return False
        check(reply, self.model.info.kind)
        return True

    def wait_ready(self, namespace: str, name: str, timeout_s: float) -> Flow[M]:
        """Emit the object's states until it is ready, and return it.

        Raises:
            NotReadyError: the deadline passed, or nothing will change until somebody acts.
            NotFoundError: there is no such object, or it was deleted meanwhile.
        """
        deadline = self.clock() + timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                thing = yield from self.get(namespace, name)
                pause_s = _FIRST_PAUSE_S
                verdict, thing = yield from self._follow_one(namespace, thing, deadline)
                if verdict is Verdict.READY:
                    return thing
                if verdict is Verdict.FAILED:
                    raise build_not_ready(thing)
                if self.clock() >= deadline:
                    raise build_not_ready(thing, f"after {timeout_s:g} s")
            except (UnreachableError, OverloadedError):
                if self.clock() >= deadline:
                    raise
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            yield Sleep(max(0.0, min(pause_s, deadline - self.clock())))

    def _follow_one(self, namespace: str, thing: M, deadline: float) -> Flow[tuple[Verdict, M]]:
        """Watch one object until the verdict is final, the watch ends or the deadline passes."""
        yield Emit(thing)
        left_s = deadline - self.clock()
        if (verdict := judge(thing)) is not Verdict.WAIT or left_s <= 0:
            return verdict, thing
        selector = {"fieldSelector": f"metadata.name={thing.metadata.name}"}
        seconds = min(_WATCH_S, math.ceil(left_s))
        if not (yield from self._open_watch(namespace, thing.metadata.resource_version, seconds, selector)):
            return Verdict.WAIT, thing
        while (line := (yield Read())) is not None:
            event = parse_object(line)
            if event.get("type") == "DELETED":
                title = self.title(namespace, thing.metadata.name)
                raise NotFoundError(f"{title} was deleted meanwhile.", "Create it again if it should exist.")
            if event.get("type") not in ("ADDED", "MODIFIED"):
                continue
            thing = self._parse(event["object"])
            yield Emit(thing)
            if (verdict := judge(thing)) is not Verdict.WAIT or self.clock() >= deadline:
                return verdict, thing
        return Verdict.WAIT, thing


def build_apply_manifest(thing: AnyKind) -> dict[str, Any]:
    """What server-side apply shall own: the fields that were set, without status and what the server writes itself."""
    dumped = thing.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    metadata = {key: dumped["metadata"][key] for key in ("name", "labels", "annotations") if key in dumped["metadata"]}
    return {"apiVersion": thing.api_version, "kind": thing.kind, "metadata": metadata, "spec": dumped.get("spec", {})}


def _key(thing: M) -> tuple[str | None, str]:
    return thing.metadata.namespace, thing.metadata.name


def _remember(known: dict[tuple[str | None, str], M], thing: M, *, gone: bool) -> None:
    if gone:
        known.pop(_key(thing), None)
    else:
        known[_key(thing)] = thing


def _emit_differences(known: dict[tuple[str | None, str], M], objects: tuple[M, ...]) -> Flow[None]:
    """Emit what changed against the known objects, and bring these up to date."""
    present = {_key(thing): thing for thing in objects}
    for key in [key for key in known if key not in present]:
        yield Emit(Event("DELETED", known.pop(key)))
    for key, thing in present.items():
        before = known.get(key)
        if before is None:
            yield Emit(Event("ADDED", thing))
        elif before.metadata.resource_version != thing.metadata.resource_version:
            yield Emit(Event("MODIFIED", thing))
        known[key] = thing
