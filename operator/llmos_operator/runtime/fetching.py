"""GET with a deadline and a limit for the body: how this process asks gateways and replicas for their load."""

from __future__ import annotations

from typing import Final

import aiohttp

CONNECTIONS: Final = 512
KEEP_ALIVE_S: Final = 30.0


class FetchError(Exception):
    """There was no usable answer; the message says why."""


def open_session() -> aiohttp.ClientSession:
    """Return a session that keeps connections; to be used as an async context manager."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S)
    return aiohttp.ClientSession(connector=connector, trust_env=False)


async def fetch(session: aiohttp.ClientSession, url: str, *, timeout_s: float, limit_bytes: int) -> bytes:
    """Return the body of a URL.

    Raises:
        FetchError: it did not come in time, is too long, or its status is not 200.
    """
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=timeout_s), allow_redirects=False) as response:
            if response.status != 200:
                raise FetchError(f"{url} answered {response.status}")
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > limit_bytes:
                    raise FetchError(f"{url} answered more than {limit_bytes} bytes")
            return body
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        # An address that is none is a ValueError.
        raise FetchError(f"{url} did not answer: {error or type(error).__name__}") from error
