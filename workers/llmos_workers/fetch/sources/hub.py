"""hf://org/name[@revision][/path]: a model hub that speaks the Hugging Face API (HF_ENDPOINT, HF_TOKEN).

A dataset's repository may also be written as huggingface_hub writes it: hf://datasets/org/name.

huggingface_hub resolves the revision to a commit, lists the files with sizes and checksums, and builds URLs and
headers. The bytes go through the shared downloader rather than hf_hub_download, because its progress, its resuming, its
disk check and its errors must be the same for every source. Only the commit is ever fetched: a branch that moves
between inspect and fetch changes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final, Literal
from urllib.parse import unquote

import httpx2
from huggingface_hub import HfApi, close_session, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils._headers import build_hf_headers

from llmos_workers.fetch.errors import (
    AccessDeniedError,
    FetchError,
    InvalidSourceError,
    SourceNotFoundError,
)
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import Listing, RemoteFile, narrow
from llmos_workers.fetch.sources.web import (
    READ_TIMEOUT_S,
    build_client,
    build_connection_error,
    build_status_error,
    open_http_stream,
)

_DEFAULT_ENDPOINT: Final = "https://huggingface.co"
_URI: Final = re.compile(r"^hf://(?P<repo>[^/@]+(?:/[^/@]+)?)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.+))?$")
_COMMIT: Final = re.compile(r"^[0-9a-f]{40}$")


class HubSource:
    """A repository on a hub."""

    def __init__(self, uri: str, revision: str = "", content: Literal["model", "dataset"] = "model") -> None:
        """Read the URI; `revision`, a commit that an inspect step resolved, wins over the URI's."""
        self._content = content
        match = _URI.match(uri.replace("hf://datasets/", "hf://", 1) if content == "dataset" else uri)
        if match is None:
            raise InvalidSourceError(
                f"{redact(uri)} is not hf://org/name, hf://org/name@revision or hf://org/name/file.gguf"
            )
        self._repo = match["repo"]
        self._revision = revision or unquote(match["revision"] or "") or "main"
        self._path = (match["path"] or "").strip("/")
        self._prefix = ""
        self._commit = ""
        endpoint = os.environ.get("HF_ENDPOINT", _DEFAULT_ENDPOINT).rstrip("/")
        token = os.environ.get("HF_TOKEN") or False
        self._api = HfApi(endpoint=endpoint, token=token)
        self._headers = build_hf_headers(token=token)
        self._client = build_client()

    def observe_listing(self) -> Listing:
        """Resolve the revision and list the files at that commit."""
        try:
            info = self._api.repo_info(
                self._repo,
                repo_type=self._content,
                revision=self._revision,
                files_metadata=True,
                timeout=READ_TIMEOUT_S,
            )
        except HFValidationError as error:
            raise InvalidSourceError(f"hf://{self._repo}: {error}") from error
        except HfHubHTTPError as error:
            raise self._translate(error) from error
        except httpx2.HTTPError as error:
            raise build_connection_error(self._api.endpoint, error) from error
        commit = info.sha or ""
        if not _COMMIT.match(commit):
            raise InvalidSourceError(f"{self._api.endpoint} gives no commit for {self._repo}", "Check HF_ENDPOINT.")
        self._commit = commit
        files, self._prefix = narrow(
            [_to_file(sibling) for sibling in getattr(info, "siblings", None) or ()], self._path
        )
        return Listing(files, revision=commit)

    def open_stream(
        self, file: RemoteFile, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Open part of a file at the resolved commit; the token goes to the hub only, never where it redirects to."""
        url = hf_hub_url(
            self._repo,
            self._prefix + file.path,
            repo_type=self._content,
            revision=self._commit,
            endpoint=self._api.endpoint,
        )
        return open_http_stream(self._client, url, file, offset, length, headers=self._headers)

    def close(self) -> None:
        """Give back connections."""
        self._client.close()
        close_session()

    def _translate(self, error: HfHubHTTPError) -> FetchError:
        # Gated is a kind of "not found" for huggingface_hub, so it comes first.
        if isinstance(error, GatedRepoError):
            return AccessDeniedError(
                f"{self._repo} is gated and the token may not read it",
                f"Accept the {self._content}'s terms on its page with the token's account and name a Secret with "
                "HF_TOKEN in spec.source.secretRef.",
            )
        if isinstance(error, DisabledRepoError):
            return AccessDeniedError(f"The hub has disabled {self._repo}", f"Choose another {self._content}.")
        if isinstance(error, RevisionNotFoundError):
            return SourceNotFoundError(
                f"{self._repo} has no revision {self._revision}", "Correct the part after @ in the URI."
            )
        status = error.response.status_code
        if isinstance(error, RepositoryNotFoundError) or status == 404:
            return SourceNotFoundError(f"{self._api.endpoint} knows no {self._content} {self._repo}, or it is private")
        return build_status_error(status, str(error.response.url), error.response.headers)


def _to_file(sibling: RepoSibling) -> RemoteFile:
    if sibling.lfs is not None:
        checksum = f"sha256:{sibling.lfs.sha256}"
    else:
        checksum = f"git-sha1:{sibling.blob_id}" if sibling.blob_id else ""
    return RemoteFile(sibling.rfilename, int(sibling.size or 0), checksum=checksum)
