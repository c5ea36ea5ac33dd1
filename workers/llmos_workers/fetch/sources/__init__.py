"""Sources of models: one file per scheme, all behind the protocol in base.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from llmos_workers.fetch.errors import InvalidSourceError
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources.base import Listing, RemoteFile, Source, compute_digest, read_range
from llmos_workers.fetch.sources.https import WebSource
from llmos_workers.fetch.sources.hub import HubSource
from llmos_workers.fetch.sources.objects import ObjectSource
from llmos_workers.fetch.sources.oci import RegistrySource
from llmos_workers.fetch.sources.pvc import VolumeSource
from llmos_workers.fetch.sources.pypi import WheelSource

__all__ = ["Listing", "RemoteFile", "Source", "build_source", "compute_digest", "open_source", "read_range"]


@contextmanager
def open_source(uri: str, *, revision: str = "", pvc_mount: Path = Path("/source")) -> Iterator[Source]:
    """Choose the source by the URI's scheme and close it at the end; arguments and errors as in `build_source`."""
    with closing(build_source(uri, revision=revision, pvc_mount=pvc_mount)) as source:
        yield source


def build_source(uri: str, *, revision: str = "", pvc_mount: Path = Path("/source")) -> Source:
    """Choose the source by the URI's scheme. `revision` is what an earlier inspect resolved, or empty.

    Raises:
        InvalidSourceError: no source has that scheme, or the rest of the URI does not fit it.
    """
    match urlsplit(uri).scheme:
        case "hf":
            return HubSource(uri, revision)
        case "s3" | "gs":
            return ObjectSource(uri)
        case "https" | "http":
            return WebSource(uri)
        case "oci":
            return RegistrySource(uri, revision)
        case "pvc":
            return VolumeSource(uri, pvc_mount)
        case "pypi":
            return WheelSource(uri)
        case scheme:
            raise InvalidSourceError(
                f"{redact(uri)} has the unknown scheme {scheme[:32]!r}",
                "Use one of hf, s3, gs, oci, https, http, pvc, pypi.",
            )
