"""Progress as JSON lines on standard output, at most one every two seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TextIO

_INTERVAL_S: Final = 2.0


class Progress:
    """Prints how far the reading is."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Print to `out`."""
        self._out, self._clock = out, clock
        self._printed_at_s = float("-inf")

    def show(self, done_bytes: int, total_bytes: int, lines: int, *, is_last: bool = False) -> None:
        """Print a line, unless the last one is too fresh."""
        now_s = self._clock()
        if is_last or now_s - self._printed_at_s >= _INTERVAL_S:
            self._printed_at_s = now_s
            progress = {"bytesDone": done_bytes, "bytesTotal": total_bytes, "lines": lines}
            now = datetime.now(UTC).replace(microsecond=0).isoformat()
            line = {"event": "progress", "phase": "preparing", "activeAt": now, "progress": progress}
            print(json.dumps(line), file=self._out, flush=True)
