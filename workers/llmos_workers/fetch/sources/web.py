"""HTTP for all sources: one client, ranges, and the mapping from status codes to the error tree.

Rules that hold for every request: identity encoding (a gzipped answer would break offsets and sizes), bounded redirects
that never fall from https to http, a deadline on connecting and on every read but none on a whole download.
"""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import httpx

from llmos_workers.fetch.errors import (
    AccessDeniedError,
    CertificateNotTrustedError,
    FetchError,
    InvalidSourceError,
    RateLimitedError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import CHUNK_BYTES, RemoteFile

CONNECT_TIMEOUT_S: Final = 15.0
READ_TIMEOUT_S: Final = 60.0
_MAX_RETRY_AFTER_S: Final = 86_400.0
_MAX_SMALL_BYTES: Final = 32 << 20
_NOT_TRUSTED: Final = re.compile(
    r"certificate.verify.failed|invalid peer certificate|InvalidCertificate", re.IGNORECASE
)
"""OpenSSL's and rustls' words for it. Not every client keeps the exception that says it."""


def build_client() -> httpx.Client:
    """Make the client; proxies and certificates come from the environment (HTTPS_PROXY, SSL_CERT_FILE)."""
    return httpx.Client(
        follow_redirects=True,
        max_redirects=10,
        timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        headers={"User-Agent": "llmos-fetch", "Accept-Encoding": "identity"},
        event_hooks={"response": [_refuse_downgrade]},
    )


def _refuse_downgrade(response: httpx.Response) -> None:
    following = response.next_request
    if following is not None and response.request.url.scheme == "https" and following.url.scheme == "http":
        raise InvalidSourceError(
            f"{redact(str(response.request.url))} redirects from https to http", "Name the final address."
        )


def build_status_error(status: int, url: str, headers: Mapping[str, str], *, detail: str = "") -> FetchError:
    """Translate a refused request into the error tree."""
    said = f"{redact(url)} answered {status}" + (f" ({detail})" if detail else "")
    if status == 429:
        return RateLimitedError(said, retry_after_s=parse_retry_after_s(headers.get("Retry-After"), time.time()))
    if status in {401, 403, 407}:
        return AccessDeniedError(said)
    if status in {404, 410}:
        return SourceNotFoundError(said)
    if status >= 500 or status in {408, 425}:
        return SourceUnavailableError(said, retry_after_s=parse_retry_after_s(headers.get("Retry-After"), time.time()))
    return InvalidSourceError(said)


def parse_retry_after_s(value: str | None, now_s: float) -> float | None:
    """Read a Retry-After header: seconds, or an HTTP date. None where it is absent or makes no sense."""
    if not value:
        return None
    if value.strip().isdigit():
        return min(float(value), _MAX_RETRY_AFTER_S)
    try:
        asked_for_s = email.utils.parsedate_to_datetime(value).timestamp() - now_s
    except ValueError:
        return None
    return min(max(asked_for_s, 0.0), _MAX_RETRY_AFTER_S)


def build_connection_error(place: str, error: BaseException) -> FetchError:
    """Translate a connection that failed, or was never made, into the error tree."""
    said = f"{redact(place)}: {redact(str(error)) or type(error).__name__}"
    return (CertificateNotTrustedError if is_untrusted(error) else SourceUnavailableError)(said)


def is_untrusted(error: BaseException) -> bool:
    """Return whether a connection failed because of the server's certificate."""
    return _NOT_TRUSTED.search(str(error)) is not None


@contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Turn what httpx raises inside the block into the error tree."""
    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise InvalidSourceError(f"{redact(url)}: {redact(str(error))}") from error
    except httpx.HTTPError as error:
        raise build_connection_error(url, error) from error


@contextmanager
def open_http_stream(
    client: httpx.Client,
    url: str,
    file: RemoteFile,
    offset: int,
    length: int | None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Iterator[bytes]]:
    """Open part of a file. A server without ranges sends all of it, and what comes before `offset` is skipped.

    Raises:
        SourceUnavailableError: also when the file has changed since it was listed, for then no part of it can be
        trusted.
    """
    request_headers = dict(headers or {})
    if offset or length is not None:
        request_headers["Range"] = f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))
    with translate_errors(url), client.stream("GET", url, headers=request_headers) as response:
        if response.status_code not in {200, 206}:
            raise build_status_error(response.status_code, url, response.headers)
        _check_unchanged(response, file, url)
        yield _skip(response.iter_bytes(CHUNK_BYTES), offset - _first_byte(response))


def _first_byte(response: httpx.Response) -> int:
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if response.status_code == 206 and start.isdigit() else 0


def _check_unchanged(response: httpx.Response, file: RemoteFile, url: str) -> None:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    total = total if response.status_code == 206 else response.headers.get("Content-Length", "")
    if total.isdigit() and int(total) != file.size_bytes:
        raise SourceUnavailableError(f"{redact(url)} has {total} bytes, but {file.size_bytes} were announced")
    version = read_version(response.headers)
    if file.version and version and version != file.version:
        raise SourceUnavailableError(f"{redact(url)} changed while it was being fetched")


def read_version(headers: Mapping[str, str]) -> str:
    """Return the ETag without quotes (weak ones say too little), else the time of the last change."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag.strip('"')[:256]


def _skip(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        rest = chunk[count:]
        count = max(0, count - len(chunk))
        if rest:
            yield rest


def fetch_small(client: httpx.Client, url: str, headers: Mapping[str, str] | None = None) -> bytes | None:
    """Read a small file whole; None where there is none."""
    with translate_errors(url), client.stream("GET", url, headers=dict(headers or {})) as response:
        if response.status_code in {404, 410}:
            return None
        if response.status_code != 200:
            raise build_status_error(response.status_code, url, response.headers)
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > _MAX_SMALL_BYTES:
                raise InvalidSourceError(
                    f"{redact(url)} is larger than {_MAX_SMALL_BYTES} bytes", "Name a model's folder."
                )
        return bytes(data)


def observe_file(
    client: httpx.Client, url: str, path: str, *, checksum: str = "", headers: Mapping[str, str] | None = None
) -> RemoteFile | None:
    """Ask for size and version of one file; None where there is none.

    Raises:
        InvalidSourceError: the server tells no size, so that neither space nor completeness could be checked.
    """
    with translate_errors(url):
        response = client.head(url, headers=dict(headers or {}))
        size = response.headers.get("Content-Length", "")
        if response.status_code not in {404, 410} and not (response.status_code == 200 and size):
            # Some servers know no HEAD, and presigned URLs allow only GET; one byte by range tells the same.
            probe = {**(headers or {}), "Range": "bytes=0-0"}
            with client.stream("GET", url, headers=probe) as ranged:
                response, size = ranged, ranged.headers.get("Content-Range", "").rpartition("/")[2]
    if response.status_code in {404, 410}:
        return None
    if response.status_code not in {200, 206}:
        raise build_status_error(response.status_code, url, response.headers)
    if not size.isdigit():
        raise InvalidSourceError(f"{redact(url)} does not tell its size", "Serve it with Content-Length.")
    return RemoteFile(path, int(size), checksum=checksum, version=read_version(response.headers))
