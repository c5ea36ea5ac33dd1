"""Brings the files of adapters from share pods into the replica's folder, and believes nothing that it is told.

    DIR/NAME/<digest12>/     an adapter, complete; the engine is given this folder, another one for each version
    DIR/.incoming/...        what is being fetched

Each file is compared with its sha256 in the manifest, and the manifest with the digest that the operator named. All
folders together stay below a limit, because a pod whose emptyDir exceeds its size is evicted.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from pydantic import ValidationError

from llmos.api.adapters import AdapterFile, AdapterManifest, WantedAdapter, compute_content_digest

CONNECT_S: Final = 5.0
SILENCE_S: Final = 30.0
LONGEST_S: Final = 900.0
"""Of one file: 16 GiB at 18 MiB/s."""
_MAX_MANIFEST_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 1 << 20
_INCOMING: Final = ".incoming"


class AdapterFilesError(Exception):
    """The files could not be had; the text names cause and remedy."""


class AdapterFiles:
    """The folder of one replica.

    Args:
        root: everything in it is removed when this is made.
        limit_bytes: of all adapters together.
    """

    def __init__(self, session: ClientSession, root: Path, limit_bytes: int) -> None:
        self._session = session
        self._root = root
        self._limit_bytes = limit_bytes
        self._promised: dict[Path, int] = {}
        """Bytes of each folder that is there or is being fetched."""
        for path in root.iterdir() if root.is_dir() else ():
            shutil.rmtree(path, ignore_errors=True)

    def folder_of(self, name: str, digest: str) -> Path:
        """Where an adapter is, or would be."""
        return self._root / name / digest.partition(":")[2][:12]

    def has(self, folder: Path) -> bool:
        """Whether an adapter is there, complete."""
        return folder in self._promised and folder.is_dir()

    async def fetch(self, wanted: WantedAdapter) -> Path:
        """Bring an adapter here, unless it is here, and return its folder.

        Raises:
            AdapterFilesError: its share pod does not give it, the files are not those, or there is no room.
        """
        folder = self.folder_of(wanted.name, wanted.digest)
        if folder.is_dir():
            return folder
        manifest = await self._read_manifest(wanted)
        self._reserve(folder, manifest)
        incoming = self._root / _INCOMING / f"{wanted.name}-{folder.name}"
        try:
            await asyncio.to_thread(_make_empty, incoming)
            for file in manifest.files:
                await self._fetch_file(wanted, file, incoming / file.path)
            folder.parent.mkdir(parents=True, exist_ok=True)
            return incoming.rename(folder)
        except BaseException as error:
            self._promised.pop(folder, None)
            await asyncio.to_thread(shutil.rmtree, incoming, ignore_errors=True)
            if isinstance(error, OSError):
                raise AdapterFilesError(f"The files cannot be written: {error}. Look at the node's disk.") from error
            raise

    async def remove(self, folder: Path) -> None:
        """Remove an adapter that nobody uses any more."""
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._promised.pop(folder, None)

    def _reserve(self, folder: Path, manifest: AdapterManifest) -> None:
        used_bytes = sum(self._promised.values())
        if used_bytes + manifest.total_bytes > self._limit_bytes:
            raise AdapterFilesError(
                f"It has {manifest.total_bytes >> 20} MiB, and {used_bytes >> 20} of {self._limit_bytes >> 20} MiB for "
                "adapters are taken. Save it in 16 bits, detach others, or raise spec.adapters.maxRank or maxLoaded."
            )
        self._promised[folder] = manifest.total_bytes

    async def _read_manifest(self, wanted: WantedAdapter) -> AdapterManifest:
        body = bytearray()
        async with _Answer(self._session, wanted, "manifest") as answer:
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > _MAX_MANIFEST_BYTES:
                    break
        try:
            manifest = AdapterManifest.model_validate_json(bytes(body))
        except ValidationError:
            raise AdapterFilesError("Its share pod sends no manifest. Look at that pod's log.") from None
        told = compute_content_digest((file.path, file.size_bytes, file.sha256) for file in manifest.files)
        if told != wanted.digest or len({file.path for file in manifest.files}) != len(manifest.files):
            raise AdapterFilesError(
                f"The source holds {told[:19]}, but {wanted.digest[:19]} was inspected: it was changed under the same "
                "URI. Name the new version in spec.source.uri of its LLMModel."
            )
        return manifest

    async def _fetch_file(self, wanted: WantedAdapter, file: AdapterFile, target: Path) -> None:
        digest, size_bytes = hashlib.sha256(), 0
        with target.open("wb") as out:
            async with _Answer(self._session, wanted, f"files/{file.path}") as answer:
                async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                    size_bytes += len(chunk)
                    if size_bytes > file.size_bytes:
                        break
                    digest.update(chunk)
                    await asyncio.to_thread(out.write, chunk)
        if size_bytes != file.size_bytes or digest.hexdigest() != file.sha256:
            raise AdapterFilesError(f"{file.path} did not arrive as it was sent. It is fetched again.")


class _Answer:
    """A GET of a share pod, with its limits; errors are those of this module."""

    def __init__(self, session: ClientSession, wanted: WantedAdapter, path: str) -> None:
        timeout = ClientTimeout(total=LONGEST_S, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        headers = {"Authorization": f"Bearer {wanted.token}"}
        self._request = session.get(
            f"{wanted.url.rstrip('/')}/{path}", headers=headers, timeout=timeout, allow_redirects=False
        )

    async def __aenter__(self) -> ClientResponse:
        try:
            answer = await self._request.__aenter__()
        except (ClientError, OSError, TimeoutError, ValueError) as error:
            raise _silent(error) from error
        if answer.status == 200:
            return answer
        answer.release()
        raise AdapterFilesError(f"Its share pod answered {answer.status}. Look at that pod's log.")

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        await self._request.__aexit__(kind, error, None)
        if isinstance(error, ClientError | TimeoutError):
            raise _silent(error) from error


def _silent(error: BaseException) -> AdapterFilesError:
    return AdapterFilesError(f"Its share pod does not answer ({error or type(error).__name__}). It is asked again.")


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
