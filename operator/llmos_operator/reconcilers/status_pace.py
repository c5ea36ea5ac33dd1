"""How often a pool's status is written while only its details change.

Pods of a pool that makes or ends many change many times a second, and with each of them numbers and messages. A write
of a status costs the API server more than the look at the pool that it tells of, and everybody who watches pools is
told. The next look after the pause that succeeds writes what is true then. What was true in between nobody needs: where
a replica is in trouble, everything is written at once (`pool`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from llmos_operator.reconcilers.keys import Key

PACE_S: Final = 1.0


class StatusPace:
    """When the status of each pool was written last; there are as many as there are pools."""

    def __init__(self) -> None:
        self._written: dict[Key, datetime] = {}

    def wait_s(self, key: Key, now: datetime) -> float:
        """Return after how many seconds details may be written again; 0 for now."""
        last = self._written.get(key)
        since_s = PACE_S if last is None else (now - last).total_seconds()
        # A clock that was put back must not keep a status for hours.
        return PACE_S - since_s if 0 <= since_s < PACE_S else 0.0

    def note(self, key: Key, now: datetime) -> None:
        """A status was written."""
        self._written[key] = now

    def forget(self, key: Key) -> None:
        """The pool is gone."""
        self._written.pop(key, None)
