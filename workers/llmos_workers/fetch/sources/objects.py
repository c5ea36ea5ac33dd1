"""s3://bucket/path and gs://bucket/path: object stores, read through obstore.

obstore (the Rust crate object_store) and not s3fs or gcsfs: s3fs pins aiobotocore, which pins urllib3 and botocore to
versions that cannot be installed beside kubernetes>=37, so one environment could not hold operator and workers. obstore
has no Python dependencies, reads AWS_* and GOOGLE_* variables (also AWS_ENDPOINT_URL, AWS_SKIP_SIGNATURE and web
identity tokens), and needs one code path for both stores. Some of its errors carry the status code
only in their text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions
from obstore.store import GCSStore, S3Store

from llmos_workers.fetch.errors import (
    AccessDeniedError,
    CertificateNotTrustedError,
    FetchError,
    InvalidSourceError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import CHUNK_BYTES, MAX_FILES, Listing, RemoteFile, guard_chunks, narrow
from llmos_workers.fetch.sources.checksums import add_checksums
from llmos_workers.fetch.sources.web import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, build_status_error, is_untrusted

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig


class ObjectSource:
    """A prefix in a bucket."""

    def __init__(self, uri: str) -> None:
        """Read the URI and the environment; nothing is asked yet."""
        parts = urlsplit(uri)
        self._path = unquote(parts.path).strip("/")
        self._place = f"{parts.scheme}://{parts.netloc}"
        self._prefix = ""
        if not parts.netloc or "@" in parts.netloc:
            raise InvalidSourceError(f"{redact(uri)} is not {parts.scheme}://bucket/path")
        with self._translate():
            self._store = build_store(parts.scheme, parts.netloc)

    def observe_listing(self) -> Listing:
        """List the objects below the path."""
        found: list[RemoteFile] = []
        with self._translate():
            # A prefix is a plain string to the store; `narrow` then cuts at the folder's border.
            for batch in obstore.list(self._store, prefix=self._path or None):
                found += [
                    RemoteFile(item["path"], item["size"], version=(item["e_tag"] or "").strip('"'))
                    for item in batch
                    if not item["path"].endswith("/")
                ]
                if len(found) > MAX_FILES:
                    raise InvalidSourceError(
                        f"{self._place} holds more than {MAX_FILES} objects there", "Name one model."
                    )
        if not found:
            found = self._observe_object()
        files, self._prefix = narrow(found, self._path)
        return Listing(add_checksums(self, files))

    @contextmanager
    def open_stream(self, file: RemoteFile, offset: int = 0, length: int | None = None) -> Iterator[Iterator[bytes]]:
        """Open part of an object, only as long as it is the one that was listed."""
        end = file.size_bytes if length is None else min(offset + length, file.size_bytes)
        options: obstore.GetOptions = {"if_match": f'"{file.version}"'} if file.version else {}
        if end > offset:
            options["range"] = (offset, end)
        with self._translate():
            stream = obstore.get(self._store, self._prefix + file.path, options=options).stream(CHUNK_BYTES)
        yield guard_chunks((bytes(chunk) for chunk in stream), self._translate)

    def close(self) -> None:
        """Nothing to do: obstore keeps its connections to itself."""

    def _observe_object(self) -> list[RemoteFile]:
        """Look for one object: the store lists folders only."""
        if not self._path:
            return []
        try:
            item = obstore.head(self._store, self._path)
        except FileNotFoundError:
            return []
        return [RemoteFile(self._path, item["size"], version=(item["e_tag"] or "").strip('"'))]

    def _translate(self) -> AbstractContextManager[None]:
        return translate_store_errors(self._place)


@contextmanager
def translate_store_errors(place: str) -> Iterator[None]:
    """Turn what obstore raises into errors with a reason; `place` is the bucket, for people."""
    try:
        yield
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise _build_error(error, place) from error


def _build_error(error: Exception, place: str) -> FetchError:
    text = redact(str(error)).partition("\n")[0]
    said = f"{place}: {text[:600]}"
    if is_untrusted(error):
        return CertificateNotTrustedError(f"The store's certificate is not trusted ({said})")
    for kinds, pattern, build in _ERRORS:
        if isinstance(error, kinds) and (pattern is None or pattern.search(text)):
            return build(said)
    status = _STATUS.search(text)
    return build_status_error(int(status[1]), place, {}) if status else SourceUnavailableError(said)


def _build_changed(said: str) -> FetchError:
    return SourceUnavailableError(f"An object changed while it was being fetched ({said})")


def _build_misconfigured(said: str) -> FetchError:
    return InvalidSourceError(said, "Correct spec.source.uri and the AWS_* or GOOGLE_* values of the Secret.")


def _build_no_credentials(said: str) -> FetchError:
    return AccessDeniedError(
        f"No credentials were found ({said})",
        "Name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or GOOGLE_APPLICATION_CREDENTIALS) in "
        "spec.source.secretRef; for a public bucket it holds AWS_SKIP_SIGNATURE=true.",
    )


_STATUS: Final = re.compile(r"status code: (\d{3})")
# The first row that fits decides.
_ERRORS: Final[tuple[tuple[tuple[type[Exception], ...], re.Pattern[str] | None, Callable[[str], FetchError]], ...]] = (
    ((exceptions.NotFoundError, FileNotFoundError), None, SourceNotFoundError),
    ((exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError), None, AccessDeniedError),
    ((exceptions.PreconditionError,), None, _build_changed),
    ((ValueError,), None, _build_misconfigured),
    ((Exception,), re.compile(r"Missing (bucket|region)|invalid ur[li]", re.IGNORECASE), _build_misconfigured),
    ((Exception,), re.compile(r"169\.254\.169\.254|metadata\.google|credential", re.IGNORECASE), _build_no_credentials),
)


def build_store(scheme: str, bucket: str, user_agent: str = "llmos-fetch") -> S3Store | GCSStore:
    """A client of a bucket, with what the environment says about credentials and addresses."""
    # One quick repetition inside obstore; longer pauses are retry.py's, where they can be seen and bounded.
    retry: RetryConfig = {"max_retries": 1, "retry_timeout": timedelta(seconds=10)}
    if scheme == "gs":
        return GCSStore(bucket, client_options=_build_client_options(user_agent), retry_config=retry)
    return S3Store(bucket, client_options=_build_client_options(user_agent), retry_config=retry)


def _build_client_options(user_agent: str) -> ClientConfig:
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
        # The default limits a whole download to 30 s; a stalled one is what read_timeout ends.
        "timeout": timedelta(days=1),
        "allow_http": True,
        "user_agent": user_agent,
    }
    bundle = Path(os.environ.get("SSL_CERT_FILE", ""))
    if bundle.is_file():
        options["root_certificate"] = bundle.read_bytes()
    return options
