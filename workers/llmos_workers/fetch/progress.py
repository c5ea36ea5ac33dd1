"""Progress as JSON lines on standard output, at most one a second.

The operator reads the last such line from the pod's log, so that a worker pod needs no access to the API server. The
rate is that of the last ten seconds: an average over everything would promise too much after the line has become slow.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

from llmos.api import FetchProgress

_WINDOW_S: Final = 10.0
_INTERVAL_S: Final = 1.0


class Progress:
    """Counts bytes from several threads and prints how far they are."""

    def __init__(self, total_bytes: int, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at zero of `total_bytes`."""
        self._total_bytes, self._out, self._clock = total_bytes, out, clock
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._printed_at_s = float("-inf")
        self._window: deque[tuple[float, int]] = deque()

    def expect(self, total_bytes: int) -> None:
        """Set how many bytes there will be."""
        with self._lock:
            self._total_bytes = total_bytes

    def skip(self, count_bytes: int) -> None:
        """Count bytes of an earlier run (negative: that had to be thrown away); they say nothing of the rate."""
        with self._lock:
            self._done_bytes += count_bytes

    def add(self, count_bytes: int) -> None:
        """Count bytes that have arrived."""
        with self._lock:
            now_s = self._clock()
            self._done_bytes += count_bytes
            self._window.append((now_s, count_bytes))
            if now_s - self._printed_at_s >= _INTERVAL_S:
                self._print(now_s)

    def finish(self) -> None:
        """Print the last line."""
        with self._lock:
            self._print(self._clock())

    def compute(self, now_s: float) -> FetchProgress:
        """How far it is at that time."""
        while self._window and self._window[0][0] < now_s - _WINDOW_S:
            self._window.popleft()
        span_s = max(now_s - self._window[0][0], _INTERVAL_S) if self._window else _INTERVAL_S
        rate = int(sum(count for _, count in self._window) / span_s)
        left_bytes = max(0, self._total_bytes - self._done_bytes)
        eta_s = 0 if not left_bytes else left_bytes // rate if rate else None
        return FetchProgress(
            bytes_done=max(0, min(self._done_bytes, self._total_bytes)),
            bytes_total=self._total_bytes,
            bytes_per_second=rate,
            eta_seconds=eta_s,
        )

    def _print(self, now_s: float) -> None:
        self._printed_at_s = now_s
        print(self.compute(now_s).model_dump_json(by_alias=True), file=self._out, flush=True)
