"""A replica is killed under load: only what had begun to stream on it fails, and each of these says so."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from tests.gateway.raw import connect_to, find_closed_port
from tests.gateway.stage import CHAT, POOL, Stage, open_gateway, split_events, wait_until
from tests.gateway.values import pool

TOKENS = 60
REQUESTS = 30


@dataclass
class Replica:
    """A simulated engine in a process of its own."""

    address: str
    process: asyncio.subprocess.Process


@asynccontextmanager
async def run_replica() -> AsyncIterator[Replica]:
    port = find_closed_port()
    command = [sys.executable, "-m", "llmos_workers.simulate", "--served-model-name", "qwen", "--port", str(port)]
    null = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, "--host", "127.0.0.1", stdout=null, stderr=null)
    try:
        await wait_until(lambda: connect_to(port))
        yield Replica(f"127.0.0.1:{port}", process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def ask(stage: Stage, number: int, began: asyncio.Queue[int]) -> list[Any]:
    """Ask for a stream or a whole answer; return its events, or the answer as the only one."""
    body = {**CHAT, "max_tokens": TOKENS, "stream": number % 2 == 0}
    async with stage.post(body) as response:
        assert response.status == 200, await response.text()
        if not body["stream"]:
            return [await response.json()]
        first = await response.content.readuntil(b"\n\n")
        began.put_nowait(number)
        return split_events(first + await response.read())


async def test_only_streams_that_had_begun_on_a_killed_replica_fail() -> None:
    pools = [replace(pool(POOL), policy="round-robin")]
    async with run_replica() as first, run_replica() as second, open_gateway(pools=pools) as stage:
        stage.put_endpoints(first.address, second.address)
        began: asyncio.Queue[int] = asyncio.Queue()
        asking = [asyncio.create_task(ask(stage, number, began)) for number in range(REQUESTS)]
        for _ in range(REQUESTS // 2):
            await began.get()
        first.process.send_signal(signal.SIGKILL)
        asking += [asyncio.create_task(ask(stage, number, began)) for number in range(REQUESTS)]
        answers = await asyncio.gather(*asking)
        lines = await stage.read_log(2 * REQUESTS)
    lost = [events for events in answers if "error" in events[-1]]
    assert all(events[-1]["error"]["code"] == "replica_lost" for events in lost)
    assert all("choices" in events[0] for events in lost), "each of them had begun"
    assert sum(line["code"] == "replica_lost" for line in lines) == len(lost) > 0
    whole = [events for events in answers if events not in lost]
    assert all(events[-1] == "data: [DONE]" or events[-1]["usage"]["completion_tokens"] == TOKENS for events in whole)


async def test_the_only_replica_is_killed_and_another_takes_over() -> None:
    async with run_replica() as first, open_gateway(first.address) as stage:
        asking = asyncio.create_task(_read_status(stage.post({**CHAT, "max_tokens": 300})))
        await stage.wait_for_load(running=1)
        first.process.kill()
        await first.process.wait()
        stage.put_endpoints()
        await stage.wait_for_load(queued=1)
        async with run_replica() as second:
            stage.put_endpoints(second.address)
            assert await asking == 200


async def _read_status(asking: Any) -> int:
    async with asking as response:
        with contextlib.suppress(aiohttp.ClientPayloadError):
            await response.read()
        return int(response.status)
