"""oci://registry/repository:tag or @sha256:...: files in an OCI artifact, as `oras push` writes them.

Each layer is one file, named by the annotation org.opencontainers.image.title, with size and sha256 in the manifest.
Images whose layers are tar archives are refused: nothing says which file in them is meant.

oras speaks the registry's authentication (DOCKER_CONFIG, anonymous and bearer tokens, or REGISTRY_USERNAME and
REGISTRY_PASSWORD). Its request function is called without the decorator around it, which sleeps up to 83 s between
attempts at its own discretion; repeating is retry.py's business.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import oras.provider
import requests
from requests.adapters import HTTPAdapter

from llmos_workers.fetch.errors import AccessDeniedError, InvalidSourceError
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import CHUNK_BYTES, Listing, RemoteFile, guard_chunks
from llmos_workers.fetch.sources.web import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    build_connection_error,
    build_status_error,
)

_URI: Final = re.compile(
    r"^oci://(?P<host>[^/@\s]+)/(?P<repository>[a-z0-9._/-]+)(?::(?P<tag>[\w.-]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?$"
)
_TITLE: Final = "org.opencontainers.image.title"
_MANIFEST_TYPES: Final = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.artifact.manifest.v1+json"
_DIGEST: Final = re.compile(r"^sha256:[0-9a-f]{64}$")


class RegistrySource:
    """One artifact in a registry."""

    def __init__(self, uri: str, revision: str = "") -> None:
        """Read the URI; `revision`, a manifest digest that an inspect step resolved, wins over the URI's tag."""
        match = _URI.match(uri)
        if match is None:
            raise InvalidSourceError(f"{redact(uri)} is not oci://registry/repository:tag")
        digest = revision if _DIGEST.match(revision) else match["digest"]
        reference = f"@{digest}" if digest else f":{match['tag'] or 'latest'}"
        self._name = f"{match['host']}/{match['repository']}{reference}"
        self._registry: Any = oras.provider.Registry(match["host"], insecure=_is_plain_http(match["host"]))
        for prefix in ("https://", "http://"):
            self._registry.session.mount(prefix, _Careful())
        self._registry.session.headers["Accept-Encoding"] = "identity"
        self._container = self._registry.get_container(self._name)
        self._layers: dict[str, str] = {}
        if os.environ.get("REGISTRY_USERNAME"):
            self._registry.auth.set_basic_auth(os.environ["REGISTRY_USERNAME"], os.environ.get("REGISTRY_PASSWORD", ""))
        else:
            self._registry.auth.load_configs(self._container)

    def observe_listing(self) -> Listing:
        """Read the manifest: every layer with a title is a file."""
        with self._request(self._container.manifest_url(), {"Accept": _MANIFEST_TYPES}) as response:
            digest = response.headers.get("Docker-Content-Digest", "")
            try:
                manifest = response.json()
                layers = [
                    (layer["annotations"][_TITLE], layer["digest"], layer["size"]) for layer in manifest["layers"]
                ]
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidSourceError(
                    f"oci://{self._name} is not an artifact of named files",
                    "Push the model's files with `oras push`; container images with tar layers are not read.",
                ) from error
        if any(not _DIGEST.match(str(layer_digest)) for _, layer_digest, _ in layers):
            raise InvalidSourceError(f"oci://{self._name} has layers without sha256", "Push it with `oras push`.")
        self._layers = {str(title): layer_digest for title, layer_digest, _ in layers}
        files = tuple(RemoteFile(str(title), int(size), checksum=layer_digest) for title, layer_digest, size in layers)
        return Listing(files, revision=digest if _DIGEST.match(digest) else self._container.digest or "")

    @contextmanager
    def open_stream(self, file: RemoteFile, offset: int = 0, length: int | None = None) -> Iterator[Iterator[bytes]]:
        """Open part of a layer; a registry without ranges sends all of it, and what comes before is skipped."""
        headers = {}
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
        url = self._container.get_blob_url(self._layers[file.path])
        with self._request(url, headers) as response:
            skip = offset if response.status_code == 200 else 0
            yield guard_chunks(_read(response, skip), lambda: self._translate(url))

    def close(self) -> None:
        """Give back connections."""
        self._registry.session.close()

    @contextmanager
    def _request(self, place: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        url = f"{self._registry.prefix}://{place}"
        with self._translate(url):
            send = oras.provider.Registry.do_request.__wrapped__
            response: requests.Response = send(self._registry, url, "GET", headers=dict(headers), stream=True)
        with response:
            if response.status_code not in {200, 206}:
                raise build_status_error(response.status_code, url, response.headers)
            yield response

    @contextmanager
    def _translate(self, url: str) -> Iterator[None]:
        try:
            yield
        except requests.RequestException as error:
            raise build_connection_error(url, error) from error
        except ValueError as error:  # oras's word for a registry that names no way to log in
            raise AccessDeniedError(f"{redact(url)}: {redact(str(error))}") from error


class _Careful(HTTPAdapter):
    """Adds what oras's calls leave out: a deadline, and the end of a refused answer before the next attempt."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = kwargs.get("timeout") or (CONNECT_TIMEOUT_S, READ_TIMEOUT_S)
        response = super().send(request, *args, **kwargs)
        if response.status_code in {401, 403}:
            response.close()
        return response


def _read(response: requests.Response, skip: int) -> Iterator[bytes]:
    for chunk in response.iter_content(CHUNK_BYTES):
        rest = chunk[skip:]
        skip = max(0, skip - len(chunk))
        if rest:
            yield rest


def _is_plain_http(host: str) -> bool:
    """Loopback speaks plain http, as for every container tool; other hosts where LLMOS_OCI_PLAIN_HTTP lists them."""
    if host in os.environ.get("LLMOS_OCI_PLAIN_HTTP", "").split(","):
        return True
    name = host.rpartition(":")[0] or host
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
