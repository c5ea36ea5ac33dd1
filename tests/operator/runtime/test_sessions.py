"""The connection that kopf watches with: what it asks for and what it leaves out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from llmos_operator.kube.config import Connection
from llmos_operator.kube.resources import INFERENCE_POOLS, JOBS, PERSISTENT_VOLUME_CLAIMS, PODS, Resource
from llmos_operator.runtime.sessions import open_watch_session

LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
WATCH = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


class Server:
    """Answers with `body` and remembers headers by path and query."""

    def __init__(self) -> None:
        self.body: Any = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.headers[request.path_qs] = dict(request.headers)
        return web.json_response(self.body)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", served.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, host="127.0.0.1", port=0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest.fixture
async def session(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    connection = Connection(server.url, None, None, None, "Bearer", "secret", insecure=False, proxy_url=None)
    credentials = open_watch_session(connection, metadata_only=[PERSISTENT_VOLUME_CLAIMS, JOBS])
    assert credentials.expiration is not None
    async with credentials.aiohttp_session as opened:
        yield opened


async def test_children_come_as_metadata_and_pods_and_our_kinds_in_full(
    server: Server, session: aiohttp.ClientSession
) -> None:
    for path in (PERSISTENT_VOLUME_CLAIMS.path, f"{JOBS.path}?watch=true", PODS.path, INFERENCE_POOLS.path):
        (await session.get(server.url + path)).release()
    assert server.headers["/api/v1/persistentvolumeclaims"]["Accept"] == LIST
    assert server.headers["/apis/batch/v1/jobs?watch=true"]["Accept"] == WATCH
    assert server.headers["/api/v1/pods"]["Accept"] == "*/*"
    assert server.headers["/apis/llmos.dev/v1alpha1/inferencepools"]["Accept"] == "*/*"


async def test_the_token_is_sent(server: Server, session: aiohttp.ClientSession) -> None:
    (await session.get(f"{server.url}/api")).release()
    assert server.headers["/api"]["Authorization"] == "Bearer secret"


async def test_an_empty_list_of_metadata_is_a_list(server: Server, session: aiohttp.ClientSession) -> None:
    server.body = {"kind": "PartialObjectMetadataList", "items": None}
    async with session.get(server.url + PODS.path) as response:
        assert (await response.json())["items"] == []


async def test_what_nobody_reads_is_dropped_from_lists(server: Server, session: aiohttp.ClientSession) -> None:
    server.body = {"items": [{"metadata": {"name": "a", "managedFields": [{}]}}]}
    async with session.get(server.url + PODS.path) as response:
        assert (await response.json())["items"] == [{"metadata": {"name": "a"}}]


async def test_a_list_is_told_when_it_was_answered_and_a_watch_is_not(server: Server) -> None:
    told: list[Resource] = []
    connection = Connection(server.url, None, None, None, None, None, insecure=False, proxy_url=None)
    credentials = open_watch_session(connection, metadata_only=[], listed=[PODS], on_list=told.append)
    async with credentials.aiohttp_session as opened:
        for path in (f"{PODS.path}?watch=true", JOBS.path, f"{PODS.path}/a"):
            (await opened.get(server.url + path)).release()
        assert told == []
        (await opened.get(f"{server.url}{PODS.path}?limit=250")).release()
    assert told == [PODS]
