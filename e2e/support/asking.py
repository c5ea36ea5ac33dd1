"""One request as a client of the OpenAI API sends it, and the strictest judge of its answer: whole, or what is missing.

Nothing is retried here. A client that retries would hide what a story must see.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp

REQUEST_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Target:
    """Where requests go, whom they ask for, and who asks."""

    url: str
    """Base URL that ends in /v1."""
    model: str
    key: str = ""
    """API key; empty sends none."""

    def build_headers(self) -> dict[str, str]:
        """Return the headers of each request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    status: int = 0
    """0 if there was none."""
    problem: str = ""
    """What is wrong; empty for a whole answer."""
    is_stream: bool = False
    tokens: int = 0
    """Tokens that came, of a stream also before it broke."""
    error: dict[str, Any] = field(default_factory=dict)
    """The error object of the API, from the body or from within the stream."""
    usage: dict[str, Any] = field(default_factory=dict)
    retry_after: str = ""
    took_s: float = 0.0

    def __str__(self) -> str:
        """For the message of a failed assertion."""
        kind = "stream" if self.is_stream else "request"
        return f"{kind}, {self.took_s:.1f} s, {self.tokens} tokens: {self.problem or 'whole'}"


@asynccontextmanager
async def open_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Connections that are kept for the next request, as real clients do."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False, connector=connector) as session:
        yield session


def build_body(model: str, max_tokens: int, *, stream: bool, content: str = "Tell a long story.") -> dict[str, Any]:
    """A chat request that is answered with exactly so many tokens."""
    message = {"role": "user", "content": content}
    return {"model": model, "messages": [message], "max_tokens": max_tokens, "ignore_eos": True, "stream": stream}


async def ask(
    session: aiohttp.ClientSession,
    target: Target,
    max_tokens: int,
    *,
    stream: bool,
    content: str = "Tell a long story.",
) -> Answer:
    """Send one request and judge what comes of it. Never raises for what the other side does."""
    began_s = time.monotonic()
    body = build_body(target.model, max_tokens, stream=stream, content=content)
    heard = _Heard(is_stream=stream)
    try:
        async with session.post(
            f"{target.url}/chat/completions", json=body, headers=target.build_headers()
        ) as response:
            heard.status, heard.retry_after = response.status, response.headers.get("Retry-After", "")
            async for line in response.content:
                heard.take(line)
    except (aiohttp.ClientError, TimeoutError) as error:
        heard.problem = f"{type(error).__name__}: {error}"
    return heard.judge(max_tokens, time.monotonic() - began_s)


@dataclass
class _Heard:
    is_stream: bool
    status: int = 0
    problem: str = ""
    retry_after: str = ""
    tokens: int = 0
    is_done: bool = False
    error: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    rest: bytes = b""

    def take(self, line: bytes) -> None:
        """Take in one line of the body; comments and empty lines of a stream mean nothing."""
        if not (self.is_stream and self.status == 200):
            self.rest += line
        elif line.startswith(b"data: [DONE]"):
            self.is_done = True
        elif line.startswith(b"data: "):
            self._take_object(json.loads(line.removeprefix(b"data: ")))

    def _take_object(self, body: dict[str, Any]) -> None:
        self.error = body.get("error") or self.error
        self.usage = body.get("usage") or self.usage
        self.tokens += sum(bool(choice["delta"].get("content")) for choice in body.get("choices", ()))

    def judge(self, max_tokens: int, took_s: float) -> Answer:
        """Say what is missing."""
        self._read_rest()
        problem = self.problem or self._find_gap(max_tokens)
        if problem:
            problem = f"{datetime.now(UTC):%H:%M:%S.%f} {problem}"
        return Answer(
            self.status, problem, self.is_stream, self.tokens, self.error, self.usage, self.retry_after, took_s
        )

    def _read_rest(self) -> None:
        try:
            body = json.loads(self.rest or b"{}")
        except ValueError:
            self.problem = self.problem or f"{self.status} {self.rest[:200]!r}"
            return
        self.error = body.get("error") or self.error
        self.usage = body.get("usage") or self.usage
        self.tokens = self.tokens or self.usage.get("completion_tokens", 0)

    def _find_gap(self, max_tokens: int) -> str:
        if self.status != 200 or self.error:
            return f"{self.status} {self.error}"
        if self.is_stream and not self.is_done:
            return f"a stream of {self.tokens} tokens without its end"
        return "" if self.tokens == max_tokens else f"an answer of {self.tokens} tokens"
