"""Server-sent events on their way from an engine to a caller, at the price of a few searches an event.

An engine is asked for usage at the end and for its counts in every event (vLLM: `continuous_usage_stats`), so that a
stream that ends early is settled by the engine's own count: one event may hold several tokens, or none. What the caller
did not ask for is taken out again:

- The last event of a stream carries usage and no choices. It is counted and dropped.
- Every other event carries the count of its choice. It nearly always stands at the end, as vLLM writes it, and is cut
  off there; where it stands elsewhere the event is parsed. `"usage":null` is cut out, too.

An engine that does not count in events sends events that pass as they are; then a stream that ends early is settled by
the number of its events.

- An error is noted: the answer failed, though it began with status 200.
- `[DONE]` is noted: chats and completions end with it, and one that does not was cut off, however clean its end.

Only what stands in structural quotes counts (see `usage`). Whole events leave here, so that an error event of the
gateway never lands inside another one. Bytes that wait for the end of their event are bounded; beyond that they pass as
they are.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Final

import orjson

from llmos_gateway.protocol.usage import Usage, find_usage, read_usage

_DONE_EVENT: Final = b"data: [DONE]"
_DONE_END: Final = _DONE_EVENT + b"\n\n"
MAX_EVENT_BYTES: Final = 1024 * 1024
_USAGE: Final = b'"usage"'
_ERROR: Final = b'"error"'
_COUNT: Final = b',"usage":{"prompt_tokens":'
_COUNT_AT_END: Final = re.compile(
    rb',"usage":\{"prompt_tokens":(\d+),"total_tokens":\d+,"completion_tokens":(\d+)\}\}\n\n'
)
_CHOICE: Final = re.compile(rb'"choices":\[\{"index":(\d+)')
_NO_USAGE: Final = re.compile(rb',\s*"usage"\s*:\s*null')
_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA: Final = re.compile(rb"^data:[ ]?(.*?)\r?$", re.MULTILINE)


class EventFilter:
    """The events of one answer.

    Args:
        hides_usage: whether the caller does not want the usage at the end.
        hides_counts: whether the caller does not want the count in every event.
        choices: answers for each prompt; their events have numbers of their own.
    """

    __slots__ = (
        "_choices",
        "_counts",
        "_hides_counts",
        "_hides_usage",
        "_rest",
        "_total",
        "events",
        "has_error",
        "is_done",
    )

    def __init__(self, *, hides_usage: bool, hides_counts: bool, choices: int = 1) -> None:
        self._hides_usage = hides_usage
        self._hides_counts = hides_counts
        self._choices = choices
        self._rest = b""
        self._total: Usage | None = None
        self._counts: dict[int, Usage | re.Match[bytes]] = {}
        """The last count of each choice, or where it was read: of a thousand counts one is asked for."""
        self.events = 0
        """Events with data that passed. An engine sends about one a token."""
        self.has_error = False
        """Whether the engine reported a failure inside the stream."""
        self.is_done = False
        """Whether the last event said that the answer is whole."""

    @property
    def usage(self) -> Usage | None:
        """What the engine counted: all of it if the stream has ended, else up to its last event."""
        if self._total is not None or not self._counts:
            return self._total
        # Each choice counts its own tokens, and those of its prompt, which it shares with the others of that prompt.
        counts = {index: _read_match(count) for index, count in self._counts.items()}
        prompts = {index // self._choices: usage for index, usage in counts.items()}
        return Usage(
            sum(usage.prompt_tokens for usage in prompts.values()),
            sum(usage.completion_tokens for usage in counts.values()),
            sum(usage.cached_tokens for usage in prompts.values()),
        )

    def feed(self, data: bytes) -> bytes:
        """Take a chunk; return what may be sent on, which may be nothing."""
        if self._rest or not data.endswith(b"\n\n"):
            return self._feed_slowly(data)
        if _USAGE not in data and _ERROR not in data:
            self.events += _count_events(data)
            self.is_done = data.endswith(_DONE_END)
            return data
        is_one = data.find(b"\n\n") == len(data) - 2 and b"\r" not in data
        return self._pass(data) if is_one else self._feed_slowly(data)

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
        if _COUNT in event and _ERROR not in event and (passed := self._pass_counted(event)) is not None:
            return passed
        self.is_done = event.rstrip() == _DONE_EVENT
        if _ERROR in event and _has_error(event):
            self.has_error = True
        if _USAGE in event:
            event = self._pass_usage(event)
        self.events += _count_events(event)
        return event

    def _pass_counted(self, event: bytes) -> bytes | None:
        """Take the count from where vLLM writes it; None if it is not all that this event says of usage."""
        choice = _CHOICE.search(event)
        at = event.rfind(_COUNT)
        count = _COUNT_AT_END.fullmatch(event, at)
        if choice is None or count is None or event.count(_USAGE) > 1 or not event.startswith(b"data: {"):
            return None
        self.is_done = False
        self.events += 1
        self._counts[int(choice[1])] = count
        return event[:at] + b"}\n\n" if self._hides_counts else event

    def _pass_usage(self, event: bytes) -> bytes:
        """Read what an event says of usage, and take out of it what the caller did not ask for."""
        if self._hides_usage:
            event = _NO_USAGE.sub(b"", event)
        fields = _read_data(event) if find_usage(event) is not None else None
        usage = _find_count(fields or {})
        if fields is None or "usage" not in fields or not fields.get("choices"):
            self._total = usage or self._total
            return b"" if self._hides_usage and fields is not None and "usage" in fields else event
        self._counts[_find_choice(fields["choices"])] = usage or Usage()
        if not self._hides_counts:
            return event
        del fields["usage"]
        return build_error_event(orjson.dumps(fields))


def split_events(data: bytes) -> list[bytes]:
    """Return the events of a chunk, with whatever stands before the first and behind the last end of one."""
    ends = [0, *(match.end() for match in _EVENT_END.finditer(data)), len(data)]
    return [data[start:end] for start, end in pairwise(ends) if start < end]


def build_error_event(body: bytes) -> bytes:
    """Return an error as an event; `body` is one line of JSON."""
    return b"data: " + body + b"\n\n"


def build_comment(text: str) -> bytes:
    """Return a line that clients skip and that keeps a connection alive."""
    return f": {text}\n\n".encode()


def _read_match(count: Usage | re.Match[bytes]) -> Usage:
    return count if isinstance(count, Usage) else Usage(int(count[1]), int(count[2]))


def _count_events(data: bytes) -> int:
    # In a JSON string a new line is escaped.
    return data.count(b"\ndata: {") + data.startswith(b"data: {")


def _find_count(fields: dict[str, Any]) -> Usage | None:
    # Not anywhere in it: /v1/responses repeats the caller's tools, which may hold what looks like a count.
    response = fields.get("response")
    return read_usage(fields.get("usage") or (response.get("usage") if isinstance(response, dict) else None))


def _find_choice(choices: Any) -> int:
    index = choices[0].get("index") if isinstance(choices, list) and isinstance(choices[0], dict) else 0
    return index if isinstance(index, int) else 0


def _has_error(event: bytes) -> bool:
    fields = _read_data(event)
    return fields is not None and bool(fields.get("error"))


def _read_data(event: bytes) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(b"\n".join(_DATA.findall(event)))
    except orjson.JSONDecodeError:
        return None
    return fields if isinstance(fields, dict) else None
