"""When the log of each pod was read last: a pass may come with every event, and a log is not worth reading so often.

What kept the last look from reading it is remembered until the next one, so that passes in between say the same.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

LIMIT: Final = 10_000
"""What was looked at longest ago is forgotten first, and may be looked at."""


class Looks:
    """Times of looks, by uid."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, datetime] = OrderedDict()
        self._troubles: dict[str, str] = {}

    def may_look(self, uid: str, now: datetime, after: timedelta) -> bool:
        """Whether the last look was so long ago. If so, this one counts."""
        last = self._seen.get(uid)
        if last is not None and timedelta(0) <= now - last < after:
            return False
        self._seen[uid] = now
        self._seen.move_to_end(uid)
        if len(self._seen) > LIMIT:
            forgotten, _ = self._seen.popitem(last=False)
            self._troubles.pop(forgotten, None)
        return True

    def note(self, uid: str, trouble: str) -> None:
        """Remember how the look that counted went; empty if well."""
        self._troubles.pop(uid, None)
        if trouble:
            self._troubles[uid] = trouble

    def trouble_of(self, uid: str) -> str:
        """Return what kept the last look from reading."""
        return self._troubles.get(uid, "")
