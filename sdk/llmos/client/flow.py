"""What the synchronous and the asynchronous client share: each operation is a flow, written once, that does no I/O.

A flow is a generator. It yields what it wants to be done and gets the answer sent back; a driver (transport.py) does
it, blocking or awaiting:

    flow                                driver
    Send(request)     ------------>     one HTTP exchange      ---> Reply
    Open(request)     ------------>     a streamed answer      ---> Reply: empty, or the whole body of an error
    Read()            ------------>     its next line          ---> str, or None at the end
    Sleep(seconds)    ------------>     a pause                ---> None
    Emit(item)        ------------>     hands it to the caller ---> None
    return value      ------------>     hands it to the caller

A failed exchange comes back into the flow as a `ConnectionFailedError` that it may catch. One stream is open at a time:
the next Open closes it, and so does the end of the flow, however it ends. So watches that reconnect, deadlines and
server-sent events exist once, and tests can play the server by sending values.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")

READ_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Request:
    """One HTTP request, relative to the driver's base URL."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content_type: str = "application/json"
    read_timeout_s: float = READ_TIMEOUT_S
    """Longest silence of the server."""


@dataclass(frozen=True)
class Reply:
    """What the server answered. `text` is empty for a stream that was opened."""

    status: int
    text: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the server refused."""
        return self.status >= 400

    def as_object(self) -> dict[str, Any]:
        """The body as a JSON object; empty if it is none."""
        return parse_object(self.text)


@dataclass(frozen=True)
class Send:
    """Do one exchange; the answer is a Reply."""

    request: Request


@dataclass(frozen=True)
class Open:
    """Open a streamed answer; the answer is a Reply without text, or with the whole text of an error."""

    request: Request


@dataclass(frozen=True)
class Read:
    """Read the stream's next line; the answer is None at its end."""


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Emit:
    """Give an item to the caller."""

    item: Any


Effect = Send | Open | Read | Sleep | Emit
Flow = Generator[Effect, Any, T]


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in the text; empty if there is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
