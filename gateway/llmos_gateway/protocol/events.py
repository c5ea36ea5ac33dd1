"""Server-sent events on their way from an engine to a caller, at the price of a few searches a chunk.

An engine writes one event a token, and nearly every chunk holds one whole event that passes as it is. Only an event
with `"usage"` or `"error"` in structural quotes (see `usage`) is looked at:

- The last chunk of a stream carries usage and no choices. If the caller did not ask for it, it is counted and dropped;
  if it has choices too, only its usage is taken out.
- Engines may write `"usage":null` into every chunk because usage was asked for; it is cut out again.
- An error is noted: the answer failed, though it began with status 200.
- `[DONE]` is noted: chats and completions end with it, and one that does not was cut off, however clean its end.

Whole events leave here, so that an error event of the gateway never lands inside another one. Bytes that wait for the
end of their event are bounded; beyond that they pass as they are.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from llmos_gateway.protocol.usage import Usage, find_usage

_DONE_EVENT: Final = b"data: [DONE]"
MAX_EVENT_BYTES: Final = 1024 * 1024
_USAGE: Final = b'"usage"'
_ERROR: Final = b'"error"'
_NO_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA: Final = re.compile(rb"^data:[ ]?(.*?)\r?$", re.MULTILINE)


class EventFilter:
    """The events of one answer."""

    __slots__ = ("_hides_usage", "_rest", "events", "has_error", "is_done", "usage")

    def __init__(self, *, hides_usage: bool) -> None:
        self._hides_usage = hides_usage
        self._rest = b""
        self.events = 0
        """Events with data that passed. An engine sends about one a token."""
        self.usage: Usage | None = None
        self.has_error = False
        """Whether the engine reported a failure inside the stream."""
        self.is_done = False
        """Whether the last event said that the answer is whole."""

    def feed(self, data: bytes) -> bytes:
        """Take a chunk; return what may be sent on, which may be nothing."""
        if not self._rest and data.endswith(b"\n\n") and _USAGE not in data and _ERROR not in data:
            self.events += _count_events(data)
            self.is_done = data.endswith(_DONE_EVENT + b"\n\n")
            return data
        return self._feed_slowly(data)

    def finish(self) -> bytes:
        """Return what is left when the answer has ended."""
        rest, self._rest = self._rest, b""
        return self._pass(rest) if rest else b""

    def _feed_slowly(self, data: bytes) -> bytes:
        data = self._rest + data
        passed = []
        start = 0
        for match in _EVENT_END.finditer(data):
            passed.append(self._pass(data[start : match.end()]))
            start = match.end()
        self._rest = data[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            passed.append(self._rest)
            self._rest = b""
        return b"".join(passed)

    def _pass(self, event: bytes) -> bytes:
        self.is_done = event.rstrip() == _DONE_EVENT
        if _ERROR in event and _has_error(event):
            self.has_error = True
        if _USAGE in event:
            self.usage = find_usage(event) or self.usage
            if self._hides_usage:
                event = _hide_usage(event)
        self.events += _count_events(event)
        return event


def build_error_event(body: bytes) -> bytes:
    """Return an error as an event; `body` is one line of JSON."""
    return b"data: " + body + b"\n\n"


def build_comment(text: str) -> bytes:
    """Return a line that clients skip and that keeps a connection alive."""
    return f": {text}\n\n".encode()


def _count_events(data: bytes) -> int:
    # In a JSON string a new line is escaped.
    return data.count(b"\ndata: {") + data.startswith(b"data: {")


def _hide_usage(event: bytes) -> bytes:
    event = _NO_USAGE.sub(b"", event)
    fields = _read_data(event) if _USAGE in event else None
    if fields is None or "usage" not in fields:
        return event
    if not fields.get("choices"):
        return b""
    del fields["usage"]
    return build_error_event(orjson.dumps(fields))


def _has_error(event: bytes) -> bool:
    fields = _read_data(event)
    return fields is not None and bool(fields.get("error"))


def _read_data(event: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(b"\n".join(_DATA.findall(event)))
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None
