"""Memory in front of the API server: whatever happens in whatever order, it is never older than it may be."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmos.api.names import API_VERSION, LABEL_MANAGED_BY, LABEL_POOL, MANAGED_BY
from llmos_operator.kube.absence import AGE_S
from llmos_operator.kube.errors import Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES, Resource
from llmos_operator.kube.store import Place
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


def child(kind: str, name: str, owner: str, **spec: Any) -> dict[str, Any]:
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_POOL: owner}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}


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
            self.memory.see(kind, told.type, told.item if kind == INFERENCE_POOLS.kind else {"metadata": metadata})
            self.keep(Place.of(kind, metadata), int(metadata["resourceVersion"]))
            if kind == PODS.kind:
                self.known_pods.add(metadata["uid"])

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
        before = self.pods() & self.known_pods
        found = run(self.kube.list(PODS, namespace=NAMESPACE, label_selector=f"{LABEL_POOL}={NAME}"))
        assert before & self.pods() <= {pod["metadata"]["uid"] for pod in found}

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


Action = Callable[[World], None]
Steps = list[tuple[Action, list[Action]]]

WATCHES: Final = (World.an_event_of_each_kind_arrives, World.all_events_arrive)
SELF: Final = (World.an_answer_will_be_lost, World.become_the_leader)
POOLS: Final = (
    World.another_changes_a_pool,
    World.another_deletes_a_pool,
    World.read_a_pool,
    World.list_pools,
    World.list_pools,
    World.write_a_status,
    *WATCHES,
    *SELF,
)
SERVICES_: Final = (
    World.another_changes_a_service,
    World.another_deletes_a_service,
    World.read_a_service,
    World.read_a_service,
    World.write_a_service,
    *WATCHES,
    *SELF,
)
ABSENCE: Final = (
    World.another_makes_a_pod,
    World.a_pod_ends,
    World.another_pod_ends,
    World.list_pods,
    World.list_pods,
    World.make_a_pod,
    World.a_long_time_passes,
    *WATCHES,
    *SELF,
)


def build_steps(actions: tuple[Action, ...]) -> st.SearchStrategy[Steps]:
    """Steps, each with what happens between the moment at which its request is carried out and the answer."""
    action = st.sampled_from(actions)
    return st.lists(st.tuples(action, st.lists(action, max_size=2)), min_size=2, max_size=12)


def do_all(world: World, actions: list[Action]) -> None:
    for action in actions:
        action(world)


def tell(steps: Steps) -> World:
    world = World()
    for action, meanwhile in steps:
        world.server.between = functools.partial(do_all, world, meanwhile)
        action(world)
    world.server.between = lambda: None
    return world


@settings(max_examples=1000, deadline=None)
@given(build_steps(POOLS))
def test_a_pool_is_never_older_than_what_was_written_read_or_told(steps: Steps) -> None:
    world = tell(steps)
    world.read_a_pool()
    world.all_events_arrive()
    found = run(world.kube.get(INFERENCE_POOLS, NAME, NAMESPACE))
    version = world.server.version(INFERENCE_POOLS, NAMESPACE, NAME)
    assert (found and int(found["metadata"]["resourceVersion"])) == version
    listed = run(world.kube.list(INFERENCE_POOLS))
    assert [int(item["metadata"]["resourceVersion"]) for item in listed] == [version] * (version is not None)


def test_a_list_of_all_objects_of_an_own_kind_is_asked_for_once() -> None:
    world = World()
    world.another_changes_a_pool()
    for _ in range(3):
        world.list_pools()
        world.all_events_arrive()
    assert [read.verb for read in world.server.reads] == []
    world.another_deletes_a_pool()
    world.all_events_arrive()
    assert run(world.kube.list(INFERENCE_POOLS)) == []
    assert [read.verb for read in world.server.reads] == []


@settings(max_examples=500, deadline=None)
@given(build_steps(SERVICES_))
@example(
    [
        (World.another_changes_a_service, []),
        (World.read_a_service, [World.another_changes_a_service, World.become_the_leader]),
    ]
)
def test_a_service_is_never_older_than_what_was_written_read_or_told(steps: Steps) -> None:
    tell(steps).read_a_service()


@settings(max_examples=1000, deadline=None)
@given(build_steps(ABSENCE))
@example([(World.list_pods, [World.another_makes_a_pod, World.become_the_leader])])
@example(
    [
        (World.list_pods, []),
        (World.make_a_pod, []),
        (World.a_pod_ends, []),
        (World.list_pods, [World.another_makes_a_pod, World.become_the_leader, World.list_pods]),
    ]
)
def test_a_pod_that_was_made_or_told_is_never_missing(steps: Steps) -> None:
    tell(steps).list_pods()
