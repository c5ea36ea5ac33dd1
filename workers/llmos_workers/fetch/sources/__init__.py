"""Sources of models: one file per scheme, all behind the protocol in base.py."""

# ruff: noqa: PLC0415  # all clients together take seconds to import, and a pod reads from one place

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from llmos_workers.fetch.errors import InvalidSourceError
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import Listing, RemoteFile, Source, compute_digest, read_range

__all__ = ["Content", "Listing", "RemoteFile", "Source", "build_source", "compute_digest", "open_source", "read_range"]

Content = Literal["model", "dataset"]
"""What is looked for. Hubs keep datasets apart from models, and a web server says by other names what it has."""


@contextmanager
def open_source(
    uri: str, *, revision: str = "", pvc_mount: Path = Path("/source"), content: Content = "model"
) -> Iterator[Source]:
    """Choose the source by the URI's scheme and close it at the end; arguments and errors as in `build_source`."""
    with closing(build_source(uri, revision=revision, pvc_mount=pvc_mount, content=content)) as source:
        yield source


def build_source(
    uri: str, *, revision: str = "", pvc_mount: Path = Path("/source"), content: Content = "model"
) -> Source:
    """Choose the source by the URI's scheme. `revision` is what an earlier inspect resolved, or empty.

    Raises:
        InvalidSourceError: no source has that scheme, or the rest of the URI does not fit it.
    """
    match urlsplit(uri).scheme:
        case "hf":
            from llmos_workers.fetch.sources.hub import HubSource

            return HubSource(uri, revision, content)
        case "s3" | "gs":
            from llmos_workers.fetch.sources.objects import ObjectSource

            return ObjectSource(uri)
        case "https" | "http":
            from llmos_workers.fetch.sources.https import WebSource

            return WebSource(uri, content)
        case "oci":
            from llmos_workers.fetch.sources.oci import RegistrySource

            return RegistrySource(uri, revision)
        case "pvc":
            from llmos_workers.fetch.sources.pvc import VolumeSource

            return VolumeSource(uri, pvc_mount)
        case "pypi":
            from llmos_workers.fetch.sources.pypi import WheelSource

            return WheelSource(uri)
        case scheme:
            raise InvalidSourceError(
                f"{redact(uri)} has the unknown scheme {scheme[:32]!r}",
                "Use one of hf, s3, gs, oci, https, http, pvc, pypi.",
            )
