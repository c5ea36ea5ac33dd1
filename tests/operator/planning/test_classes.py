"""Which of several accelerator classes will do, and what stays so whatever the names and the reasons are."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from llmos.api import AcceleratorClass, Reason
from llmos.api.names import ANNOTATION_ACCELERATOR_CLASS, ANNOTATION_ACCELERATOR_CLASSES
from llmos_operator.planning.classes import choose_classes
from llmos_operator.planning.failures import Failure
from llmos_operator.planning.pool_classes import find_classes, unite_revisions
from llmos_operator.planning.quota import GangState, Placement
from llmos_operator.planning.quota_pods import read_classes, read_state
from llmos_operator.planning.quota_record import QuotaRecord
from llmos_operator.planning.replicas import Replica, ReplicaState

NAMES = ("a", "b", "c", "d")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def build_class(name: str) -> AcceleratorClass:
    return AcceleratorClass.model_validate(
        {
            "apiVersion": "llmos.dev/v1alpha1",
            "kind": "AcceleratorClass",
            "metadata": {"name": name},
            "spec": {"memory": "80Gi"},
        }
    )


def refuse(name: str) -> Failure:
    return Failure(Reason.DoesNotFit, f"Too small: {name}.")


@given(
    st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    st.sets(st.sampled_from(NAMES)),
    st.sets(st.sampled_from(NAMES)),
)
def test_each_class_is_used_or_left_out_in_its_order_and_named(
    names: list[str], known: set[str], small: set[str]
) -> None:
    choice = choose_classes(
        names,
        map(build_class, known),
        lambda each: refuse(each.metadata.name) if each.metadata.name in small else None,
    )
    assert list(choice.names) == [name for name in names if name in known - small]
    assert [each.name for each in choice.left_out] == [name for name in names if name not in known - small]
    assert (choice.refusal is None) == bool(choice.usable)
    if choice.refusal is not None:
        assert choice.refusal.reason is choice.left_out[0].failure.reason
        assert all(name in choice.refusal.message for name in names)


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(("r1", "r2", "r3")), min_size=1))
def test_replicas_of_all_classes_are_up_to_date_together(revisions: dict[str, str]) -> None:
    newest = next(iter(revisions.values()))
    before = tuple(
        Replica(f"pool-{revision}-{number}", number, revision, ReplicaState.READY, NOW)
        for number, revision in enumerate(("r1", "r2", "r3", "r4"))
    )
    after = unite_revisions(before, revisions, newest)
    assert [each.name for each in after] == [each.name for each in before]
    for old, new in zip(before, after, strict=True):
        assert (new.revision == newest) == (old.revision in revisions.values())
        assert new.class_name == find_classes(revisions).get(old.revision, "")


def test_of_two_classes_that_are_made_alike_the_preferred_one_counts() -> None:
    assert find_classes({"first": "r", "second": "r"}) == {"r": "first"}


def build_pod(**annotations: str) -> dict[str, object]:
    told = {
        {"made_for": ANNOTATION_ACCELERATOR_CLASS, "names": ANNOTATION_ACCELERATOR_CLASSES}[key]: value
        for key, value in annotations.items()
    }
    return {
        "metadata": {"name": "p", "annotations": told},
        "spec": {"schedulingGates": [{"name": "llmos.dev/quota"}]},
        "status": {},
    }


def test_a_list_without_the_class_that_a_pod_was_made_for_counts_as_nothing() -> None:
    assert read_classes(build_pod(made_for="a", names="a,b")) == ("a", "b")
    assert read_classes(build_pod(made_for="a", names="b,c")) == ("a",)
    assert read_classes(build_pod(made_for="a")) == ("a",)


def test_a_gated_gang_with_a_place_was_admitted() -> None:
    placed = QuotaRecord(placement=Placement("b", ("n1",)), is_moved=True)
    assert read_state([build_pod()], placed) is GangState.STARTING
    assert read_state([build_pod()], QuotaRecord()) is GangState.WAITING


def test_what_takes_a_moved_gangs_place_keeps_its_room_and_not_its_mark() -> None:
    moved = QuotaRecord(placement=Placement("b", ("n1",)), admitted_s=5.0, is_moved=True, attempts=2)
    after = moved.for_other_class("uid", 9.0)
    assert after == QuotaRecord(placement=Placement("b", ("n1",)), admitted_s=9.0, succeeds="uid", attempts=2)
