"""Lists are exact until something is known, and never older than what is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmos_operator.kube.freshness import Freshness
from llmos_operator.kube.resources import PODS

KIND = PODS.kind


def version(number: int | str) -> dict[str, str]:
    return {"resourceVersion": str(number)}


def test_without_an_exact_list_nothing_is_known_enough() -> None:
    freshness = Freshness(PODS)
    freshness.see(KIND, version(7))
    assert freshness.floor(KIND) == ""


def test_a_write_during_the_first_list_counts() -> None:
    freshness = Freshness(PODS)
    freshness.see(KIND, version(12))
    freshness.see_list(KIND, version(10))
    assert freshness.floor(KIND) == "12"


def test_a_new_leader_begins_with_an_exact_list() -> None:
    freshness = Freshness(PODS)
    freshness.see_list(KIND, version(10))
    freshness.forget()
    assert freshness.floor(KIND) == ""


def test_a_version_that_is_no_number_makes_the_next_list_exact() -> None:
    freshness = Freshness(PODS)
    freshness.see_list(KIND, version(10))
    freshness.see(KIND, version("ten"))
    assert freshness.floor(KIND) == ""


def test_kinds_that_are_not_tracked_stay_exact() -> None:
    freshness = Freshness()
    freshness.see_list(KIND, version(10))
    assert freshness.floor(KIND) == ""


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 1000)), min_size=1))
def test_the_floor_is_the_highest_version_ever_seen(seen: list[tuple[bool, int]]) -> None:
    freshness = Freshness(PODS)
    for is_list, number in seen:
        (freshness.see_list if is_list else freshness.see)(KIND, version(number))
    expected = str(max(number for _, number in seen)) if any(is_list for is_list, _ in seen) else ""
    assert freshness.floor(KIND) == expected
