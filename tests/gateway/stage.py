"""A whole gateway on loopback: its real servers, real clients, and a catalog that the test writes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from llmos_gateway.catalog import Catalog, Endpoint, HoldLimits, Pool
from llmos_gateway.http.connections import ConnectionLimits
from llmos_gateway.proxy.limits import Limits
from llmos_gateway.runtime.app import Gateway, Options
from llmos_gateway.salts import CacheSalts
from tests.gateway.values import api_key, key_text, pool

POOL = "team/chat"
KEY = key_text()
SALT_SECRET = bytes(32)
SALT = CacheSalts(SALT_SECRET).compute(api_key())
"""What the engine gets as the salt of the holder of the good key."""
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
DEADLINE_S = 20.0
"""Longest wait for anything in these tests; what comes comes at once."""


class FixedWatch:
    """A catalog that only the test changes."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    def peers(self) -> list[str]:
        return []


@dataclass
class Stage:
    """What a test acts on."""

    gateway: Gateway
    catalog: Catalog
    client: aiohttp.ClientSession
    url: str
    admin_url: str
    log: io.BytesIO
    running: asyncio.Task[None]

    def put_endpoints(self, *addresses: str, pool_id: str = POOL) -> None:
        """Say which replicas there are."""
        self.catalog.put_endpoints(pool_id, tuple(Endpoint(address, "127.0.0.1:1", address) for address in addresses))

    def post(self, body: Any = None, path: str = "/v1/chat/completions", **options: Any) -> Any:
        """Send a request as the holder of a good key; use it with `async with`."""
        options.setdefault("headers", {"Authorization": f"Bearer {KEY}"})
        return self.client.post(self.url + path, json=CHAT if body is None else body, **options)

    def get(self, path: str, **options: Any) -> Any:
        """Get a path as the holder of a good key; use it with `async with`."""
        options.setdefault("headers", {"Authorization": f"Bearer {KEY}"})
        return self.client.get(self.url + path, **options)

    async def read_error(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        """Return the error of an answer, which must have OpenAI's shape and an id."""
        body = json.loads(await response.read())
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert response.headers["X-Request-Id"]
        assert response.headers["Content-Type"].startswith("application/json")
        error: dict[str, Any] = body["error"]
        return error

    async def scrape(self) -> str:
        """Return the metrics."""
        async with self.client.get(f"{self.admin_url}/metrics") as response:
            return await response.text()

    async def read_load(self) -> dict[str, Any]:
        """Return what the gateway says of the pool's load."""
        async with self.client.get(f"{self.admin_url}/load") as response:
            load: dict[str, Any] = (await response.json()).get("pools", {}).get(POOL, {})
            return load

    async def wait_for_load(self, **expected: int) -> dict[str, Any]:
        """Wait until the pool's load holds these numbers; those that are 0 are not sent."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                load = await self.read_load()
                if all(load.get(name, 0) == value for name, value in expected.items()):
                    return load
                await asyncio.sleep(0.01)

    async def read_log(self, lines: int) -> list[dict[str, Any]]:
        """Return the access log once it has this many lines."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                written = self.log.getvalue().splitlines()
                if len(written) >= lines:
                    return [json.loads(line) for line in written]
                await asyncio.sleep(0.02)


@asynccontextmanager
async def open_gateway(
    *addresses: str,
    pools: Sequence[Pool] = (),
    hold: HoldLimits | None = None,
    limits: Limits | None = None,
    connections: ConnectionLimits | None = None,
    watch: FixedWatch | None = None,
    **options: Any,
) -> AsyncIterator[Stage]:
    """Run a gateway whose pool `team/chat` has these replicas."""
    catalog, log = Catalog(), io.BytesIO()
    catalog.is_synced = True
    catalog.keys.put(api_key())
    for one in pools or (replace(pool(POOL), hold=hold or HoldLimits()),):
        catalog.put_pool(one)
    chosen = Options(
        host="127.0.0.1",
        port=0,
        admin_port=0,
        access_log=log,
        **{"settle_s": 0.0, "drain_s": 0.0, "sweep_s": 0.05, "cache_salt_secret": SALT_SECRET, **options},
        limits=limits or Limits(),
        connections=connections or ConnectionLimits(),
    )
    gateway = Gateway(chosen, catalog, watch or FixedWatch())
    running = asyncio.create_task(gateway.run())
    scheme = "https" if chosen.certificate else "http"
    try:
        port, admin_port = await asyncio.wait_for(gateway.ports, DEADLINE_S)
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as client:
            stage = Stage(
                gateway, catalog, client, f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", log, running
            )
            stage.put_endpoints(*addresses)
            yield stage
    finally:
        gateway.stop()
        if not running.cancelled():
            await asyncio.wait_for(running, DEADLINE_S)


async def wait_until(is_true: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(DEADLINE_S):
        while not await is_true():  # noqa: ASYNC110 - what is waited for is beyond HTTP
            await asyncio.sleep(0.02)


def split_events(data: bytes) -> list[Any]:
    """Return what the events of a stream say: parsed JSON, or the text of `[DONE]` and of comments."""
    return [_read_event(event) for event in data.split(b"\n\n") if event]


def _read_event(event: bytes) -> Any:
    if event.startswith(b":") or event == b"data: [DONE]":
        return event.decode()
    return json.loads(event.removeprefix(b"data: "))
