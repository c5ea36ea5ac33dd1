"""Checksums that lie beside a model: LLMOS's own manifest.json, or SHA256SUMS as sha256sum writes it.

Object stores, web servers and volumes give no sha256 of their own; with one of these two files every byte is verified
all the same.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from llmos_workers.fetch.errors import InvalidSourceError
from llmos_workers.fetch.manifest import MANIFEST_NAME, Manifest
from llmos_workers.fetch.sources.base import MAX_FILES, RemoteFile, Source, read_range

CHECKSUMS_NAME: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"^(?P<sha256>[0-9a-f]{64}) [ *](?:\./)?(?P<path>.+)$")
_MAX_BYTES: Final = 16 << 20


def parse_checksums(data: bytes) -> dict[str, str]:
    """Map path to `sha256:HEX` from a SHA256SUMS file.

    Raises:
        InvalidSourceError: more lines than a model has files.
    """
    lines = data.decode(errors="replace").splitlines()
    if len(lines) > MAX_FILES:
        raise InvalidSourceError(f"{CHECKSUMS_NAME} has {len(lines)} lines, more than {MAX_FILES}", "Name one model.")
    return {match["path"]: f"sha256:{match['sha256']}" for line in lines if (match := _LINE.match(line))}


def parse_manifest(data: bytes) -> tuple[RemoteFile, ...]:
    """Files of a manifest.json; empty where another program wrote it."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError:
        return ()
    return tuple(RemoteFile(file.path, file.size_bytes, f"sha256:{file.sha256}") for file in manifest.files)


def add_checksums(source: Source, files: tuple[RemoteFile, ...]) -> tuple[RemoteFile, ...]:
    """Add to each file the checksum that a manifest or SHA256SUMS among the files gives for it."""
    by_path = {file.path: file for file in files}
    known: dict[str, str] = {}
    for name in (CHECKSUMS_NAME, MANIFEST_NAME):
        listed = by_path.get(name)
        if listed is None or listed.size_bytes > _MAX_BYTES:
            continue
        data = read_range(source, listed, 0, listed.size_bytes)
        known |= (
            parse_checksums(data)
            if name == CHECKSUMS_NAME
            else {file.path: file.checksum for file in parse_manifest(data)}
        )
    return tuple(replace(file, checksum=known.get(file.path, file.checksum)) for file in files)
