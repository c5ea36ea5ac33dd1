"""The real client against a small HTTP server: errors, paging, fencing, and what is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from llmos_operator.kube.aio import AioKube
from llmos_operator.kube.config import Configuration, NoClusterError, load_configuration, read_connection
from llmos_operator.kube.errors import Conflict, Fenced, Forbidden, Invalid, KubeError, NotFound, Unavailable
from llmos_operator.kube.freshness import Freshness
from llmos_operator.kube.resources import ALL, LLM_MODELS, NODES, PODS, resource_of

POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns"}, "spec": {}}


def model(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": "5", "managedFields": []}, "spec": {}}


class Server:
    """Answers every request with the next answer and remembers the request."""

    def __init__(self) -> None:
        self.answers: list[Callable[[], web.StreamResponse]] = []
        self.requests: list[tuple[str, str, str]] = []
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        text = body if isinstance(body, str) else json.dumps(body)
        self.answers.append(lambda: web.Response(status=status, text=text, headers=sent))

    def refuse(self, status: int, message: str, **details: Any) -> None:
        self.answer(status, {"kind": "Status", "message": message, "details": details})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, request.query_string))
        self.headers.append(dict(request.headers))
        self.bodies.append(json.loads(await request.text() or "null"))
        return self.answers.pop(0)()


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
async def kube(server: Server) -> AsyncIterator[AioKube]:
    async with AioKube(Configuration(host=server.url)) as client:
        yield client


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, Invalid),
            (401, Unavailable),
            (403, Forbidden),
            (404, NotFound),
            (409, Conflict),
            (422, Invalid),
            (429, Unavailable),
            (500, Unavailable),
            (503, Unavailable),
        ],
    )
    async def test_each_status_has_its_error(
        self, server: Server, kube: AioKube, status: int, error: type[KubeError]
    ) -> None:
        server.refuse(status, "because")
        with pytest.raises(error, match=rf"apply of Pod ns/a: because \(HTTP {status}\)") as raised:
            await kube.apply(POD)
        assert raised.value.code == status

    async def test_the_server_may_say_when_to_come_back(self, server: Server, kube: AioKube) -> None:
        server.answer(429, "busy", Retry_After="7")
        with pytest.raises(Unavailable) as raised:
            await kube.apply(POD)
        assert raised.value.retry_after_s == 7

    async def test_a_server_that_is_not_there_is_unavailable(self) -> None:
        async with AioKube(Configuration(host="http://127.0.0.1:1")) as kube:
            with pytest.raises(Unavailable, match="did not answer"):
                await kube.get(PODS, "a", "ns")

    async def test_an_object_that_is_missing_is_not_a_kind_that_is_missing(self, server: Server, kube: AioKube) -> None:
        server.refuse(404, "not found", name="a", kind="pods")
        assert await kube.get(PODS, "a", "ns") is None
        server.answer(404, "404 page not found")
        with pytest.raises(NotFound, match="install the CRDs"):
            await kube.get(LLM_MODELS, "a", "ns")

    async def test_an_event_that_is_refused_is_only_logged(self, server: Server, kube: AioKube) -> None:
        server.refuse(403, "terminating")
        event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e", "namespace": "ns"}}
        await kube.create_event(event)
        assert server.requests == [("POST", "/apis/events.k8s.io/v1/namespaces/ns/events", "")]

    @pytest.mark.parametrize("status", [400, 404, 500])
    async def test_a_log_that_cannot_be_had_is_empty(self, server: Server, kube: AioKube, status: int) -> None:
        server.refuse(status, "no")
        assert await kube.tail_log("a", "ns", "fetch") == ""

    async def test_a_log_that_may_not_be_read_is_an_error(self, server: Server, kube: AioKube) -> None:
        server.refuse(403, "no")
        with pytest.raises(Forbidden):
            await kube.tail_log("a", "ns", "fetch")


class TestLists:
    async def test_pages_are_joined(self, server: Server, kube: AioKube) -> None:
        server.answer(200, {"metadata": {"continue": "t"}, "items": [{"metadata": {"name": "a"}}]})
        server.answer(200, {"metadata": {}, "items": [{"metadata": {"name": "b", "managedFields": []}}]})
        found = await kube.list(NODES, label_selector="a=b")
        assert [item["metadata"] for item in found] == [{"name": "a"}, {"name": "b"}]
        assert [query for _, _, query in server.requests] == [
            "labelSelector=a%3Db&limit=500",
            "labelSelector=a%3Db&limit=500&continue=t",
        ]

    async def test_a_list_that_outlived_its_token_is_read_at_once(self, server: Server, kube: AioKube) -> None:
        server.answer(200, {"metadata": {"continue": "t"}, "items": [{"metadata": {"name": "a"}}]})
        server.refuse(410, "expired")
        server.answer(200, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]})
        found = await kube.list(PODS, namespace="ns")
        assert [item["metadata"]["name"] for item in found] == ["b"]
        assert server.requests[-1] == ("GET", "/api/v1/namespaces/ns/pods", "")

    async def test_versions_are_read_without_bodies(self, server: Server, kube: AioKube) -> None:
        metadata = {"name": "a", "namespace": "ns", "resourceVersion": "5"}
        server.answer(200, {"metadata": {}, "items": [{"metadata": metadata}]})
        assert await kube.list_versions(PODS) == {("ns", "a"): "5"}
        assert "PartialObjectMetadataList" in server.headers[0]["Accept"]

    async def test_a_visit_shows_page_after_page_and_tells_which_moment_it_was(
        self, server: Server, kube: AioKube
    ) -> None:
        server.answer(200, {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [model("a")]})
        server.answer(200, {"metadata": {"resourceVersion": "7"}, "items": [model("b")]})
        seen: list[str] = []
        version = await kube.visit(LLM_MODELS, lambda item: seen.append(item["metadata"]["name"]), label_selector="x")
        assert (seen, version) == (["a", "b"], "7")
        assert "resourceVersion" not in server.requests[0][2]
        assert "labelSelector=x" in server.requests[0][2]

    async def test_reads_are_counted_by_page(self, server: Server) -> None:
        counted: list[tuple[str, str]] = []
        server.answer(200, {"metadata": {"continue": "more"}, "items": []})
        server.answer(200, {"metadata": {}, "items": []})
        server.answer(200, POD)
        async with AioKube(
            Configuration(host=server.url), on_read=lambda verb, kind: counted.append((verb, kind))
        ) as kube:
            await kube.list(PODS)
            await kube.get(PODS, "a", "ns")
        assert counted == [("list", "Pod"), ("list", "Pod"), ("get", "Pod")]


class TestWrites:
    async def test_apply_is_forced_under_our_name(self, server: Server, kube: AioKube) -> None:
        server.answer(200, POD)
        await kube.apply(POD)
        assert server.requests == [("PATCH", "/api/v1/namespaces/ns/pods/a", "fieldManager=llmos-operator&force=true")]
        assert server.headers[0]["Content-Type"] == "application/apply-patch+yaml"
        assert server.bodies == [POD]

    async def test_a_delete_says_which_object_it_means(self, server: Server, kube: AioKube) -> None:
        server.answer(200, {})
        await kube.delete(PODS, "a", "ns", uid="u", grace_period_s=0)
        assert server.bodies[0]["preconditions"] == {"uid": "u"}
        assert server.bodies[0]["gracePeriodSeconds"] == 0
        assert server.bodies[0]["propagationPolicy"] == "Background"

    async def test_a_fence_stops_every_write_and_no_read(self, server: Server) -> None:
        sent: list[tuple[str, str]] = []
        async with AioKube(
            Configuration(host=server.url),
            may_write=lambda: False,
            on_write=lambda verb, kind: sent.append((verb, kind)),
        ) as kube:
            for write in (
                kube.create(POD),
                kube.apply(POD),
                kube.apply_status(POD),
                kube.patch_metadata(PODS, "a", "ns", labels={}),
                kube.delete(PODS, "a", "ns"),
                kube.create_event(POD),
            ):
                with pytest.raises(Fenced):
                    await write
            assert not server.requests
            assert not sent
            server.answer(200, POD)
            assert await kube.get(PODS, "a", "ns") == POD

    async def test_writes_are_counted_by_verb_and_kind(self, server: Server) -> None:
        sent: list[tuple[str, str]] = []
        async with AioKube(
            Configuration(host=server.url), on_write=lambda verb, kind: sent.append((verb, kind))
        ) as kube:
            server.answer(200, POD)
            server.answer(200, POD)
            await kube.apply(POD)
            await kube.delete(PODS, "a", "ns")
        assert sent == [("apply", "Pod"), ("delete", "Pod")]


class TestResources:
    @pytest.mark.parametrize("resource", ALL, ids=lambda resource: str(resource.kind))
    def test_a_manifest_names_its_resource(self, resource: Any) -> None:
        assert resource_of({"apiVersion": resource.api_version, "kind": resource.kind}) is resource

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(LookupError, match="Endpoints"):
            resource_of({"apiVersion": "v1", "kind": "Endpoints"})


class TestConfiguration:
    @pytest.fixture
    def kubeconfig(self, tmp_path: Path) -> Path:
        token = tmp_path / "token"
        token.write_text("one")
        path = tmp_path / "config"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": "https://k:6443"}}],
            "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
        }
        path.write_text(json.dumps(content))
        return path

    async def test_a_token_is_read_again_when_it_was_replaced(self, kubeconfig: Path, tmp_path: Path) -> None:
        configuration = await load_configuration(str(kubeconfig))
        connection = await read_connection(configuration)
        assert (connection.server, connection.scheme, connection.token) == ("https://k:6443", "Bearer", "one")
        (tmp_path / "token").write_text("two")
        assert (await read_connection(configuration)).token == "two"

    async def test_without_a_cluster_it_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(NoClusterError, match="set KUBECONFIG"):
            await load_configuration(str(tmp_path / "missing"))


class TestRecentLists:
    """With `Freshness`, lists by label may come from the server's cache, never older than what this client knows."""

    EXACT = "labelSelector=app%3Dx&limit=500"

    @pytest.fixture
    async def recent(self, server: Server) -> AsyncIterator[AioKube]:
        async with AioKube(Configuration(host=server.url), freshness=Freshness(PODS)) as client:
            yield client

    async def list_pods(self, kube: AioKube, server: Server, version: str) -> str:
        server.answer(200, {"metadata": {"resourceVersion": version}, "items": []})
        await kube.list(PODS, namespace="ns", label_selector="app=x")
        return server.requests[-1][2]

    @staticmethod
    def not_older_than(version: int) -> str:
        return f"labelSelector=app%3Dx&resourceVersion={version}&resourceVersionMatch=NotOlderThan"

    async def test_the_first_list_is_exact_and_those_after_it_are_not_older(
        self, recent: AioKube, server: Server
    ) -> None:
        assert await self.list_pods(recent, server, "10") == self.EXACT
        assert await self.list_pods(recent, server, "99") == self.not_older_than(10)
        assert await self.list_pods(recent, server, "99") == self.not_older_than(10)

    async def test_a_list_shows_the_writes_of_this_client(self, recent: AioKube, server: Server) -> None:
        await self.list_pods(recent, server, "10")
        server.answer(200, {"metadata": {"resourceVersion": "12"}})
        await recent.apply(POD)
        assert await self.list_pods(recent, server, "99") == self.not_older_than(12)

    async def test_after_a_write_of_unknown_outcome_a_list_is_exact(self, recent: AioKube, server: Server) -> None:
        await self.list_pods(recent, server, "10")
        server.refuse(500, "etcd is away")
        with pytest.raises(Unavailable):
            await recent.apply(POD)
        assert await self.list_pods(recent, server, "11") == self.EXACT

    async def test_a_server_that_is_behind_is_asked_for_an_exact_list(self, recent: AioKube, server: Server) -> None:
        await self.list_pods(recent, server, "10")
        server.refuse(504, "Too large resource version: 10, current: 9")
        assert await self.list_pods(recent, server, "11") == self.EXACT

    async def test_lists_without_labels_and_of_other_kinds_are_exact(self, recent: AioKube, server: Server) -> None:
        await self.list_pods(recent, server, "10")
        for kind, selector in ((PODS, ""), (NODES, "app=x")):
            server.answer(200, {"metadata": {"resourceVersion": "10"}, "items": []})
            await recent.list(kind, label_selector=selector)
            assert "resourceVersion" not in server.requests[-1][2]
