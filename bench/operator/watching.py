"""When did something first become true? Answered by watches, as a user of the API would see it.

The watch runs in the process that also makes the load, on the same cores. So every time here is late rather than early.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import aiohttp
import orjson

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
    configuration: Configuration,
    resource: Resource,
    namespace: str,
    *see: Callable[[Object], None],
    on_gone: Callable[[Object], None] | None = None,
    label_selector: str = "",
) -> AsyncIterator[None]:
    """Tell every added or modified object of a kind to all of `see` while the block runs.

    What exists already is told first. The API server ends a watch that is read too slowly, as on a busy machine: then
    it goes on from the last event. A watch that cannot go on ends the block.

    Args:
        configuration: of the API server.
        resource: the kind.
        namespace: of the objects; empty for all.
        see: told of each object.
        on_gone: told of each object that was deleted.
        label_selector: which objects.
    """
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.load_cert_chain(configuration.cert_file, configuration.key_file)
    prefix = f"/apis/{resource.group}" if resource.group else "/api"
    place = f"namespaces/{namespace}/{resource.plural}" if namespace else resource.plural
    url = f"{configuration.host}{prefix}/{resource.version}/{place}"
    connector = aiohttp.TCPConnector(ssl=context)
    timeout = aiohttp.ClientTimeout(total=None, connect=10.0)

    def tell(event: Object) -> None:
        if event["type"] in {"ADDED", "MODIFIED"}:
            for each in see:
                each(event["object"])
        elif event["type"] == "DELETED" and on_gone is not None:
            on_gone(event["object"])

    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=_LINE_BYTES) as session,
        asyncio.TaskGroup() as tasks,
    ):
        opened = asyncio.Event()
        reader = tasks.create_task(_follow(session, url, label_selector, tell, opened))
        await opened.wait()
        try:
            yield
        finally:
            reader.cancel()


async def _follow(
    session: aiohttp.ClientSession,
    url: str,
    label_selector: str,
    tell: Callable[[Object], None],
    opened: asyncio.Event,
) -> None:
    query = {"watch": "1", "labelSelector": label_selector}
    while True:
        async with session.get(url, params=query, raise_for_status=True) as response:
            opened.set()
            async for line in response.content:
                event: Object = orjson.loads(line)
                if event["type"] == "ERROR":
                    raise ConnectionError(f"The API server cannot go on with a watch: {event['object']}. Repeat it.")
                query["resourceVersion"] = event["object"]["metadata"]["resourceVersion"]
                tell(event)
