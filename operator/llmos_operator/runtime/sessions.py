"""The connection over which kopf watches. Of most children it asks the API server for metadata only.

All that an event of such a child tells us is whose child it is. Pods come whole, for they are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
import kopf

from llmos_operator.kube.config import Connection
from llmos_operator.kube.resources import Resource

CREDENTIALS_LIFETIME: Final = timedelta(minutes=10)
"""A service account's token is replaced long before it expires; the connection is opened anew to use it."""
_PARTIAL: Final = "application/json;as={kind};v=v1;g=meta.k8s.io"


def open_watch_session(
    connection: Connection,
    *,
    metadata_only: Iterable[Resource],
    listed: Iterable[Resource] = (),
    on_list: Callable[[Resource], None] = lambda _resource: None,
) -> kopf.AiohttpSession:
    """Return a session that kopf uses and closes.

    Args:
        connection: to the API server.
        metadata_only: kinds that come without spec and status.
        listed: kinds of which `on_list` is told.
        on_list: told each time that all objects of a kind were listed, which kopf does before it watches.
    """
    info = build_connection_info(connection)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=connection.proxy_url,
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(MetadataOnly(metadata_only), Lists(listed, on_list)),
        response_class=LeanResponse,
    )
    return kopf.AiohttpSession(
        server=connection.server, aiohttp_session=session, expiration=datetime.now(UTC) + CREDENTIALS_LIFETIME
    )


class LeanResponse(aiohttp.ClientResponse):
    """Drops `managedFields` from lists: as Python objects they are larger than all the rest of the metadata."""

    async def json(self, **options: Any) -> Any:
        """Return the parsed body."""
        data = await super().json(**options)
        if isinstance(data, dict) and "items" in data:
            # An empty list of metadata arrives as null, which kopf does not expect.
            data["items"] = data["items"] or []
            for item in data["items"]:
                item["metadata"].pop("managedFields", None)
        return data


class MetadataOnly:
    """Client middleware: lists and watches of some kinds ask for `PartialObjectMetadata`."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._paths = frozenset(resource.path for resource in resources)

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send one request."""
        if request.method == "GET" and request.url.path in self._paths:
            kind = "PartialObjectMetadata" if "watch" in request.url.query else "PartialObjectMetadataList"
            request.headers["Accept"] = _PARTIAL.format(kind=kind)
        return await handler(request)


class Lists:
    """Client middleware: tells when all objects of some kinds were listed."""

    def __init__(self, resources: Iterable[Resource], on_list: Callable[[Resource], None]) -> None:
        self._resources = {resource.path: resource for resource in resources}
        self._on_list = on_list

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send one request, and tell after its answer: whoever lists from then on sees no older state."""
        response = await handler(request)
        resource = self._resources.get(request.url.path)
        if resource is not None and request.method == "GET" and "watch" not in request.url.query:
            self._on_list(resource)
        return response


def build_connection_info(connection: Connection) -> kopf.ConnectionInfo:
    """Return the connection in kopf's words."""
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_path=connection.ca_path,
        insecure=connection.insecure,
        certificate_path=connection.certificate_path,
        private_key_path=connection.private_key_path,
        scheme=connection.scheme,
        token=connection.token,
    )
