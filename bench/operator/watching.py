"""When did something first become true? Answered by watches, as a user of the API would see it.

The watch runs in the process that also makes the load, on the same cores. So every time here is late rather than early.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from bench.operator.objects import Object
from llmos_operator.kube.config import Configuration
from llmos_operator.kube.resources import Resource

Predicate = Callable[[Object], bool]
_LINE_BYTES = 4 * 1024**2


class Sightings:
    """The first moment at which each object of one kind fulfilled a predicate, by name, in `time.perf_counter`
    seconds."""

    def __init__(self, predicate: Predicate) -> None:
        self._predicate = predicate
        self._changed = asyncio.Event()
        self.first_s: dict[str, float] = {}

    def see(self, body: Object) -> None:
        """Take note of an object as an event shows it."""
        name = body["metadata"]["name"]
        if name not in self.first_s and self._predicate(body):
            self.first_s[name] = time.perf_counter()
            self._changed.set()

    async def wait_for_any(self, timeout_s: float) -> float:
        """Wait until one object was seen; return when the first one was."""
        async with asyncio.timeout(timeout_s):
            while not self.first_s:
                self._changed.clear()
                await self._changed.wait()
        return min(self.first_s.values())

    async def wait(self, names: Collection[str], timeout_s: float) -> float:
        """Wait until all of `names` were seen; return when the last one was.

        Raises:
            TimeoutError: with the number that is missing.
        """
        wanted = set(names)
        try:
            async with asyncio.timeout(timeout_s):
                while not wanted <= self.first_s.keys():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            missing = wanted - self.first_s.keys()
            raise TimeoutError(
                f"{len(missing)} of {len(wanted)} objects, for example {min(missing)}, did not get there in "
                f"{timeout_s:.0f} s. Look at the operator's log."
            ) from None
        return max(self.first_s[name] for name in wanted)


@asynccontextmanager
async def watch(
    configuration: Configuration, resource: Resource, namespace: str, *see: Callable[[Object], None]
) -> AsyncIterator[None]:
    """Tell every added or modified object of a kind in a namespace to all of `see` while the block runs.

    What exists already is told first. A watch that breaks makes the block fail when it ends.
    """
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.load_cert_chain(configuration.cert_file, configuration.key_file)
    prefix = f"/apis/{resource.group}" if resource.group else "/api"
    url = f"{configuration.host}{prefix}/{resource.version}/namespaces/{namespace}/{resource.plural}?watch=1"
    connector = aiohttp.TCPConnector(ssl=context)
    timeout = aiohttp.ClientTimeout(total=None, connect=10.0)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=_LINE_BYTES) as session,
        session.get(url, raise_for_status=True) as response,
    ):
        reader = asyncio.create_task(_read(response, see))
        try:
            yield
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
            response.close()


async def _read(response: aiohttp.ClientResponse, see: tuple[Callable[[Object], None], ...]) -> None:
    async for line in response.content:
        event: dict[str, Any] = json.loads(line)
        if event["type"] in {"ADDED", "MODIFIED"}:
            for each in see:
                each(event["object"])
    raise ConnectionError("The API server ended a watch. Repeat the run.")
