"""`Kube` over HTTP, on the raw path of the official asynchronous client: dicts in, dicts out.

The generated API classes would turn every answer into pydantic models, which costs more than the whole request.
Only their `ApiClient` is used: connection pool, TLS and credentials are its business; paths, bodies and errors are
decided here.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from llmos.api.names import FIELD_MANAGER, STATUS_FIELD_MANAGER
from llmos_operator.kube.client import Kube, Object, Objects, View
from llmos_operator.kube.errors import Fenced, Invalid, KubeError, NotFound, Unavailable, build_error
from llmos_operator.kube.freshness import Freshness
from llmos_operator.kube.resources import EVENTS, PODS, Resource, resource_of

PAGE_OBJECTS: Final = 500
LOG_LIMIT_BYTES: Final = 16 * 1024
LOG_TIMEOUT_S: Final = 3.0

_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML, and far quicker to write.
_MERGE: Final = "application/merge-patch+json"
_JSON: Final = "application/json"
_ACCEPT: Final = "application/json, */*"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
_GONE: Final = 410
_BEHIND: Final = 504
"""The server's cache did not reach the version that was asked for in time."""

_logger = logging.getLogger(__name__)

T = TypeVar("T")


def _always() -> bool:
    return True


def _ignore(_verb: str, _kind: str) -> None:
    return None


class AioKube(Kube):
    """The real API server. Use it as `async with AioKube(configuration) as kube`.

    Args:
        configuration: address and credentials, from `kube.config.load_configuration`.
        may_write: asked before every write; False raises `Fenced` and nothing is sent.
        on_write: told the verb and kind of every write that was sent.
        on_read: told the verb and kind of every read that was sent; each page of a list is one.
        freshness: how old lists by label may be; all others, and all without it, are exact.
        request_timeout_s: limit for one request, from waiting for a connection to the last byte.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        may_write: Callable[[], bool] = _always,
        on_write: Callable[[str, str], None] = _ignore,
        on_read: Callable[[str, str], None] = _ignore,
        freshness: Freshness | None = None,
        request_timeout_s: float = 30.0,
    ) -> None:
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._may_write = may_write
        self._on_write = on_write
        self._on_read = on_read
        self._freshness = freshness or Freshness()
        self._timeout = aiohttp.ClientTimeout(total=request_timeout_s)
        self._log_timeout = aiohttp.ClientTimeout(total=min(request_timeout_s, LOG_TIMEOUT_S))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        self._on_read("get", resource.kind)
        try:
            return await self._read(f"get of {resource.kind} {namespace}/{name}", _path(resource, namespace, name))
        except NotFound as error:
            if error.object_missing:
                return None
            raise

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", view: View | None = None
    ) -> Objects:
        def convert(item: Object) -> Object:
            whole = _without_managed_fields(item, resource)
            return view(whole) if view is not None else whole

        if label_selector and (floor := self._freshness.floor(resource.kind)):
            recent = {"labelSelector": label_selector, "resourceVersion": floor, "resourceVersionMatch": "NotOlderThan"}
            try:
                return (await self._list(resource, convert, namespace, recent))[0]
            except KubeError as error:
                if error.code != _BEHIND:
                    raise
        selection = {"labelSelector": label_selector} if label_selector else {}
        return (await self._list(resource, convert, namespace, selection))[0]

    async def visit(
        self,
        resource: Resource,
        see: Callable[[Object], None],
        *,
        label_selector: str = "",
    ) -> str:
        """Show every object of a kind in all namespaces, a page at a time, as of one moment after the call.

        Where the list took so long that it had to begin again, objects are shown twice, the newer one last.

        Returns:
            The version of the list: the moment that it shows.
        """

        def convert(item: Object) -> None:
            see(_without_managed_fields(item, resource))

        selection = {"labelSelector": label_selector} if label_selector else {}
        _, version = await self._list(resource, convert, "", selection)
        return version

    async def list_versions(self, resource: Resource) -> dict[tuple[str, str], str]:
        """Return the resource version of every object of a kind by (namespace, name); no bodies are sent."""

        def convert(item: Object) -> tuple[tuple[str, str], str]:
            metadata = item["metadata"]
            return (metadata.get("namespace", ""), metadata["name"]), metadata["resourceVersion"]

        return dict((await self._list(resource, convert, "", {}, _METADATA_ONLY))[0])

    async def create(self, manifest: Mapping[str, Any]) -> Object:
        resource, namespace, _ = _identity(manifest)
        return await self._write("create", manifest, "POST", _path(resource, namespace), manifest)

    async def apply(self, manifest: Mapping[str, Any], *, field_manager: str = FIELD_MANAGER) -> Object:
        return await self._apply("apply", manifest, field_manager)

    async def apply_status(self, manifest: Mapping[str, Any]) -> Object:
        return await self._apply("apply_status", manifest, STATUS_FIELD_MANAGER, "/status")

    async def patch_metadata(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        labels: Mapping[str, str | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
        finalizers: Sequence[str] | None = None,
        resource_version: str | None = None,
    ) -> Object:
        given = {
            "labels": labels,
            "annotations": annotations,
            "finalizers": None if finalizers is None else list(finalizers),
            "resourceVersion": resource_version,
        }
        metadata = {key: value for key, value in given.items() if value is not None}
        target = _reference(resource, name, namespace)
        path = _path(resource, namespace, name)
        return await self._write("patch", target, "PATCH", path, {"metadata": metadata}, content_type=_MERGE)

    async def merge(self, resource: Resource, name: str, namespace: str, patch: Mapping[str, Any]) -> Object:
        target = _reference(resource, name, namespace)
        path = _path(resource, namespace, name)
        return await self._write("patch", target, "PATCH", path, patch, content_type=_MERGE)

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace_period_s: int | None = None
    ) -> None:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        target = _reference(resource, name, namespace)
        try:
            await self._write("delete", target, "DELETE", _path(resource, namespace, name), options)
        except NotFound as error:
            if not error.object_missing:
                raise

    async def tail_log(
        self, name: str, namespace: str, container: str, *, lines: int = 1, previous: bool = False
    ) -> str:
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(LOG_LIMIT_BYTES)}
        if previous:
            query["previous"] = "true"
        path = _path(PODS, namespace, name) + "/log"
        self._on_read("log", PODS.kind)
        try:
            body = await self._request(f"log of Pod {namespace}/{name}", "GET", path, query, limit=self._log_timeout)
        except (NotFound, Invalid, Unavailable):
            # The container has not started, the pod is gone, or its node does not answer.
            return ""
        return body.decode(errors="replace")

    async def create_event(self, manifest: Mapping[str, Any]) -> None:
        try:
            await self._write("create", manifest, "POST", _path(EVENTS, _identity(manifest)[1]), manifest)
        except Fenced:
            raise
        except KubeError as error:
            _logger.warning("An Event was not recorded: %s", error)

    async def _apply(self, verb: str, manifest: Mapping[str, Any], field_manager: str, subresource: str = "") -> Object:
        path = _path(*_identity(manifest)) + subresource
        query = {"fieldManager": field_manager, "force": "true"}
        return await self._write(verb, manifest, "PATCH", path, manifest, query=query, content_type=_APPLY)

    async def _list(
        self,
        resource: Resource,
        convert: Callable[[Object], T],
        namespace: str,
        selection: Mapping[str, str],
        accept: str = _ACCEPT,
    ) -> tuple[builtins.list[T], str]:
        """Return all matching objects, converted, and the version of the list."""
        what, path = f"list of {resource.plural} in {namespace or 'all namespaces'}", _path(resource, namespace)
        is_exact = "resourceVersion" not in selection
        # A server answers a recent list from its cache, and only if it is not to be paged.
        query = {**selection, "limit": str(PAGE_OBJECTS)} if is_exact else {**selection}
        items: list[T] = []
        while True:
            self._on_read("list", resource.kind)
            try:
                page = await self._read(what, path, query, accept)
            except KubeError as error:
                if error.code != _GONE or "limit" not in query:
                    raise
                # The continue token outlived etcd's compaction: read everything at once, as client-go does.
                items, query = [], {**selection}
                continue
            items.extend(map(convert, page.get("items") or ()))
            token = page["metadata"].get("continue")
            if not token:
                if is_exact:
                    self._freshness.see_list(resource.kind, page["metadata"])
                return items, page["metadata"].get("resourceVersion", "")
            query["continue"] = token

    async def _read(
        self, what: str, path: str, query: Mapping[str, str] | None = None, accept: str = _ACCEPT
    ) -> Object:
        answer: Object = orjson.loads(await self._request(what, "GET", path, query, accept=accept))
        return answer

    async def _write(
        self,
        verb: str,
        target: Mapping[str, Any],
        method: str,
        path: str,
        body: Mapping[str, Any],
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = _JSON,
    ) -> Object:
        kind, metadata = target["kind"], target["metadata"]
        what = f"{verb} of {kind} {metadata.get('namespace', '')}/{metadata.get('name', '')}"
        if not self._may_write():
            raise Fenced(f"{what}: this replica of the operator is not the leader.")
        self._on_write(verb, kind)
        try:
            answer = await self._request(what, method, path, query, body=body, content_type=content_type)
        except BaseException:
            self._freshness.doubt(kind)
            raise
        data: Object = orjson.loads(answer)
        self._freshness.see(kind, data.get("metadata") or {})
        return data

    async def _request(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
        accept: str = _ACCEPT,
        limit: aiohttp.ClientTimeout | None = None,
    ) -> bytes:
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            response = await self._client.call_api(method, url, headers, body, _request_timeout=limit or self._timeout)
            data: bytes = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            cause = str(error) or type(error).__name__
            raise Unavailable(f"{what}: the API server did not answer: {cause}.") from error
        if response.status >= 300:
            raise build_error(what, response.status, response.headers, data)
        return data


def _identity(manifest: Mapping[str, Any]) -> tuple[Resource, str, str]:
    metadata = manifest["metadata"]
    return resource_of(manifest), metadata.get("namespace", ""), metadata.get("name", "")


def _reference(resource: Resource, name: str, namespace: str) -> Object:
    return {"kind": resource.kind, "metadata": {"namespace": namespace, "name": name}}


def _path(resource: Resource, namespace: str = "", name: str = "") -> str:
    parts = ["/apis", resource.group, resource.version] if resource.group else ["/api", resource.version]
    if resource.namespaced and namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(resource.plural)
    if name:
        parts.append(quote(name, safe=""))
    return "/".join(parts)


def _without_managed_fields(item: Object, resource: Resource) -> Object:
    item["metadata"].pop("managedFields", None)
    # Built-in lists leave these out of their items.
    item.setdefault("apiVersion", resource.api_version)
    item.setdefault("kind", resource.kind)
    return item
