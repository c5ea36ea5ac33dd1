"""The last decisions about each pool, for people who ask why: `GET /scaling/NAMESPACE/POOL` and `llmos replay`.

Lines of JSON (`planning/scaling_record.py`), at most `KEPT` for a pool and `KEPT_IN_ALL` together, so that many pools
remember a shorter time each.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from llmos_operator.planning.scaling_record import ScalingRecord, write_record
from llmos_operator.reconcilers.keys import Key

KEPT: Final = 600
KEPT_IN_ALL: Final = 24_000


class Recorder:
    """Keeps the last decisions."""

    def __init__(self) -> None:
        self._lines: dict[Key, deque[bytes]] = {}

    def record(self, key: Key, record: ScalingRecord) -> None:
        """Keep one more decision, and of this pool no more than its share."""
        lines = self._lines.setdefault(key, deque())
        lines.append(write_record(record))
        share = min(KEPT, max(1, KEPT_IN_ALL // len(self._lines)))
        while len(lines) > share:
            lines.popleft()

    def forget(self, key: Key) -> None:
        """Drop what is kept of a pool."""
        self._lines.pop(key, None)

    def read(self, key: Key) -> bytes | None:
        """Return the lines of a pool, None if nothing is known of it."""
        lines = self._lines.get(key)
        return None if lines is None else b"".join(line + b"\n" for line in lines)
