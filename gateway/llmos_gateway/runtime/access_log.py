"""The audit log: one JSON line for each request, whatever became of it. It says who asked for what, what was decided,
and how many tokens it took; never a prompt or an answer, and of a key only the public part. A thread of its own writes
it, so that neither a slow reader nor the writing itself holds up a request.

Between request and thread is a bounded queue; lines that find no room are counted and lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

import orjson

FLUSH_S: Final = 0.2
MAX_LINES: Final = 20_000


class AccessLog:
    """Writes lines to a stream. Use it as a context manager.

    Args:
        stream: a raw or buffered binary stream that belongs to the caller.
        on_dropped: told how many lines were lost.
    """

    def __init__(self, stream: BinaryIO, *, on_dropped: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_dropped = on_dropped
        self._lines: deque[tuple[float, dict[str, Any]]] = deque()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)

    def __enter__(self) -> AccessLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing.set()
        self._thread.join(timeout=5.0)

    def add(self, unix_s: float, fields: dict[str, Any]) -> None:
        """Have a line written soon."""
        if len(self._lines) >= MAX_LINES:
            self._on_dropped(1)
        else:
            self._lines.append((unix_s, fields))

    def _run(self) -> None:
        while not self._is_closing.wait(FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        count = len(self._lines)
        if not count:
            return
        lines = (self._lines.popleft() for _ in range(count))
        data = b"".join(orjson.dumps({"time": _format_time(unix_s)} | fields) + b"\n" for unix_s, fields in lines)
        try:
            self._stream.write(data)
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads the log any more; requests go on.
            self._on_dropped(count)


def _format_time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
