"""Reading from the API server: one page of a list, and the events of a watch.

    ReadError                  cause in words
    ├── Cut                    no answer, or the connection broke: ask again, from where we were
    └── Refused                the server answered with an error: `status`
        └── Expired            410: what we know is too old to go on from; list again

The raw path of the official client is used, as in the operator: dicts in, dicts out, TLS and credentials are its
business. A watch that is silently dead cannot be told from one on which nothing happens, so the server is asked to end
each after `WATCH_S`, and one that has not ended `GRACE_S` later is given up.
"""
# ruff: noqa: N818 - "except Expired" says all; the tree above is read as words.

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client.api_client import ApiClient

from llmos.kubeconfig import Configuration

WATCH_S: Final = 45
GRACE_S: Final = 10
LIST_TIMEOUT_S: Final = 30
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
_GONE: Final = 410

Object = dict[str, Any]
Query = Mapping[str, str]


class ReadError(Exception):
    """The API server could not be read."""


class Cut(ReadError):
    """No answer, or the connection broke."""


class Refused(ReadError):
    """The server answered with an error."""

    def __init__(self, cause: str, status: int) -> None:
        super().__init__(cause)
        self.status = status


class Expired(Refused):
    """The version to go on from is too old."""


class Source(Protocol):
    """Where objects come from. Both may raise `ReadError`."""

    async def get(self, path: str, query: Query) -> Object:
        """Return the answer to one request."""
        ...

    def watch(self, path: str, query: Query) -> AsyncGenerator[Object, None]:
        """Yield the events of one watch until the server ends it."""
        ...


class AioSource:
    """The real API server. Use it as `async with AioSource(configuration) as source`.

    Args:
        configuration: address and credentials, from `llmos.kubeconfig.load_configuration`.
        watch_s: after how long the server is to end a watch.
        grace_s: how much later one that has not ended is given up.
    """

    def __init__(self, configuration: Configuration, *, watch_s: int = WATCH_S, grace_s: int = GRACE_S) -> None:
        self._configuration = configuration
        self._watch_s = watch_s
        self._watch_timeout = aiohttp.ClientTimeout(total=watch_s + grace_s, sock_connect=grace_s)
        self._client = ApiClient(configuration)
        self._client.user_agent = "llmos-gateway"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    async def get(self, path: str, query: Query) -> Object:
        try:
            response = await self._request(path, query, aiohttp.ClientTimeout(total=LIST_TIMEOUT_S))
            body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _build_cut(path, error) from error
        if response.status >= 300:
            raise _build_refused(path, response.status, body)
        return _parse(path, body)

    async def watch(self, path: str, query: Query) -> AsyncGenerator[Object, None]:
        query = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(self._watch_s)}
        try:
            response = await self._request(path, query, self._watch_timeout)
            try:
                if response.status >= 300:
                    raise _build_refused(path, response.status, await response.read())
                async with aclosing(_split_lines(path, response.content.iter_any())) as lines:
                    async for line in lines:
                        yield _parse(path, line)
            finally:
                _drop(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _build_cut(path, error) from error

    async def _request(self, path: str, query: Query, limit: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        url = f"{self._configuration.host}{path}?{urlencode(query)}"
        headers = {"Accept": "application/json"}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        answer = await self._client.call_api("GET", url, headers, _request_timeout=limit)
        response: aiohttp.ClientResponse = answer.response
        return response


def _drop(response: aiohttp.ClientResponse) -> None:
    """Let go of a connection at once: one that is dead would never answer TLS's goodbye."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


async def _split_lines(path: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_EVENT_BYTES:
            raise Cut(f"{path}: an event is larger than {MAX_EVENT_BYTES} bytes")


def _parse(path: str, body: bytes) -> Object:
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Cut(f"{path}: what came is no JSON") from error
    if not isinstance(value, dict):
        raise Cut(f"{path}: what came is no object")
    return value


def _build_cut(path: str, error: Exception) -> Cut:
    return Cut(f"{path}: the API server did not answer: {str(error) or type(error).__name__}")


def _build_refused(path: str, status: int, body: bytes) -> Refused:
    try:
        message = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode(errors="replace")
    kind = Expired if status == _GONE else Refused
    return kind(f"{path}: {message} (HTTP {status})", status)
