"""Structured logs: one JSON object a line, with the key that is being reconciled on each of them.

The key travels in a context variable: each reconcile is a task with a context of its own, so that every line of any
module below it carries the key without being told.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from llmos_operator.reconcilers.base import Key

current_key: ContextVar[Key | None] = ContextVar("current_key", default=None)
"""The key that this task reconciles."""

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# At their own info level these tell about each watch event.
_CHATTY = ("kopf", "asyncio", "aiohttp.access")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if key := current_key.get():
            line |= {"kind": key.kind, "namespace": key.namespace, "name": key.name}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logs(level: str, stream: TextIO) -> None:
    """Send all logs of this process to a stream. With level debug the libraries tell about their doings too."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else max(logging.WARNING, LEVELS[level]))
