"""Memory in front of the API server: whatever happens in whatever order, it is never older than it may be."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmos.api.names import (
    API_VERSION,
    COMPONENT_TRAIN,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    MANAGED_BY,
)
from llmos_operator.kube.client import Object, View
from llmos_operator.kube.errors import Forbidden, NotFound, Unavailable
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES, Resource
from llmos_operator.kube.store import AGE_S, Place
from llmos_operator.kube.stored import FEW_PODS, Memory, StoredKube
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


def show_metadata(item: Object) -> Object:
    return {"metadata": item["metadata"]}


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
PODS_: Final = (
    World.another_makes_a_pod,
    World.another_changes_a_pod,
    World.a_pod_ends,
    World.another_pod_ends,
    World.list_pods,
    World.list_pods,
    World.list_all_pods,
    World.make_a_pod,
    World.delete_a_pod,
    World.delete_a_pod_by_its_uid,
    World.patch_a_pod,
    World.a_long_time_passes,
    World.the_watch_of_pods_begins_anew,
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
@given(build_steps(PODS_))
@example([(World.list_pods, [World.another_makes_a_pod, World.become_the_leader])])
@example(
    [
        (World.list_pods, []),
        (World.make_a_pod, []),
        (World.a_pod_ends, []),
        (World.list_pods, [World.another_makes_a_pod, World.become_the_leader, World.list_pods]),
    ]
)
def test_a_pod_that_was_made_or_told_is_never_missing_and_never_older_than_it_was_known(steps: Steps) -> None:
    world = tell(steps)
    world.list_pods()
    world.list_all_pods()
    world.all_events_arrive()
    for owner in (f"{LABEL_POOL}={NAME}", OURS):
        found = run(world.kube.list(PODS, namespace=NAMESPACE, label_selector=owner))
        assert {pod["metadata"]["uid"] for pod in found} == world.pods()


def test_pods_are_asked_for_once_and_again_after_one_was_deleted_or_the_watch_began_anew() -> None:
    world = World()
    world.another_makes_a_pod()
    world.make_a_pod()
    for _ in range(3):
        world.list_pods()
        world.list_all_pods()
        world.another_changes_a_pod()
        world.all_events_arrive()
    assert (world.server.visits, world.server.reads) == (1, [])
    world.delete_a_pod()
    for _ in range(3):
        world.list_pods()
        world.all_events_arrive()
    assert [read.verb for read in world.server.reads] == ["get"]
    world.the_watch_of_pods_begins_anew()
    world.list_pods()
    assert (world.server.visits, len(world.server.reads)) == (2, 1)


def test_what_a_view_shows_of_a_pod_is_the_same_object_until_the_pod_changes() -> None:
    world = World()
    world.make_a_pod()
    world.another_makes_a_pod()

    def look() -> list[Object]:
        world.all_events_arrive()
        return run(world.kube.list(PODS, label_selector=OURS, view=show_metadata))

    before = look()
    assert all(a is b for a, b in zip(before, look(), strict=True))
    assert [set(shown) for shown in before] == [{"metadata"}] * 2
    world.another_changes_a_pod()
    assert [a is b for a, b in zip(before, look(), strict=True)] == [True, False]
    whole = run(world.kube.list(PODS, label_selector=OURS))
    assert [pod["metadata"] for pod in whole] == [shown["metadata"] for shown in look()]
    assert "spec" in whole[0]


@pytest.mark.parametrize(("count", "verbs"), [(FEW_PODS, ["get"] * FEW_PODS), (FEW_PODS + 1, ["list"])])
def test_few_pods_in_doubt_are_asked_for_one_by_one_and_many_in_one_list(count: int, verbs: list[str]) -> None:
    world = World()
    for number in range(count + 3):
        world.server.put(child("Pod", f"{NAME}-{number}", NAME))
    world.list_all_pods()
    for number in range(count):
        run(world.kube.delete(PODS, f"{NAME}-{number}", NAMESPACE))
    world.list_all_pods()
    assert [read.verb for read in world.server.reads] == verbs


def make_pods(count: int) -> tuple[World, dict[str, str]]:
    """A world whose pods were all listed, and their uids by name."""
    world = World()
    for number in range(count):
        world.server.put(child("Pod", f"{NAME}-{number}", NAME))
    world.list_all_pods()
    return world, {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in world.server.all(PODS)}


@pytest.mark.parametrize("is_told_before_the_answer", [False, True])
def test_pods_that_were_deleted_by_uid_are_not_asked_for_once_their_end_was_told(
    is_told_before_the_answer: bool,
) -> None:
    world, uids = make_pods(2 * FEW_PODS)
    for name, uid in uids.items():
        if is_told_before_the_answer:
            world.server.between = world.all_events_arrive
        run(world.kube.delete(PODS, name, NAMESPACE, uid=uid))
    world.all_events_arrive()
    world.list_all_pods()
    world.list_pods()
    assert world.server.reads == []
    world.make_a_pod()
    world.list_pods()
    assert world.server.reads == []


def test_a_pod_of_the_same_name_as_one_that_was_deleted_by_uid_is_shown() -> None:
    world, uids = make_pods(2)
    run(world.kube.delete(PODS, f"{NAME}-1", NAMESPACE, uid=uids[f"{NAME}-1"]))
    world.another_makes_a_pod()
    world.all_events_arrive()
    found = run(world.kube.list(PODS, label_selector=OURS))
    assert {pod["metadata"]["uid"] for pod in found} == world.pods()
    assert world.server.reads == []


def test_a_pod_that_a_write_did_not_find_is_not_asked_for() -> None:
    world, uids = make_pods(2 * FEW_PODS)
    for name in uids:
        run(world.server.remove(PODS, name, NAMESPACE))
        with pytest.raises(NotFound):
            run(world.kube.merge(PODS, name, NAMESPACE, {"spec": {"own": 1}}))
    world.list_all_pods()
    assert world.server.reads == []


@pytest.mark.parametrize("resource", [PODS, SERVICES])
def test_what_a_write_did_not_find_does_not_come_back_with_an_answer_from_before(resource: Resource) -> None:
    world, name = World(), f"{NAME}-1"
    for number in range(3):
        world.server.put(child(resource.kind, f"{NAME}-{number}", NAME))

    def another_deletes_it() -> None:
        run(world.server.remove(resource, name, NAMESPACE))
        with pytest.raises(NotFound):
            run(world.kube.merge(resource, name, NAMESPACE, {"spec": {"own": 1}}))

    world.server.between = another_deletes_it
    if resource == PODS:
        run(world.kube.list(PODS, label_selector=OURS))
    else:
        run(world.kube.get(resource, name, NAMESPACE))
    assert run(world.kube.get(resource, name, NAMESPACE)) is None


def test_a_write_that_misses_something_else_says_nothing_of_its_object() -> None:
    world, uids = make_pods(1)
    (name,) = uids
    error = NotFound("webhook missing", code=404)
    error.missing_name = "webhook"
    world.server.fail_next("patch", PODS.kind, error)
    with pytest.raises(NotFound):
        run(world.kube.merge(PODS, name, NAMESPACE, {"spec": {"own": 1}}))
    assert run(world.kube.get(PODS, name, NAMESPACE)) is not None
    assert [read.verb for read in world.server.reads] == ["get"]


def test_who_may_not_get_single_pods_lists_them() -> None:
    world = World()
    world.another_makes_a_pod()
    world.make_a_pod()
    world.list_all_pods()
    world.delete_a_pod()
    world.server.fail_next("get", PODS.kind, Forbidden("pods is forbidden"))
    world.list_all_pods()
    assert [read.verb for read in world.server.reads] == ["get", "list"]


def test_pods_of_other_owners_and_namespaces_are_not_shown_nor_those_that_are_not_watched() -> None:
    world = World()
    world.another_makes_a_pod()
    elsewhere = child("Pod", "elsewhere", NAME)
    elsewhere["metadata"]["namespace"] = "other"
    stranger = child("Pod", "stranger", NAME)
    del stranger["metadata"]["labels"][LABEL_MANAGED_BY]
    job = child("Pod", "j-0", "")
    job["metadata"]["labels"] = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB: NAME}
    model = child("Pod", "m-0", "")
    model["metadata"]["labels"] = {LABEL_MANAGED_BY: MANAGED_BY}
    # A person who labels a pod of a job as a pool's does not take it from its job, which would train twice.
    borrowed = child("Pod", "t-0", NAME)
    borrowed["metadata"]["labels"] |= {LABEL_JOB: "t", LABEL_COMPONENT: COMPONENT_TRAIN}
    for pod in (elsewhere, stranger, job, model, child("Pod", "b-0", "b"), borrowed):
        world.server.put(pod)
    for _ in range(2):
        for namespace, selector, names in (
            (NAMESPACE, f"{LABEL_POOL}={NAME}", ["a-1"]),
            (NAMESPACE, f"{LABEL_JOB}={NAME}", ["j-0"]),
            (NAMESPACE, f"{LABEL_JOB}=t", ["t-0"]),
            (NAMESPACE, f"{OURS},{LABEL_POOL}", ["a-1", "b-0", "t-0"]),
            (NAMESPACE, OURS, ["a-1", "b-0", "j-0", "m-0", "t-0"]),
            ("", OURS, ["a-1", "b-0", "elsewhere", "j-0", "m-0", "t-0"]),
            (NAMESPACE, f"{LABEL_POOL}={NAME},llmos.dev/component=replica", []),
        ):
            found = run(world.kube.list(PODS, namespace=namespace, label_selector=selector))
            assert sorted(pod["metadata"]["name"] for pod in found) == names
        world.delete_a_pod()
        world.another_makes_a_pod()
