"""What the road tells a tracer, if there is one. The implementation stands in `runtime.tracing`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Protocol


class Span(Protocol):
    """A piece of work that was begun."""

    def end(self, attributes: Mapping[str, str | int | float], error: str = "") -> None:
        """Say what became of it; `error` is empty if it went well."""


class Tracer(Protocol):
    """Begins spans."""

    def begin_request(self, name: str, headers: Mapping[str, str]) -> Span:
        """Begin the span of a request, as a part of the trace that its headers name."""

    def begin_attempt(self, request: Span, headers: MutableMapping[str, str]) -> Span:
        """Begin the span of an attempt, and write into the headers that the engine's part belongs to it."""
