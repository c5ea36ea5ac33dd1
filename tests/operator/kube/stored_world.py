"""A server whose watch lags, a process in front of it, and what it must not forget: the world of `test_stored`."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

from llmos.api.names import (
    API_VERSION,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    MANAGED_BY,
)
from llmos_operator.kube.client import Object, View
from llmos_operator.kube.errors import NotFound, Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES, Resource
from llmos_operator.kube.store import AGE_S, Place
from llmos_operator.kube.stored import Memory, StoredKube
from tests.operator.kube.lagging_server import LaggingServer, run

NAMESPACE = "ns"
NAME = "a"
KINDS = (INFERENCE_POOLS.kind, SERVICES.kind, PODS.kind)


def pool(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


def child(kind: str, name: str, owner: str, **spec: Any) -> dict[str, Any]:
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_POOL: owner}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}


def show_metadata(item: Object) -> Object:
    return {"metadata": item["metadata"]}


class World:
    """A server, its lagging watch, this process, and what of it all may not be forgotten."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.server = LaggingServer()
        self.memory = Memory(lambda: self.now_s)
        self.kube = StoredKube(self.server, self.memory)
        self.steps = itertools.count()
        self.floor: dict[Place, int] = {}
        """Versions that were written, read or told, or that there were when this process became the leader."""
        self.known_pods: set[str] = set()
        """Uids of the pods of which the same can be said."""
        self.gone_pods: set[str] = set()
        """Uids of the pods whose end was told."""

    # What others do.

    def another_changes_a_pool(self) -> None:
        self.server.put(pool(NAME, step=next(self.steps)))

    def another_changes_a_service(self) -> None:
        self.server.put(child("Service", NAME, NAME, step=next(self.steps)))

    def another_deletes_a_pool(self) -> None:
        run(self.server.remove(INFERENCE_POOLS, NAME, NAMESPACE))

    def another_deletes_a_service(self) -> None:
        run(self.server.remove(SERVICES, NAME, NAMESPACE))

    def another_makes_a_pod(self) -> None:
        self.server.put(child("Pod", f"{NAME}-1", NAME))

    def another_changes_a_pod(self) -> None:
        if self.server.version(PODS, NAMESPACE, f"{NAME}-1"):
            self.server.put(child("Pod", f"{NAME}-1", NAME, step=next(self.steps)))

    def a_pod_ends(self) -> None:
        run(self.server.remove(PODS, f"{NAME}-0", NAMESPACE))

    def another_pod_ends(self) -> None:
        run(self.server.remove(PODS, f"{NAME}-1", NAMESPACE))

    # What the watches do.

    def an_event_of_each_kind_arrives(self) -> None:
        for kind in KINDS:
            self.deliver(kind, 1)

    def all_events_arrive(self) -> None:
        for kind in KINDS:
            self.deliver(kind)

    def deliver(self, kind: str, limit: int = 1000) -> None:
        for _ in range(min(limit, len(self.server.pending[kind]))):
            told = self.server.pending[kind].popleft()
            metadata = told.item["metadata"]
            self.memory.see(kind, told.type, {"metadata": metadata} if kind == SERVICES.kind else told.item)
            self.keep(Place.of(kind, metadata), int(metadata["resourceVersion"]))
            if kind == PODS.kind:
                self.known_pods.add(metadata["uid"])
                self.gone_pods |= {metadata["uid"]} if told.type == "DELETED" else set()

    def the_watch_of_pods_begins_anew(self) -> None:
        self.server.pending[PODS.kind].clear()
        self.memory.miss(PODS)
        for pod in self.server.all(PODS):
            self.memory.see(PODS.kind, None, pod)
            self.known_pods.add(pod["metadata"]["uid"])
            self.keep(Place.of(PODS.kind, pod["metadata"]), int(pod["metadata"]["resourceVersion"]))

    # What this process does.

    def read_a_pool(self) -> None:
        self.read(INFERENCE_POOLS)

    def read_a_service(self) -> None:
        self.read(SERVICES)

    def read(self, resource: Resource) -> None:
        if self.kube.is_learning(resource):
            return  # It would wait for the request that is under way.
        floor = self.floor.get(Place(resource.kind, NAMESPACE, NAME), 0)
        was_there = self.server.version(resource, NAMESPACE, NAME)
        found = run(self.kube.get(resource, NAME, NAMESPACE))
        if found is not None:
            version = int(found["metadata"]["resourceVersion"])
            assert version >= floor
            self.keep(Place(resource.kind, NAMESPACE, NAME), version)
        else:
            assert was_there is None or self.server.version(resource, NAMESPACE, NAME) != was_there

    def list_pools(self) -> None:
        if self.kube.is_learning(INFERENCE_POOLS):
            return
        place = Place(INFERENCE_POOLS.kind, NAMESPACE, NAME)
        floor, was_there = self.floor.get(place, 0), self.server.version(INFERENCE_POOLS, NAMESPACE, NAME)
        found = run(self.kube.list(INFERENCE_POOLS))
        for item in found:
            version = int(item["metadata"]["resourceVersion"])
            assert version >= floor
            self.keep(place, version)
        if not found:
            is_news = was_there is not None and was_there > floor
            is_other = self.server.version(INFERENCE_POOLS, NAMESPACE, NAME) != was_there
            assert was_there is None or is_news or is_other

    def list_pods(self) -> None:
        if self.kube.is_learning(PODS):
            return
        self.check_pods(NAMESPACE, f"{LABEL_POOL}={NAME}")

    def list_all_pods(self) -> None:
        if not self.kube.is_learning(PODS):
            self.check_pods("", OURS, show_metadata)

    def check_pods(self, namespace: str, selector: str, view: View | None = None) -> None:
        before, gone, floor = self.pods() & self.known_pods, set(self.gone_pods), dict(self.floor)
        found = run(self.kube.list(PODS, namespace=namespace, label_selector=selector, view=view))
        uids = {pod["metadata"]["uid"] for pod in found}
        assert before & self.pods() <= uids
        assert not gone & uids
        for pod in found:
            place, version = Place.of(PODS.kind, pod["metadata"]), int(pod["metadata"]["resourceVersion"])
            assert version >= floor.get(place, 0)
            self.keep(place, version)

    def pods(self) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.server.all(PODS)}

    def write_a_status(self) -> None:
        if self.server.version(INFERENCE_POOLS, NAMESPACE, NAME):
            manifest = {key: value for key, value in pool(NAME).items() if key != "spec"}
            self.write(INFERENCE_POOLS, manifest | {"status": {"step": next(self.steps)}})

    def write_a_service(self) -> None:
        self.write(SERVICES, child("Service", NAME, NAME, own=next(self.steps)))

    def make_a_pod(self) -> None:
        self.known_pods.add(self.write(PODS, child("Pod", f"{NAME}-0", NAME))["metadata"]["uid"])

    def delete_a_pod(self) -> None:
        run(self.kube.delete(PODS, f"{NAME}-1", NAMESPACE))

    def delete_a_pod_by_its_uid(self) -> None:
        found = self.server.all(PODS)
        if uid := next((pod["metadata"]["uid"] for pod in found if pod["metadata"]["name"] == f"{NAME}-1"), ""):
            run(self.kube.delete(PODS, f"{NAME}-1", NAMESPACE, uid=uid))

    def patch_a_pod(self) -> None:
        if self.kube.is_learning(PODS):
            return
        with contextlib.suppress(NotFound, Unavailable):
            patched = run(self.kube.merge(PODS, f"{NAME}-1", NAMESPACE, {"spec": {"own": next(self.steps)}}))
            self.keep(Place.of(PODS.kind, patched["metadata"]), int(patched["metadata"]["resourceVersion"]))

    def write(self, resource: Resource, manifest: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(Unavailable):  # It was carried out nevertheless.
            run(self.kube.apply_status(manifest) if "status" in manifest else self.kube.apply(manifest))
        written = self.server.written[-1]
        self.keep(Place.of(resource.kind, written["metadata"]), int(written["metadata"]["resourceVersion"]))
        return written

    def an_answer_will_be_lost(self) -> None:
        self.server.loses_next_answer = True

    def become_the_leader(self) -> None:
        self.memory.forget()
        for resource in (INFERENCE_POOLS, SERVICES):
            if version := self.server.version(resource, NAMESPACE, NAME):
                self.keep(Place(resource.kind, NAMESPACE, NAME), version)
        self.known_pods |= self.pods()

    def a_long_time_passes(self) -> None:
        self.now_s += AGE_S + 1

    def keep(self, place: Place, version: int) -> None:
        self.floor[place] = max(self.floor.get(place, 0), version)
