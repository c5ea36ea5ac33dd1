"""Following objects under a simulated clock, against an API server made of values."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llmos_gateway.catalog import Catalog
from llmos_gateway.cluster import ClusterWatch
from llmos_gateway.cluster.source import Cut, Expired, Object, Query, Refused
from llmos_gateway.cluster.watcher import LONGEST_PAUSE_S, PAGE_OBJECTS, Name, Subject, Watcher
from tests.gateway.cluster.objects import key_object, model_object, pool_object, slice_object, tenant_object
from tests.gateway.values import api_key, key_text

pytestmark = pytest.mark.looptime

PATH = "/things"


class Server:
    """Objects by path, and what a watch is sent. Errors that are put in `failures` come first."""

    def __init__(self) -> None:
        self.objects: dict[str, list[Object]] = {}
        self.version = 1
        self.events: dict[str, asyncio.Queue[Object | Exception | None]] = {}
        self.failures: list[Exception] = []
        self.page_objects = PAGE_OBJECTS
        self.asked: list[tuple[str, Query]] = []

    async def get(self, path: str, query: Query) -> Object:
        self.asked.append((path, dict(query)))
        if self.failures:
            raise self.failures.pop(0)
        items, first = self.objects.get(path, []), int(query.get("continue", 0))
        last = first + self.page_objects if "limit" in query else len(items)
        metadata = {"resourceVersion": str(self.version)}
        if last < len(items):
            metadata["continue"] = str(last)
        return {"metadata": metadata, "items": items[first:last]}

    async def watch(self, path: str, query: Query) -> AsyncGenerator[Object, None]:
        self.asked.append((path, dict(query)))
        queue = self.queue(path)
        while (event := await queue.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    def queue(self, path: str) -> asyncio.Queue[Object | Exception | None]:
        return self.events.setdefault(path, asyncio.Queue())

    def send(self, kind: str, item: Object, path: str = PATH) -> None:
        self.queue(path).put_nowait({"type": kind, "object": item})

    def lists(self) -> int:
        return sum("resourceVersion" not in query and "continue" not in query for _, query in self.asked)

    def watched_from(self) -> list[str]:
        return [query["resourceVersion"] for _, query in self.asked if "resourceVersion" in query]


class Shelf:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.things: dict[Name, str] = {}

    def replace(self, things: Mapping[Name, str]) -> None:
        self.things = dict(things)

    def put(self, name: Name, thing: str) -> None:
        self.things[name] = thing

    def remove(self, name: Name) -> None:
        self.things.pop(name, None)

    def names(self) -> list[str]:
        return sorted(name for _, name in self.things)


def thing(name: str, version: int = 1, value: Any = "v") -> Object:
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version)}, "value": value}


def read_value(item: Object) -> str:
    return str(item["value"].lower())


Started = tuple[Server, Shelf, Watcher[str]]


@asynccontextmanager
async def following(*objects: Object, prepare: Callable[[Server], None] = lambda _: None) -> AsyncIterator[Started]:
    server, shelf = Server(), Shelf()
    server.objects[PATH] = list(objects)
    prepare(server)
    subject = Subject("Things", PATH, "a=b", read_value)
    watcher = Watcher(server, subject, shelf, clock=asyncio.get_running_loop().time)
    task = asyncio.create_task(watcher.run())
    try:
        await asyncio.sleep(0.01)
        yield server, shelf, watcher
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_there_is_listed_and_what_changes_is_heard() -> None:
    async with following(thing("a"), thing("b")) as (server, shelf, watcher):
        assert (shelf.names(), watcher.is_listed.is_set()) == (["a", "b"], True)
        server.send("ADDED", thing("c", 2))
        server.send("MODIFIED", thing("a", 3, "new"))
        server.send("DELETED", thing("b", 4))
        await asyncio.sleep(0.01)
        assert shelf.things == {("n", "a"): "new", ("n", "c"): "v"}
        assert all(query["labelSelector"] == "a=b" for _, query in server.asked)


async def test_a_long_list_comes_in_pages() -> None:
    def small_pages(server: Server) -> None:
        server.page_objects = 2

    async with following(*(thing(name) for name in "abcde"), prepare=small_pages) as (server, shelf, _):
        assert shelf.names() == list("abcde")
        assert len([q for _, q in server.asked if "limit" in q]) == 3


async def test_a_list_that_outlives_its_version_is_read_in_one_piece() -> None:
    def too_slow(server: Server) -> None:
        server.failures = [Expired("too old", 410)]

    async with following(thing("a"), prepare=too_slow) as (server, shelf, _):
        assert shelf.names() == ["a"]
        assert [("limit" in query) for _, query in server.asked[:2]] == [True, False]


async def test_a_watch_that_ends_goes_on_from_the_last_version_without_a_new_list() -> None:
    async with following(thing("a")) as (server, shelf, _):
        server.send("ADDED", thing("b", 7))
        server.send("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
        server.queue(PATH).put_nowait(None)
        await asyncio.sleep(1)
        assert (server.lists(), server.watched_from()) == (1, ["1", "9"])
        assert shelf.names() == ["a", "b"]


async def test_a_connection_that_breaks_goes_on_from_the_last_version() -> None:
    async with following(thing("a")) as (server, shelf, _):
        server.queue(PATH).put_nowait(Cut("reset"))
        await asyncio.sleep(1)
        server.send("ADDED", thing("b", 7))
        await asyncio.sleep(0.01)
        assert (server.lists(), shelf.names()) == (1, ["a", "b"])


@pytest.mark.parametrize(
    "end",
    [
        Expired("too old", 410),
        {"type": "ERROR", "object": {"code": 410, "message": "too old"}},
        {"type": "ERROR", "object": {"code": 500, "message": "oh"}},
        Refused("forbidden", 403),
    ],
)
async def test_a_version_that_leads_nowhere_is_followed_by_a_new_list(end: Object | Exception) -> None:
    async with following(thing("a"), thing("b")) as (server, shelf, _):
        server.objects[PATH] = [thing("b", 5), thing("c", 5)]
        server.queue(PATH).put_nowait(end)
        await asyncio.sleep(1)
        assert (server.lists(), shelf.names()) == (2, ["b", "c"])


async def test_while_the_server_is_away_everything_stays_known_and_pauses_grow() -> None:
    async with following(thing("a")) as (server, shelf, watcher):
        server.queue(PATH).put_nowait(Expired("too old", 410))
        server.failures = [Cut("refused")] * 100
        await asyncio.sleep(60)
        assert shelf.names() == ["a"]
        assert 60 / LONGEST_PAUSE_S <= server.lists() <= 40
        assert watcher.last_contact_s < 1
        server.failures = []
        await asyncio.sleep(LONGEST_PAUSE_S)
        assert watcher.last_contact_s > 50


async def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_pause() -> None:
    async with following(thing("a")) as (server, _, _):
        for _ in range(1000):
            server.queue(PATH).put_nowait(None)
        await asyncio.sleep(60)
        assert len(server.watched_from()) < 40


async def test_a_server_that_lists_but_lets_nobody_watch_is_not_asked_without_pause() -> None:
    async with following(thing("a")) as (server, _, _):
        for _ in range(1000):
            server.queue(PATH).put_nowait(Refused("forbidden", 403))
        await asyncio.sleep(60)
        assert server.lists() < 40


async def test_an_object_that_cannot_be_read_is_named_in_the_log_and_counts_as_absent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with following(thing("a", value=None), thing("b")) as (server, shelf, _):
        assert shelf.names() == ["b"]
        server.send("MODIFIED", thing("b", 2, value=[]))
        server.send("ADDED", thing("c", 3))
        await asyncio.sleep(0.01)
        assert shelf.things == {("n", "c"): "v"}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [message.split()[1] for message in errors] == ["n/a", "n/b"]


POOLS = "/apis/llmos.dev/v1alpha1/inferencepools"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
MODELS = "/apis/llmos.dev/v1alpha1/llmmodels"
TENANTS = "/apis/llmos.dev/v1alpha1/tenants"
SECRETS = "/api/v1/namespaces/llmos-system/secrets"


@asynccontextmanager
async def gateway(**objects: list[Object]) -> AsyncIterator[tuple[Server, Catalog, ClusterWatch]]:
    server, catalog = Server(), Catalog()
    server.objects = {POOLS: objects.get("pools", []), SLICES: objects.get("slices", [])}
    server.objects |= {SECRETS: objects.get("secrets", []), TENANTS: objects.get("tenants", [])}
    server.objects[MODELS] = objects.get("models", [])
    clock = asyncio.get_running_loop().time
    watch = ClusterWatch(catalog, server, namespace="llmos-system", gateway="gw-1", clock=clock)
    task = asyncio.create_task(watch.run())
    try:
        await asyncio.sleep(0.01)
        yield server, catalog, watch
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def addresses(catalog: Catalog) -> list[str]:
    pool = catalog.get_pool("team/chat")
    return [endpoint.address for endpoint in pool.endpoints] if pool else []


async def test_the_catalog_follows_pools_slices_and_keys() -> None:
    objects = {"pools": [pool_object()], "slices": [slice_object("team/chat", "10.0.0.1")], "secrets": [key_object()]}
    async with gateway(**objects) as (server, catalog, _):
        assert (catalog.is_synced, addresses(catalog)) == (True, ["10.0.0.1:8000"])
        assert catalog.authenticate(key_text(), 0) is not None
        second = slice_object("team/chat", "10.0.0.2", name="second", version=2)
        second["endpoints"][0]["targetRef"]["name"] = "other"
        server.send("ADDED", second, SLICES)
        server.send("DELETED", key_object(version=2), SECRETS)
        await asyncio.sleep(0.01)
        assert addresses(catalog) == ["10.0.0.1:8000", "10.0.0.2:8000"]
        assert catalog.authenticate(key_text(), 0) is None
        server.send("DELETED", slice_object(version=3), SLICES)
        await asyncio.sleep(0.01)
        assert addresses(catalog) == ["10.0.0.2:8000"]
        server.send("DELETED", pool_object(version=4), POOLS)
        await asyncio.sleep(0.01)
        assert catalog.get_pool("team/chat") is None


async def test_a_new_list_takes_away_what_is_gone() -> None:
    slices = [slice_object("team/chat", "10.0.0.1"), slice_object("team/other", "10.0.0.2")]
    async with gateway(pools=[pool_object()], slices=slices, secrets=[key_object()]) as (server, catalog, _):
        for path in (POOLS, SLICES, SECRETS):
            server.objects[path] = server.objects[path][1:]
            server.queue(path).put_nowait(Expired("too old", 410))
        await asyncio.sleep(1)
        assert catalog.get_pools() == ()
        assert catalog.authenticate(key_text(), 0) is None


async def test_tenants_are_followed_and_the_keys_of_one_that_cannot_be_read_open_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with gateway(tenants=[tenant_object("red", "a"), tenant_object("blue", "b")]) as (server, catalog, _):
        red = catalog.get_tenant("red")
        assert red is not None
        assert red.namespaces == {"a"}
        server.send("DELETED", tenant_object("red", "a", version=2), TENANTS)
        server.send("MODIFIED", tenant_object("blue", "b", version=3, weight="heavy"), TENANTS)
        server.send("ADDED", tenant_object("green", "a", version=4), TENANTS)
        await asyncio.sleep(0.01)
        assert [catalog.get_tenant(name) is None for name in ("red", "blue", "green")] == [True, True, False]
    assert "Tenant blue cannot be read" in caplog.text


async def test_what_a_tenant_that_cannot_be_read_has_shut_stays_shut() -> None:
    tenants = [tenant_object("older", "team"), tenant_object("younger", "team")]
    async with gateway(pools=[pool_object()], tenants=tenants) as (server, catalog, _):
        keys = [api_key(), api_key(tenant="older"), api_key(tenant="younger")]
        assert [catalog.find_pool(key, "team/chat") is not None for key in keys] == [True, True, False]
        server.send("MODIFIED", tenant_object("older", "team", version=2, weight="heavy"), TENANTS)
        await asyncio.sleep(0.01)
        assert [catalog.find_pool(key, "team/chat") for key in keys] == [None] * 3
        server.send("MODIFIED", tenant_object("older", "team", version=3), TENANTS)
        await asyncio.sleep(0.01)
        assert catalog.find_pool(keys[1], "team/chat") is not None


async def test_a_namespace_that_can_be_read_stays_shut_beside_one_that_cannot() -> None:
    older = tenant_object("older", "team")
    older["spec"]["namespaces"] = ["team", {"selector": "of a newer version"}]
    async with gateway(pools=[pool_object()], tenants=[older, tenant_object("younger", "team")]) as (
        _,
        catalog,
        _watch,
    ):
        for key in (api_key(), api_key(tenant="older"), api_key(tenant="younger")):
            assert catalog.find_pool(key, "team/chat") is None


async def test_a_tenant_of_which_not_even_the_claim_can_be_read_does_not_exist(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with gateway(tenants=[tenant_object("blue", "Not A Namespace")]) as (_, catalog, _watch):
        assert catalog.get_tenant("blue") is None
    assert "Tenants /blue cannot be read" in caplog.text


async def test_whom_a_model_is_shared_with_is_followed() -> None:
    tenants = [tenant_object("red", "a", models={"allow": ["team/*"]})]
    key = api_key(tenant="red")
    async with gateway(pools=[pool_object()], tenants=tenants, models=[model_object("red")]) as (server, catalog, _):
        assert catalog.find_pool(key, "team/chat") is not None
        server.send("MODIFIED", model_object("blue", version=2), MODELS)
        await asyncio.sleep(0.01)
        assert catalog.find_pool(key, "team/chat") is None
        server.send("MODIFIED", model_object("blue", "*", version=3), MODELS)
        await asyncio.sleep(0.01)
        assert catalog.find_pool(key, "team/chat") is not None
        server.send("DELETED", model_object("*", version=4), MODELS)
        await asyncio.sleep(0.01)
        assert catalog.find_pool(key, "team/chat") is None
        server.objects[MODELS] = [model_object("red", version=5)]
        server.queue(MODELS).put_nowait(Expired("too old", 410))
        await asyncio.sleep(1)
        assert catalog.find_pool(key, "team/chat") is not None


async def test_while_the_api_server_is_away_tenants_stay_known() -> None:
    async with gateway(tenants=[tenant_object("red", "a")]) as (server, catalog, watch):
        for path in (POOLS, SLICES, SECRETS, TENANTS, MODELS):
            server.queue(path).put_nowait(Expired("too old", 410))
        server.failures = [Cut("refused")] * 1000
        await asyncio.sleep(60)
        assert catalog.get_tenant("red") is not None
        assert watch.last_contact_s() < 1


async def test_a_key_that_becomes_unreadable_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    async with gateway(secrets=[key_object()]) as (server, catalog, _):
        broken = key_object(version=2)
        del broken["data"]["namespaces"]
        server.send("MODIFIED", broken, SECRETS)
        await asyncio.sleep(0.01)
        assert catalog.authenticate(key_text(), 0) is None
    assert "secret-0 holds no usable API key" in caplog.text
    assert broken["data"]["sha256"] not in caplog.text


async def test_nothing_is_synced_until_all_has_been_read() -> None:
    server, catalog = Server(), Catalog()
    server.failures = [Cut("away")] * 3
    watch = ClusterWatch(catalog, server, namespace="llmos-system")
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(0.01)
    assert not catalog.is_synced
    await asyncio.sleep(10)
    assert catalog.is_synced
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_peers_are_the_other_gateways_of_the_same_namespace() -> None:
    def gateways(namespace: str) -> Object:
        item = slice_object(f"{namespace}/gw", "10.0.0.1", "10.0.0.2", port="admin", component="gateway")
        item["endpoints"][0]["targetRef"]["name"] = "gw-1"
        return item

    async with gateway(slices=[gateways("llmos-system"), gateways("elsewhere")]) as (server, _, watch):
        assert watch.peers() == ["10.0.0.2:8000"]
        server.send("DELETED", gateways("llmos-system"), SLICES)
        await asyncio.sleep(0.01)
        assert watch.peers() == []
