"""https:// and http://: a folder that any web server offers, or one file.

HTTP cannot list a folder, so the folder must say what it holds, in this order of preference:

1. `manifest.json` as LLMOS writes it (names, sizes, sha256): a folder fetched by LLMOS can be served to others as it
is; 2. `SHA256SUMS` as sha256sum writes it: names and checksums, sizes are asked for; 3. neither:
`model.safetensors.index.json` names the shards, or `model.safetensors` is there; the small files beside the
   weights have well-known names and are looked for one by one; or the two files of a LoRA adapter are there.

A dataset is one file, or a folder with one of the first two.

A query (a presigned signature) is kept for every request; a fragment `#sha256=HEX` gives the checksum of a single file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from llmos.api.adapters import ADAPTER_FILES
from llmos_workers.fetch.errors import InvalidSourceError, SourceNotFoundError
from llmos_workers.fetch.manifest import MANIFEST_NAME
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import MAX_FILES, Listing, RemoteFile
from llmos_workers.fetch.sources.checksums import CHECKSUMS_NAME, parse_checksums, parse_manifest
from llmos_workers.fetch.sources.web import build_client, fetch_small, observe_file, open_http_stream

INDEX_NAME: Final = "model.safetensors.index.json"
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")
_COMPANIONS: Final = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_PARALLEL_PROBES: Final = 8
_FILE_ENDINGS: Final = {
    "model": (".gguf",),
    "dataset": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".ndjson"),
}


class WebSource:
    """A folder or a file on a web server."""

    def __init__(self, uri: str, content: Literal["model", "dataset"] = "model") -> None:
        """Split the URL; nothing is asked yet."""
        parts = urlsplit(uri)
        if not parts.hostname:
            raise InvalidSourceError(f"{redact(uri)} names no host")
        self._parts = parts
        self._content = content
        self._is_file = parts.path.lower().endswith(_FILE_ENDINGS[content])
        self._folder = parts.path.rpartition("/")[0] if self._is_file else parts.path.rstrip("/")
        self._client = build_client()

    def observe_listing(self) -> Listing:
        """Find out what the folder holds; see the module's text for where it looks."""
        if self._is_file:
            return Listing((self._observe_single(),))
        for look in (self._from_manifest, self._from_checksums, self._from_known_names):
            if files := look():
                return Listing(tuple(files))
        if self._content == "dataset":
            raise SourceNotFoundError(
                f"{redact(self._parts.geturl())} has no {MANIFEST_NAME} or {CHECKSUMS_NAME}, so its files are unknown",
                f"Point the URI at a .jsonl file, or run sha256sum * > {CHECKSUMS_NAME} in the folder.",
            )
        raise SourceNotFoundError(
            f"{redact(self._parts.geturl())} has no {MANIFEST_NAME}, {CHECKSUMS_NAME} or safetensors files",
            "Point the URI at a folder with config.json and safetensors files, or at a .gguf file; for other names run "
            f"sha256sum * > {CHECKSUMS_NAME} in the folder.",
        )

    def open_stream(
        self, file: RemoteFile, offset: int = 0, length: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Open part of a file by a range request."""
        return open_http_stream(self._client, self._url(file.path), file, offset, length)

    def close(self) -> None:
        """Give back connections."""
        self._client.close()

    def _url(self, path: str) -> str:
        parts = self._parts
        return urlunsplit((parts.scheme, parts.netloc, f"{self._folder}/{quote(path)}", parts.query, ""))

    def _observe_single(self) -> RemoteFile:
        name = unquote(self._parts.path.rpartition("/")[2])
        key, _, value = self._parts.fragment.partition("=")
        checksum = f"sha256:{value.lower()}" if key == "sha256" else ""
        file = observe_file(self._client, self._url(name), name, checksum=checksum)
        if file is None:
            raise SourceNotFoundError(f"{redact(self._url(name))} answered 404")
        return file

    def _from_manifest(self) -> list[RemoteFile]:
        data = fetch_small(self._client, self._url(MANIFEST_NAME))
        return list(parse_manifest(data)) if data else []

    def _from_checksums(self) -> list[RemoteFile]:
        data = fetch_small(self._client, self._url(CHECKSUMS_NAME))
        return self._observe_all(parse_checksums(data or b""), required=True)

    def _from_known_names(self) -> list[RemoteFile]:
        if self._content == "dataset":
            return []
        index = fetch_small(self._client, self._url(INDEX_NAME))
        weights = [INDEX_NAME, *parse_index(index)] if index else ["model.safetensors"]
        files = self._observe_all(dict.fromkeys(weights, ""), required=bool(index))
        if not files:
            # Adapters; and pickles, listed only so that the selection can say why nothing here is fetched.
            return self._observe_all(dict.fromkeys((*ADAPTER_FILES, *_PICKLES), ""), required=False)
        small = ("config.json", *_COMPANIONS)
        return [*files, *self._observe_all(dict.fromkeys(small, ""), required=False)]

    def _observe_all(self, checksums: dict[str, str], *, required: bool) -> list[RemoteFile]:
        def observe(path: str) -> RemoteFile | None:
            RemoteFile(path, 0)  # refuses an unsafe name before it becomes part of a URL
            return observe_file(self._client, self._url(path), path, checksum=checksums[path])

        with ThreadPoolExecutor(_PARALLEL_PROBES) as pool:
            found = dict(zip(checksums, pool.map(observe, checksums), strict=True))
        missing = [path for path, file in found.items() if file is None]
        if required and missing:
            raise SourceNotFoundError(f"{redact(self._parts.geturl())} lacks {missing[0]}, which its listing names")
        return [file for file in found.values() if file is not None]


def parse_index(data: bytes) -> list[str]:
    """Names of the shards in a model.safetensors.index.json.

    Raises:
        InvalidSourceError: it is not such an index.
    """
    try:
        weight_map = json.loads(data)["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSourceError(f"{INDEX_NAME} cannot be read", "Repair the file at the source.") from error
    if not all(isinstance(name, str) for name in names) or len(names) > MAX_FILES:
        raise InvalidSourceError(f"{INDEX_NAME} names no files", "Repair the file at the source.")
    return names
