"""Steady load on a pool: every request must be answered, whole, at the first try.

The load is bounded: a fixed number of clients, one request at a time each, until the block ends. It goes to one address
of the cluster and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import httpx

from e2e.support.api import Api
from e2e.support.asking import REQUEST_TIMEOUT_S, Answer, Target, ask, open_session
from e2e.support.waiting import eventually


@dataclass
class Report:
    """What came of the load so far."""

    completed: int = 0
    failures: list[Answer] = field(default_factory=list)

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
        told = "; ".join(map(str, self.failures[:5]))
        return f"{self.completed} requests were answered, {len(self.failures)} failed: {told}"


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
    target: Target, *, streaming: int = 4, whole: int = 2, max_tokens: int = 100
) -> AsyncIterator[Report]:
    """Ask all the time from so many clients; every connection is kept for the next request, as real clients do."""
    report, stop = Report(), asyncio.Event()
    async with open_session() as session:
        clients = [
            asyncio.create_task(_ask_until(stop, session, target, max_tokens, number < streaming, report))
            for number in range(streaming + whole)
        ]
        try:
            yield report
        finally:
            stop.set()
            await asyncio.gather(*clients)


async def _ask_until(
    stop: asyncio.Event,
    session: aiohttp.ClientSession,
    target: Target,
    max_tokens: int,
    stream: bool,
    report: Report,
) -> None:
    while not stop.is_set():
        answer = await ask(session, target, max_tokens, stream=stream)
        if answer.problem:
            report.failures.append(answer)
            await asyncio.sleep(0.2)
        else:
            report.completed += 1
