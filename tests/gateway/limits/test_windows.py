"""Minutes, days and months of UTC."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from llmos_gateway.limits import WINDOWS, find_end, find_starts

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - in UTC


@given(MOMENTS)
def test_a_moment_lies_in_windows_that_begin_as_the_calendar_says(moment: datetime) -> None:
    minute = moment.replace(second=0, microsecond=0)
    day = minute.replace(hour=0, minute=0)
    assert find_starts(moment.timestamp()) == tuple(
        int(start.timestamp()) for start in (minute, day, day.replace(day=1))
    )


@given(MOMENTS)
def test_a_window_ends_where_the_next_one_begins(moment: datetime) -> None:
    starts = find_starts(moment.timestamp())
    ends = [find_end(window, start_s) for window, start_s in zip(WINDOWS, starts, strict=True)]
    month = datetime.fromtimestamp(starts[2], UTC)
    following = month + timedelta(days=monthrange(month.year, month.month)[1])
    assert ends == [starts[0] + 60, starts[1] + 86_400, int(following.timestamp())]
    assert all(find_starts(end_s)[index] == end_s for index, end_s in enumerate(ends))
