"""The two drivers of flows: the only place of the client that does I/O.

Both are the same loop around httpx, once blocking and once awaiting; everything that needs thought stands in the flows.
The httpx transport is a parameter, so that a test gives `httpx.MockTransport` or an application its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from llmos.client.connection import Connection
from llmos.client.errors import LlmosError, UnreachableError
from llmos.client.flow import Effect, Emit, Flow, Open, Read, Reply, Request, Send, Sleep

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0


def discard(_item: object) -> None:
    """Receive what a flow emits when nobody wants it."""


@dataclass(frozen=True)
class _Outcome:
    """What became of an effect, to be told to the flow."""

    answer: object = None
    error: LlmosError | None = None

    def resume(self, flow: Flow[Any]) -> Effect:
        return flow.throw(self.error) if self.error else flow.send(self.answer)


class Driver:
    """Runs flows and blocks meanwhile."""

    def __init__(self, connection: Connection, transport: httpx.BaseTransport | None = None) -> None:
        self._connection = connection
        self._http = httpx.Client(transport=transport, **connection.client_options(has_transport=transport is not None))

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def run(self, flow: Flow[T], receive: Callable[[Any], None] = discard) -> T:
        """Run the flow to its end; `receive` gets what it emits."""
        outcome = _Outcome()
        with _Performer(self._http, self._connection, receive) as performer:
            while True:
                try:
                    effect = outcome.resume(flow)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
                outcome = performer.perform(effect)

    def iterate(self, flow: Flow[Any]) -> Generator[Any, None, None]:
        """Yield what the flow emits; to leave the iterator early closes its stream."""
        outcome = _Outcome()
        with _Performer(self._http, self._connection) as performer:
            while True:
                try:
                    effect = outcome.resume(flow)
                except StopIteration:
                    return
                if isinstance(effect, Emit):
                    yield effect.item
                    outcome = _Outcome()
                else:
                    outcome = performer.perform(effect)


@dataclass
class _Performer:
    """Does the effects of one flow and holds its open stream."""

    http: httpx.Client
    connection: Connection
    receive: Callable[[Any], None] = discard
    stream: ExitStack = field(default_factory=ExitStack)
    lines: Iterator[str] = field(default_factory=lambda: iter(()))

    def __enter__(self) -> _Performer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def perform(self, effect: Effect) -> _Outcome:
        try:
            return _Outcome(self._do(effect))
        except httpx.HTTPError as error:
            return _Outcome(error=explain(error, self.connection))
        except LlmosError as error:
            return _Outcome(error=error)

    def _do(self, effect: Effect) -> object:
        match effect:
            case Send(request):
                response = self.http.request(**build_arguments(request, self.connection))
                return Reply(response.status_code, response.text)
            case Open(request):
                return self._open(request)
            case Read():
                return next(self.lines, None)
            case Sleep(seconds):
                time.sleep(seconds)
            case Emit(item):
                self.receive(item)
        return None

    def _open(self, request: Request) -> Reply:
        self.stream.close()
        self.stream = ExitStack()
        response = self.stream.enter_context(self.http.stream(**build_arguments(request, self.connection)))
        if response.is_error:
            self.lines = iter(())
            return Reply(response.status_code, response.read().decode(errors="replace"))
        self.lines = response.iter_lines()
        return Reply(response.status_code)


class AsyncDriver:
    """Runs flows and awaits meanwhile."""

    def __init__(self, connection: Connection, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._connection = connection
        self._http = httpx.AsyncClient(
            transport=transport, **connection.client_options(has_transport=transport is not None)
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def run(self, flow: Flow[T], receive: Callable[[Any], None] = discard) -> T:
        """Run the flow to its end; `receive` gets what it emits."""
        outcome = _Outcome()
        async with _AsyncPerformer(self._http, self._connection, receive) as performer:
            while True:
                try:
                    effect = outcome.resume(flow)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
                outcome = await performer.perform(effect)

    async def iterate(self, flow: Flow[Any]) -> AsyncGenerator[Any, None]:
        """Yield what the flow emits; to leave the iterator early closes its stream."""
        outcome = _Outcome()
        async with _AsyncPerformer(self._http, self._connection) as performer:
            while True:
                try:
                    effect = outcome.resume(flow)
                except StopIteration:
                    return
                if isinstance(effect, Emit):
                    yield effect.item
                    outcome = _Outcome()
                else:
                    outcome = await performer.perform(effect)


async def _no_lines() -> AsyncIterator[str]:
    return
    yield


@dataclass
class _AsyncPerformer:
    """Does the effects of one flow and holds its open stream."""

    http: httpx.AsyncClient
    connection: Connection
    receive: Callable[[Any], None] = discard
    stream: AsyncExitStack = field(default_factory=AsyncExitStack)
    lines: AsyncIterator[str] = field(default_factory=_no_lines)

    async def __aenter__(self) -> _AsyncPerformer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def perform(self, effect: Effect) -> _Outcome:
        try:
            return _Outcome(await self._do(effect))
        except httpx.HTTPError as error:
            return _Outcome(error=explain(error, self.connection))
        except LlmosError as error:
            return _Outcome(error=error)

    async def _do(self, effect: Effect) -> object:
        match effect:
            case Send(request):
                response = await self.http.request(**build_arguments(request, self.connection))
                return Reply(response.status_code, response.text)
            case Open(request):
                return await self._open(request)
            case Read():
                return await anext(self.lines, None)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case Emit(item):
                self.receive(item)
        return None

    async def _open(self, request: Request) -> Reply:
        await self.stream.aclose()
        self.stream = AsyncExitStack()
        response = await self.stream.enter_async_context(self.http.stream(**build_arguments(request, self.connection)))
        if response.is_error:
            self.lines = _no_lines()
            return Reply(response.status_code, (await response.aread()).decode(errors="replace"))
        self.lines = response.aiter_lines()
        return Reply(response.status_code)


def build_arguments(request: Request, connection: Connection) -> dict[str, Any]:
    """The request in httpx's words."""
    arguments: dict[str, Any] = {
        "method": request.method,
        "url": request.path,
        "params": dict(request.params),
        "timeout": httpx.Timeout(CONNECT_TIMEOUT_S, read=request.read_timeout_s),
        "extensions": {"sni_hostname": connection.tls_server_name} if connection.tls_server_name else {},
    }
    if request.body is not None:
        arguments |= {"json": request.body, "headers": {"Content-Type": request.content_type}}
    return arguments


def explain(error: httpx.HTTPError, connection: Connection) -> UnreachableError:
    """Say what a failed exchange means."""
    words = str(error) or type(error).__name__
    match error:
        case httpx.ConnectTimeout() | httpx.ConnectError():
            return UnreachableError(f"Cannot connect to {connection.server}: {words}.", connection.remedy)
        case httpx.TimeoutException():
            return UnreachableError(f"{connection.server} did not answer in time.", connection.remedy)
    return UnreachableError(f"The connection to {connection.server} was cut: {words}.", connection.remedy)
