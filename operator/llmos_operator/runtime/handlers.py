"""From a watch event to a key in the queue. kopf carries the watches; nothing else of it is used.

Which objects are watched is said to the API server (label selectors), not sorted out here: children by the label that
every object of ours bears. A child's event enqueues its owner, found by the owner's name in a label. An object of our
own kinds enqueues itself if more than its status changed (the status is our own writing), always the pools and jobs
that refer to it, a model that it no longer uses, for that may now be deleted, and the adapters of a pool whose spec
changed, for their files are shared while a pool wants them. A change of one Tenant concerns all of them, for a
namespace has only one, and all jobs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import kopf

from llmos.api.names import (
    COMPONENT_TRAIN,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_MODEL,
    LABEL_POOL,
    LABEL_TENANT,
    MANAGED_BY,
)
from llmos_operator.kube.config import Connection
from llmos_operator.kube.resources import (
    ACCELERATOR_CLASSES,
    FINE_TUNE_JOBS,
    INFERENCE_POOLS,
    JOBS,
    LLM_MODELS,
    NETWORK_POLICIES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    SERVICES,
    TENANTS,
    Resource,
)
from llmos_operator.reconcilers.base import Key
from llmos_operator.reconcilers.quota_board import QUOTA
from llmos_operator.runtime.essence import NoEssence, NoProgress
from llmos_operator.runtime.references import DISCOVERY, References, build_work_key
from llmos_operator.runtime.sessions import open_watch_session

OWN_KINDS: Final = (LLM_MODELS, INFERENCE_POOLS, FINE_TUNE_JOBS, ACCELERATOR_CLASSES, TENANTS)
CHILD_KINDS: Final = (PODS, JOBS, PERSISTENT_VOLUME_CLAIMS, SERVICES, NETWORK_POLICIES)
BRIEF_KINDS: Final = (JOBS, PERSISTENT_VOLUME_CLAIMS, SERVICES, NETWORK_POLICIES)
"""All that their events need to tell is whose child it is."""

DISCOVERY_DELAY_S: Final = 1.0
"""Nodes come and go in groups; one look at all of them is enough."""
TENANTS_DELAY_S: Final = 0.2
"""Tenants are often written many at a time."""
QUOTA_DELAY_S: Final = 0.01
"""Pods change many at a time, and one look is at all of them."""
_WITHOUT_QUOTA: Final = (LLM_MODELS, FINE_TUNE_JOBS)
"""Kinds whose objects change nothing about who gets accelerators; what jobs hold, their pods tell."""
_DELETED: Final = "DELETED"
_CAME: Final = (None, "ADDED")
"""Types of events about an object that was not there before, or not known to this process."""


_OWNERS: Final = (
    (LABEL_POOL, INFERENCE_POOLS.kind),
    (LABEL_JOB, FINE_TUNE_JOBS.kind),
    (LABEL_MODEL, LLM_MODELS.kind),
)


class Sink(Protocol):
    """Where keys go; a `WorkQueue[Key]`."""

    def add(self, key: Key) -> None: ...

    def add_after(self, key: Key, delay_s: float) -> None: ...


class Router:
    """Turns events into keys.

    Args:
        on_event: told the kind of every event, for metrics.
        on_object: told the kind, the type of the event and the object, before any key is due; not of nodes.
        on_node_change: told that a node came, went or changed in more than its heartbeat.
    """

    def __init__(
        self,
        references: References,
        sink: Sink,
        on_event: Callable[[str], None] = lambda _kind: None,
        on_object: Callable[[str, str | None, Mapping[str, Any]], None] = lambda _kind, _type, _body: None,
        on_node_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._references = references
        self._sink = sink
        self._on_event = on_event
        self._on_object = on_object
        self._on_node_change = on_node_change

    def see_own(self, resource: Resource, event_type: str | None, body: Mapping[str, Any]) -> None:
        """An object of one of our kinds came, changed or went."""
        self._on_event(resource.kind)
        self._on_object(resource.kind, event_type, body)
        metadata = body["metadata"]
        key = Key(resource.kind, metadata.get("namespace", ""), metadata["name"])
        targets_before = self._references.targets(key)
        is_news = True
        if event_type == _DELETED:
            self._references.forget(key)
            self._sink.add(build_work_key(key))
        elif event_type is None:
            # It was there before this watch, which may have missed something; but there may be thousands of them.
            self._references.see(key, body)
            self._sink.add_after(build_work_key(key), 0.0)
        elif is_news := self._references.see(key, body):
            self._sink.add(build_work_key(key))
        for concerned in self._find_concerned(resource, key, metadata.get("labels") or {}, is_news=is_news):
            self._sink.add(concerned)
        # What a tenant may have is reckoned from what exists, which stands in the classes' status.
        if resource is ACCELERATOR_CLASSES or (resource is TENANTS and is_news):
            self._see_tenants()
        if resource is TENANTS and is_news:
            self._see_jobs()
        if resource not in _WITHOUT_QUOTA and is_news:
            self._see_quota(always=resource is TENANTS)
        for target in set(targets_before).difference(self._references.targets(key)):
            self._sink.add(build_work_key(target))

    def _find_concerned(self, resource: Resource, key: Key, labels: Mapping[str, str], *, is_news: bool) -> set[Key]:
        """Return what has to look again because an object changed: whoever refers to it; the pools of an adapter, and
        the job that made it, also if that is gone; the adapters of a pool, whose files are shared while a pool wants
        them."""
        job = labels.get(LABEL_JOB)
        made_by = (Key(FINE_TUNE_JOBS.kind, key.namespace, job),) if job else ()
        targets, referrers = self._references.targets(key), set(self._references.referrers(key))
        if resource is LLM_MODELS:
            return referrers.union(targets, made_by)
        if resource is not INFERENCE_POOLS:
            return referrers
        named = [target for target in targets if target.kind == LLM_MODELS.kind][1:]
        return referrers.union(named) if is_news else set()

    def _see_tenants(self) -> None:
        for key in self._references.tenants:
            self._sink.add_after(key, TENANTS_DELAY_S)

    def _see_jobs(self) -> None:
        """Whether an attempt waits for its quota, and whether anything may be made, depends on who owns a namespace."""
        for key in self._references.jobs:
            self._sink.add_after(key, TENANTS_DELAY_S)

    def _see_quota(self, *, always: bool = False) -> None:
        """Something changed that the quota may depend on; without any Tenant there is none."""
        if always or self._references.tenants:
            self._sink.add_after(QUOTA, QUOTA_DELAY_S)

    def see_child(self, resource: Resource, event_type: str | None, body: Mapping[str, Any]) -> None:
        """A child came, changed or went: its owner is due. A Service that came tells nothing: its owner made it."""
        self._on_event(resource.kind)
        self._on_object(resource.kind, event_type, body)
        metadata = body["metadata"]
        if resource is SERVICES and event_type in _CAME:
            return
        namespace, labels = metadata.get("namespace", ""), metadata.get("labels") or {}
        if resource is PODS and (LABEL_POOL in labels or labels.get(LABEL_COMPONENT) == COMPONENT_TRAIN):
            self._see_quota()
        for label, kind in _OWNERS:
            if owner := labels.get(label):
                self._sink.add(Key(kind, namespace, owner))
                return
        if tenant := labels.get(LABEL_TENANT):
            self._sink.add(Key(TENANTS.kind, "", tenant))

    def see_node(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        """A node came, changed or went."""
        self._on_event(NODES.kind)
        name = body["metadata"]["name"]
        if event_type == _DELETED:
            self._references.forget_node(name)
        elif not self._references.see_node(name, body):
            return
        self._sink.add_after(DISCOVERY, DISCOVERY_DELAY_S)
        self._on_node_change()
        self._see_quota()


def build_registry(
    router: Router,
    login: Callable[[], Awaitable[Connection]],
    on_list: Callable[[Resource], None] = lambda _resource: None,
) -> kopf.OperatorRegistry:
    """Return the handlers of all kinds that are watched. None returns a value: kopf would write it into the object.

    Args:
        router: told of every event.
        login: the present connection.
        on_list: told the kind of which a watch begins anew: what went meanwhile no event tells.
    """
    registry = kopf.OperatorRegistry()

    async def connect(**_: Any) -> kopf.AiohttpSession:
        return open_watch_session(await login(), metadata_only=BRIEF_KINDS, listed=CHILD_KINDS, on_list=on_list)

    kopf.on.login(registry=registry)(connect)
    for resource in OWN_KINDS:
        _watch(registry, resource, _own_handler(router, resource))
    for resource in CHILD_KINDS:
        _watch(registry, resource, _child_handler(router, resource))

    async def on_node(event: kopf.RawEvent, **_: Any) -> None:
        router.see_node(event["type"], event["object"])

    _watch(registry, NODES, on_node)
    return registry


def _own_handler(router: Router, resource: Resource) -> Callable[..., Awaitable[None]]:
    async def on_own(event: kopf.RawEvent, **_: Any) -> None:
        router.see_own(resource, event["type"], event["object"])

    return on_own


def _child_handler(router: Router, resource: Resource) -> Callable[..., Awaitable[None]]:
    async def on_child(event: kopf.RawEvent, **_: Any) -> None:
        router.see_child(resource, event["type"], event["object"])

    return on_child


def _watch(registry: kopf.OperatorRegistry, resource: Resource, handler: Callable[..., Awaitable[None]]) -> None:
    # The full name: a short one is silently not served where another group has the same plural.
    decorator = kopf.on.event(
        group=resource.group, version=resource.version, plural=resource.plural, id=resource.plural, registry=registry
    )
    decorator(handler)


def build_kopf_settings() -> kopf.OperatorSettings:
    """Return the settings under which kopf does nothing but watch, and notices when a watch is dead."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = NoEssence()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 250
    for resource in CHILD_KINDS:
        key = (resource.group, resource.version, resource.plural)
        settings.watching.label_selectors[key] = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
    settings.networking.request_timeout = 30
    # A watch that gives up ends the process; an API server that is upgraded may be away for minutes.
    settings.networking.error_backoffs = (0.5, 1, 2, 3, 5, *[8] * 60)
    # The handlers only enqueue: few workers suffice, each soon free for another object, and what they hold is freed.
    settings.queueing.worker_limit = 32
    settings.queueing.idle_timeout = 0.02
    settings.queueing.exit_timeout = 0.1
    return settings
