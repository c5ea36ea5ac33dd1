"""Conditions: times that move only with the status, Events only on a change, problems that stay visible."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api import Condition, Reason
from llmos.api.reasons import REASONS
from llmos_operator.planning.conditions import (
    Fact,
    build_conditions,
    is_false,
    is_true,
    is_unknown,
    last_failure,
    plan_announcement,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)

facts = st.builds(
    Fact,
    st.sampled_from(["Ready", "Planned", "Available"]),
    st.sampled_from(["True", "False", "Unknown"]),
    st.sampled_from(list(Reason)),
    st.text(max_size=20),
)
rounds = st.lists(st.lists(facts, max_size=3, unique_by=lambda fact: fact.type), max_size=6)


def condition(reason: Reason, status: str = "False", kind: str = "Ready", message: str = "m") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=NOW)


@given(history=rounds)
def test_the_transition_time_moves_exactly_when_the_status_does(history: list[list[Fact]]) -> None:
    current: tuple[Condition, ...] = ()
    for number, wanted in enumerate(history):
        before = {c.type: c for c in current}
        now = NOW + timedelta(minutes=number)
        current = build_conditions(wanted, current, number, now)
        assert [(c.type, c.status, c.reason, c.message) for c in current] == [
            (fact.type, fact.status, fact.reason.value, fact.message) for fact in wanted
        ]
        for after in current:
            same = after.type in before and before[after.type].status == after.status
            expected = before[after.type].last_transition_time if same else now.replace(microsecond=0)
            assert (after.last_transition_time, after.observed_generation) == (expected, number)


@given(wanted=st.lists(facts, max_size=3, unique_by=lambda fact: fact.type))
def test_equal_facts_give_equal_conditions_at_any_time(wanted: list[Fact]) -> None:
    first = build_conditions(wanted, (), 1, NOW)
    assert build_conditions(wanted, first, 1, NOW + timedelta(days=1)) == first


def test_times_have_whole_seconds_as_the_api_server_writes_them() -> None:
    (ready,) = build_conditions([is_true("Ready", Reason.Ready)], (), 1, NOW)
    assert ready.to_manifest()["lastTransitionTime"] == "2026-01-01T12:00:00Z"


def test_a_fact_without_a_message_says_the_cause_of_its_reason() -> None:
    assert is_true("Ready", Reason.Ready) == Fact("Ready", "True", Reason.Ready, REASONS[Reason.Ready].cause)
    assert is_false("Ready", Reason.Starting).status == "False"
    assert is_unknown("Ready", Reason.Inspecting, "m") == Fact("Ready", "Unknown", Reason.Inspecting, "m")


ANNOUNCED = {
    "the first condition is a problem": ((), condition(Reason.OutOfMemory), True),
    "the first condition is as it should be": ((), condition(Reason.Starting), False),
    "another reason": ((condition(Reason.Starting),), condition(Reason.OutOfMemory), True),
    "another status": ((condition(Reason.Available),), condition(Reason.Available, "True"), True),
    "only other words": ((condition(Reason.Starting),), condition(Reason.Starting, message="2 of 3"), False),
    "another condition": ((), condition(Reason.Starting, kind="Planned"), False),
}


@pytest.mark.parametrize(("previous", "current", "is_told"), ANNOUNCED.values(), ids=ANNOUNCED.keys())
def test_an_event_tells_a_change_of_status_or_reason(
    previous: tuple[Condition, ...], current: Condition, is_told: bool
) -> None:
    assert (plan_announcement("Ready", previous, (current,)) is not None) is is_told


def test_an_event_is_a_warning_when_its_reason_is_a_problem() -> None:
    for reason in Reason:
        announcement = plan_announcement("Ready", (condition(reason, "Unknown"),), (condition(reason),))
        assert announcement is not None
        assert announcement.warning is REASONS[reason].problem


def test_the_last_problem_is_remembered_and_nothing_else() -> None:
    assert last_failure("Ready", ()) is None
    assert last_failure("Ready", (condition(Reason.Starting),)) is None
    assert last_failure("Ready", (condition(Reason.OutOfMemory, kind="Planned"),)) is None
    stranger = Condition(type="Ready", status="False", reason="OfANewerRelease", last_transition_time=NOW)
    assert last_failure("Ready", (stranger,)) is None
    remembered = last_failure("Ready", (condition(Reason.OutOfMemory, message="full"),))
    assert remembered is not None
    assert (remembered.reason, remembered.message) == (Reason.OutOfMemory, "full")
