"""Limits by the clock: windows across midnight, changes of the clocks, overlaps, and zones that do not exist."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.api.scaling import Scaling, ScheduleWindow
from llmos_operator.planning.schedule import DAYS, find_limits, find_schedule_problem, is_in_force

BERLIN = ZoneInfo("Europe/Berlin")


def window(start: str, end: str, *, zone: str = "UTC", name: str = "w", **more: Any) -> ScheduleWindow:
    return ScheduleWindow(name=name, start=start, end=end, time_zone=zone, **{"min_replicas": 2, **more})


def at(text: str, zone: Any = UTC) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def test_a_window_holds_from_its_start_until_before_its_end() -> None:
    day = window("08:00", "18:00")
    moments = ("2026-03-02T07:59:59", "2026-03-02T08:00", "2026-03-02T17:59:59", "2026-03-02T18:00")
    assert [is_in_force(day, at(moment)) for moment in moments] == [False, True, True, False]


def test_a_window_is_read_on_the_clocks_of_its_zone() -> None:
    day = window("08:00", "18:00", zone="Asia/Kolkata")
    assert is_in_force(day, at("2026-03-02T02:30"))
    assert not is_in_force(day, at("2026-03-02T12:30"))


def test_a_window_across_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    night = window("22:00", "06:00", days=("Fri",))
    assert is_in_force(night, at("2026-03-06T23:00")), "Friday evening"
    assert is_in_force(night, at("2026-03-07T05:59")), "Saturday morning"
    assert not is_in_force(night, at("2026-03-06T05:00")), "Friday morning belongs to Thursday"
    assert not is_in_force(night, at("2026-03-07T23:00")), "Saturday evening"


def test_equal_times_are_a_whole_day() -> None:
    sunday = window("00:00", "00:00", days=("Sun",))
    week = [is_in_force(sunday, at("2026-03-02T12:00") + timedelta(days=day)) for day in range(7)]
    assert week == [False] * 6 + [True]


def test_hours_that_clocks_leave_out_or_repeat_make_a_window_longer_never_shorter() -> None:
    night = window("02:30", "03:30", zone="Europe/Berlin")
    spring = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)  # 01:30 in Berlin; at 02:00 the clocks show 03:00
    assert is_in_force(night, spring), "half past two does not come: the earlier moment counts"
    assert is_in_force(night, spring + timedelta(minutes=59)), "03:29 summer time"
    assert not is_in_force(night, spring + timedelta(minutes=60))
    repeated = window("01:00", "02:30", zone="Europe/Berlin")
    autumn = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 for the first time
    assert is_in_force(repeated, autumn + timedelta(minutes=59)), "it ends when half past two comes again"
    assert not is_in_force(repeated, autumn + timedelta(minutes=60))


def test_without_a_window_in_force_the_limits_of_scaling_hold() -> None:
    scaling = Scaling(min_replicas=1, max_replicas=4, schedule=(window("08:00", "18:00"),))
    limits = find_limits(scaling, at("2026-03-02T00:00"))
    assert (limits.min_replicas, limits.max_replicas, limits.window) == (1, 4, "")


def test_of_windows_that_overlap_the_one_with_the_most_replicas_counts() -> None:
    schedule = (
        window("08:00", "18:00", name="day", min_replicas=2),
        window("12:00", "13:00", name="noon", min_replicas=6),
        window("00:00", "00:00", name="always", min_replicas=1, max_replicas=3),
    )
    scaling = Scaling(min_replicas=0, max_replicas=8, schedule=schedule)
    names = [find_limits(scaling, at(f"2026-03-02T{hour}:30")).window for hour in ("07", "11", "12")]
    assert names == ["always", "day", "noon"]


def test_a_limit_of_a_window_moves_the_other_one_out_of_its_way() -> None:
    more = Scaling(max_replicas=4, schedule=(window("00:00", "00:00", min_replicas=6),))
    assert find_limits(more, at("2026-03-02")).max_replicas == 6
    none = Scaling(min_replicas=2, schedule=(window("00:00", "00:00", min_replicas=None, max_replicas=0),))
    limits = find_limits(none, at("2026-03-02"))
    assert (limits.min_replicas, limits.max_replicas) == (0, 0)


@pytest.mark.parametrize("zone", ["Mars/Phobos", "Europe", "../UTC", "/etc/passwd", "", "a" * 64, "UTC\0"])
def test_a_zone_that_does_not_exist_is_told_with_its_window_and_never_applies(zone: str) -> None:
    scaling = Scaling(min_replicas=1, schedule=(window("00:00", "00:00", name="mars", zone=zone, min_replicas=7),))
    assert find_limits(scaling, at("2026-03-02")).min_replicas == 1
    problem = find_schedule_problem(scaling)
    assert "'mars'" in problem
    assert "Correct its timeZone" in problem


def test_a_schedule_in_order_has_no_problem() -> None:
    assert find_schedule_problem(Scaling(schedule=(window("00:00", "06:00", zone="America/New_York"),))) == ""


TIMES = st.times().map(lambda moment: moment.strftime("%H:%M"))
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo"]
)
MOMENTS = st.datetimes(min_value=datetime(2015, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
WINDOWS = st.builds(
    window,
    TIMES,
    TIMES,
    zone=ZONES,
    name=st.sampled_from("abcdef"),
    days=st.sets(st.sampled_from(DAYS)).map(tuple),
    min_replicas=st.none() | st.integers(0, 9),
    max_replicas=st.none() | st.integers(9, 20),
)


@given(WINDOWS, MOMENTS)
def test_away_from_changes_of_the_clocks_it_is_what_the_clock_on_the_wall_says(
    any_window: ScheduleWindow, now: datetime
) -> None:
    zone = ZoneInfo(any_window.time_zone)
    near = [now + timedelta(hours=hours) for hours in range(-30, 31, 3)]
    if len({moment.astimezone(zone).utcoffset() for moment in near}) > 1:
        return
    local = now.astimezone(zone)
    clock, start, end = local.strftime("%H:%M"), any_window.start, any_window.end
    days = any_window.days or DAYS
    today, yesterday = DAYS[local.weekday()] in days, DAYS[local.weekday() - 1] in days
    within_a_day = today and start <= clock < end
    across_midnight = (today and clock >= start) or (yesterday and clock < end)
    assert is_in_force(any_window, now) == (within_a_day if start < end else across_midnight)


@given(WINDOWS, MOMENTS)
def test_a_window_of_every_day_is_in_force_about_as_long_as_it_says(any_window: ScheduleWindow, now: datetime) -> None:
    daily = any_window.model_copy(update={"days": ()})
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (daily.start, daily.end))
    minutes = (end - start) % 1440 or 1440
    inside = sum(is_in_force(daily, now + timedelta(minutes=10 * step)) for step in range(144)) * 10
    assert minutes - 10 <= inside <= minutes + 70, "never shorter than said, and at most by the hour longer"


@given(st.lists(WINDOWS, max_size=4), MOMENTS, st.integers(0, 5), st.integers(5, 12))
def test_limits_are_always_in_order_and_never_below_any_window_in_force(
    windows: list[ScheduleWindow], now: datetime, fewest: int, most: int
) -> None:
    scaling = Scaling(min_replicas=fewest, max_replicas=most, schedule=tuple(windows))
    limits = find_limits(scaling, now)
    assert 0 <= limits.min_replicas <= limits.max_replicas
    named = [each.min_replicas for each in windows if each.min_replicas is not None and is_in_force(each, now)]
    assert limits.min_replicas >= max(named, default=0)
    assert limits.clamp(0) == limits.min_replicas
    assert limits.clamp(1000) == limits.max_replicas
