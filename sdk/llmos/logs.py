"""The log of a long-running program of LLMOS: one JSON object a line, the same fields for operator and gateway."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO


class LogLevel(StrEnum):
    """How much a program tells of itself."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The level as `logging` knows it."""
        return logging.getLevelNamesMapping()[self.name]


def _add_nothing() -> Mapping[str, str]:
    return {}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; what the caller gives as `extra={"fields": ...}` stands in it as fields.

    Args:
        read_context: asked at each line for further fields: what the program is working on.
    """

    def __init__(self, read_context: Callable[[], Mapping[str, str]] = _add_nothing) -> None:
        super().__init__()
        self._read_context = read_context

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._read_context(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logs(
    level: LogLevel,
    stream: TextIO,
    *,
    chatty: Sequence[str] = (),
    read_context: Callable[[], Mapping[str, str]] = _add_nothing,
) -> None:
    """Send all logs of this process to a stream.

    Args:
        level: what is told.
        stream: where to.
        chatty: loggers of libraries that say at info what only helps to debug; below level debug they are kept to
            warnings.
        read_context: see `JsonFormatter`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(read_context))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.number)
    for name in chatty:
        is_debug = level is LogLevel.DEBUG
        logging.getLogger(name).setLevel(logging.INFO if is_debug else max(logging.WARNING, level.number))
