"""The HTTP face of a share pod: read-only, two files and their manifest, for whoever bears the token.

    GET /healthz        the files are there and hashed; no token
    GET /manifest       names, sizes, sha256 and the digest
    GET /files/NAME     the bytes

Files are hashed once, at the start: replicas compare what they get with that, and the digest with what was inspected.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from llmos.api.adapters import ADAPTER_FILES, AdapterFile, AdapterManifest, compute_content_digest, is_token


class NoAdapterError(Exception):
    """There is no adapter in the folder; the text says what is missing."""


def observe_manifest(folder: Path) -> AdapterManifest:
    """Read and hash the files.

    Raises:
        NoAdapterError: one of them is not there or cannot be read.
    """
    try:
        files = tuple(_observe_file(folder / name) for name in ADAPTER_FILES)
    except OSError as error:
        raise NoAdapterError(f"{error.filename}: {error.strerror}") from error
    digest = compute_content_digest((file.path, file.size_bytes, file.sha256) for file in files)
    return AdapterManifest(digest=digest, files=files)


def _observe_file(path: Path) -> AdapterFile:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return AdapterFile.model_validate({"path": path.name, "sizeBytes": path.stat().st_size, "sha256": sha256})


def build_share_app(folder: Path, manifest: AdapterManifest, token_hash: str) -> Starlette:
    """The ASGI application."""

    def refuse(request: Request) -> Response | None:
        if is_token(request.headers.get("authorization", ""), token_hash):
            return None
        return PlainTextResponse("a token is needed\n", 401)

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def describe(request: Request) -> Response:
        body = manifest.model_dump_json(by_alias=True)
        return refuse(request) or Response(body, media_type="application/json")

    async def send(request: Request) -> Response:
        name = request.path_params["name"]
        if refusal := refuse(request):
            return refusal
        if name not in ADAPTER_FILES:
            return PlainTextResponse("no such file\n", 404)
        return FileResponse(folder / name, media_type="application/octet-stream")

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/manifest", describe), Route("/files/{name}", send)],
    )
