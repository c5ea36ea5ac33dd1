"""Steady load on a pool, and the strictest judge of it: every request must be answered, whole, at the first try.

The load is bounded: a fixed number of clients, one request at a time each, until the block ends. It goes to one address
of the cluster and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
import httpx

from e2e.support.api import Api
from e2e.support.waiting import eventually

REQUEST_TIMEOUT_S: Final = 120.0


@dataclass
class Report:
    """What came of the load so far."""

    completed: int = 0
    failures: list[str] = field(default_factory=list)

    async def wait_for_more(self, count: int, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Wait until so many further requests were answered or failed."""
        wanted = self._count() + count
        await eventually(f"{count} further answers", self._observe, lambda seen: seen >= wanted, timeout_s=timeout_s)

    async def _observe(self) -> int:
        return self._count()

    def _count(self) -> int:
        return self.completed + len(self.failures)

    def __str__(self) -> str:
        """For the message of a failed assertion."""
        return f"{self.completed} requests were answered, {len(self.failures)} failed: {self.failures[:5]}"


async def find_service_url(api: Api, namespace: str, name: str = "pool") -> str:
    """The address of a pool's Service that this machine reaches, once it answers: nodes learn of a new replica a moment
    after the status tells of it."""
    service = await api.get("Service", name, namespace)
    assert service is not None, f"there is no Service {name}"
    url = f"http://{service['spec']['clusterIP']}/v1"
    async with httpx.AsyncClient(trust_env=False) as client:
        await eventually(f"{url} answers", lambda: client.get(f"{url}/models"), lambda answer: answer.is_success)
    return url


@asynccontextmanager
async def steady_load(
    url: str, model: str, *, streaming: int = 4, whole: int = 2, max_tokens: int = 100
) -> AsyncIterator[Report]:
    """Ask all the time from so many clients; every connection is kept for the next request, as real clients do."""
    report, stop = Report(), asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        clients = [
            asyncio.create_task(
                _ask_until(stop, session, url, _build_body(model, max_tokens, number < streaming), report)
            )
            for number in range(streaming + whole)
        ]
        try:
            yield report
        finally:
            stop.set()
            await asyncio.gather(*clients)


def _build_body(model: str, max_tokens: int, stream: bool) -> dict[str, Any]:
    message = {"role": "user", "content": "Tell a long story."}
    return {
        "model": model,
        "messages": [message],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": stream,
    }


async def _ask_until(
    stop: asyncio.Event, session: aiohttp.ClientSession, url: str, body: dict[str, Any], report: Report
) -> None:
    while not stop.is_set():
        try:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                text = await response.text()
                problem = f"{response.status} {text[:200]}" if response.status != 200 else _find_gap(text, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            report.failures.append(f"{datetime.now(UTC):%H:%M:%S.%f} {problem}")
            await asyncio.sleep(0.2)
        else:
            report.completed += 1


def _find_gap(text: str, body: dict[str, Any]) -> str:
    """What is missing in an answer of status 200; empty for a whole one."""
    if not body["stream"]:
        tokens = json.loads(text)["usage"]["completion_tokens"]
        return "" if tokens == body["max_tokens"] else f"an answer of {tokens} tokens"
    return "" if text.rstrip().endswith("data: [DONE]") else f"a stream that ends with {text[-100:]!r}"
