"""Calendar windows: the minute, the day and the month (UTC) that a moment lies in, as unix seconds.

Fixed windows rather than sliding ones: one counter each is exact, costs the same however many requests come, and its
end can be told to a caller, who can wait for it. The price is known: around the turn of a minute a tenant may use two
minutes' worth within less than one.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

WindowName = Literal["minute", "day", "month"]
WINDOWS: Final[tuple[WindowName, ...]] = ("minute", "day", "month")
Starts: TypeAlias = tuple[int, int, int]
"""When the minute, the day and the month began."""

MAX_AHEAD_S: Final = 3600
"""A window that begins later than this from now was begun by a clock that was wrong, and is left."""
_MINUTE_S: Final = 60
_DAY_S: Final = 86_400
_LONGEST_MONTH_S: Final = 31 * _DAY_S


def find_starts(now_s: float) -> Starts:
    """Return when the windows began that unix time `now_s` lies in."""
    second = int(now_s)
    return second - second % _MINUTE_S, second - second % _DAY_S, _find_month(second)


def find_end(window: WindowName, start_s: int) -> int:
    """Return when the window ends that began at `start_s`."""
    if window == "minute":
        return start_s + _MINUTE_S
    if window == "day":
        return start_s + _DAY_S
    return _find_month(start_s + _LONGEST_MONTH_S)


def _find_month(second: int) -> int:
    day = datetime.fromtimestamp(second, UTC).date()
    return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())
