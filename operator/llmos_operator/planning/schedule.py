"""Which limits hold for the number of replicas at a given time: those of `scaling`, or of a window of its schedule.

A window begins on its days at `start` and lasts until the next `end`, both on the clocks of its time zone; an equal end
is a whole day later. Where clocks are set back a time comes twice, and where they are set forward one is left out: then
the window begins at the earlier and ends at the later of the two moments that can be meant. It is in doubt longer, and
it is always one piece of time.

Of windows that overlap, the one with the most replicas counts: the greatest minReplicas, then the greatest maxReplicas.
A limit that a window does not name is the one of `scaling`, moved as far as the named one demands.

Zones come from the IANA database (the package `tzdata`, for minimal images have none). A zone that it does not know is
a problem that is told; its window counts as never in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from llmos.api.scaling import Scaling, ScheduleWindow

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """Fewest and most replicas, and where that is said."""

    min_replicas: int
    max_replicas: int
    window: str = ""
    """Name of the window in force; empty if none is."""

    def clamp(self, replicas: int) -> int:
        """Return the nearest number within the limits."""
        return min(max(replicas, self.min_replicas), self.max_replicas)


def find_limits(scaling: Scaling, now: datetime) -> ReplicaLimits:
    """Return the limits that hold at `now` (with a time zone)."""
    inside = [_limits_of(scaling, window) for window in scaling.schedule if is_in_force(window, now)]
    # Of equal ones the first counts.
    return max(
        inside,
        key=lambda limits: (limits.min_replicas, limits.max_replicas),
        default=ReplicaLimits(scaling.min_replicas, scaling.max_replicas),
    )


def find_schedule_problem(scaling: Scaling) -> str:
    """Return what is wrong with the schedule and what to do about it; empty if nothing is."""
    for window in scaling.schedule:
        if _find_zone(window.time_zone) is None:
            return (
                f"scaling.schedule: window {window.name!r} never applies, for the IANA database has no time zone "
                f"{window.time_zone!r}. Correct its timeZone, for example Europe/Berlin."
            )
    return ""


def is_in_force(window: ScheduleWindow, now: datetime) -> bool:
    """Whether `now` (with a time zone) lies in the window."""
    zone = _find_zone(window.time_zone)
    if zone is None:
        return False
    today = now.astimezone(zone).date()
    # At most a day and the hour by which clocks are changed; that may happen at midnight.
    return any(_is_between(window, zone, today + offset * _DAY, now) for offset in (-2, -1, 0, 1))


def _limits_of(scaling: Scaling, window: ScheduleWindow) -> ReplicaLimits:
    fewest = scaling.min_replicas if window.min_replicas is None else window.min_replicas
    most = scaling.max_replicas if window.max_replicas is None else window.max_replicas
    if window.max_replicas is None:
        most = max(fewest, most)
    return ReplicaLimits(min(fewest, most), most, window.name)


def _find_zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # No such key, one that is no relative path, or a folder of the database such as `Europe`.
        return None


def _is_between(window: ScheduleWindow, zone: ZoneInfo, day: date, now: datetime) -> bool:
    if window.days and DAYS[day.weekday()] not in window.days:
        return False
    start, end = time.fromisoformat(window.start), time.fromisoformat(window.end)
    last_day = day if end > start else day + _DAY
    return min(_moments(day, start, zone)) <= now < max(_moments(last_day, end, zone))


def _moments(day: date, at: time, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Both moments that a time can mean; they differ only around a change of the clocks."""
    moment = datetime.combine(day, at, zone)
    return moment.astimezone(UTC), moment.replace(fold=1).astimezone(UTC)
