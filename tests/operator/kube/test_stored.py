"""Memory in front of the API server: whatever happens in whatever order, it is never older than it may be."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmos.api.names import (
    COMPONENT_TRAIN,
    LABEL_COMPONENT,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_POOL,
    MANAGED_BY,
)
from llmos_operator.kube.client import Object
from llmos_operator.kube.errors import Forbidden, NotFound
from llmos_operator.kube.resources import INFERENCE_POOLS, PODS, SERVICES, Resource
from llmos_operator.kube.stored import FEW_PODS, ROUNDS
from tests.operator.kube.lagging_server import run
from tests.operator.kube.stored_world import NAME, NAMESPACE, OURS, World, child, show_metadata

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
        shown = run(world.kube.list(PODS, label_selector=OURS, view=show_metadata))
        return sorted(shown, key=lambda pod: pod["metadata"]["name"])

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


def test_a_pod_that_comes_to_be_in_doubt_while_another_is_asked_for_is_asked_for_too() -> None:
    world, uids = make_pods(3 * FEW_PODS)
    first, second, *_ = uids
    run(world.kube.delete(PODS, first, NAMESPACE))
    world.server.between = lambda: run(world.kube.delete(PODS, second, NAMESPACE))
    world.list_all_pods()
    assert [read.verb for read in world.server.reads] == ["get", "get"]


def test_pods_that_all_come_to_be_in_doubt_again_are_listed() -> None:
    world, uids = make_pods(3 * FEW_PODS)
    name = next(iter(uids))

    def put_in_doubt() -> None:
        world.memory.doubt(PODS.kind, NAMESPACE, name)
        world.server.between = put_in_doubt

    put_in_doubt()
    world.list_all_pods()
    assert [read.verb for read in world.server.reads] == ["get"] * ROUNDS + ["list"]


def test_after_all_were_listed_those_that_did_not_change_are_shown_as_the_same_objects() -> None:
    world, uids = make_pods(3 * FEW_PODS)

    def look() -> dict[str, Object]:
        shown = run(world.kube.list(PODS, label_selector=OURS, view=show_metadata))
        return {pod["metadata"]["name"]: pod for pod in shown}

    before = look()
    for name in list(uids)[: FEW_PODS + 1]:
        run(world.kube.delete(PODS, name, NAMESPACE))
    after = look()
    assert [read.verb for read in world.server.reads] == ["list"]
    assert len(after) == 2 * FEW_PODS - 1
    assert all(after[name] is before[name] for name in after)


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
