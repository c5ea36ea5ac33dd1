"""The dataset step: the JSON lines of a FineTuneJob, from any source to a folder of its claim.

    DEST/data -> <digest12>   the files, with manifest.json, as a model's are on its volume (volume.py)
    DEST/.prepared            the dataset gate has read them and removed them: there is nothing to fetch any more

A source may change while the job runs. What was fetched completely is the job's dataset, and is not asked for again.
Files in a claim (pvc://) are copied like any others: the pod that prepares does not mount that claim.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final, TextIO
from urllib.parse import unquote, urlsplit

from llmos_workers.fetch.download import Downloader, translate_disk_errors
from llmos_workers.fetch.errors import SourceNotFoundError
from llmos_workers.fetch.fetching import FetchRequest, build_entries, download, print_complete
from llmos_workers.fetch.manifest import Manifest
from llmos_workers.fetch.progress import Progress
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.sources import Listing, RemoteFile, Source, compute_digest
from llmos_workers.fetch.volume import Volume

log = logging.getLogger(__name__)

DATA_LINK: Final = "data"
PREPARED_NAME: Final = ".prepared"
_ENDINGS: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def fetch_dataset(request: FetchRequest, source: Source, volume: Volume, out: TextIO) -> None:
    """Bring the dataset onto the volume, or find it there. Progress lines go to `out`.

    Raises:
        FetchError: one of its subclasses; what was fetched so far is kept for the next run.
    """
    with volume.lock(request.lock_timeout_s), translate_disk_errors():
        if (volume.root / PREPARED_NAME).exists():
            log.info("the dataset was prepared before")
            return
        current = volume.observe_current()
        if current is not None and current[1].source == redact(request.uri):
            log.info("%d files are already there", len(current[1].files))
            print_complete(current[1], out)
            return
        listing = request.retry.call(source.observe_listing)
        _fetch(request, source, volume, listing, Progress(0, out))


def _fetch(request: FetchRequest, source: Source, volume: Volume, listing: Listing, progress: Progress) -> None:
    files = select_dataset_files(listing.files, request.uri)
    digest = compute_digest(files)
    incoming = volume.prepare_incoming(digest)
    archive_bytes = listing.archive.size_bytes if listing.archive else 0
    volume.check_space(incoming, sum(file.size_bytes for file in files) + archive_bytes)
    folder = incoming / DATA_LINK
    downloader = Downloader(source, progress, request.retry, request.parallel)
    download(downloader, listing, files, incoming / "download", folder)
    manifest = Manifest(
        source=redact(request.uri), revision=listing.revision, digest=digest, files=build_entries(folder, files)
    )
    volume.publish(folder, manifest)
    log.info("%d files are in place, digest %s", len(files), digest)


def select_dataset_files(listed: Iterable[RemoteFile], uri: str) -> tuple[RemoteFile, ...]:
    """Choose the JSON lines among the listed files; a single file that the URI names is taken whatever its name is.

    Raises:
        SourceNotFoundError: there are none.
    """
    files = [file for file in listed if not any(part.startswith(".") for part in file.path.split("/"))]
    if len(files) == 1 and unquote(urlsplit(uri).path).endswith(f"/{files[0].path}"):
        return tuple(files)
    wanted = sorted((file for file in files if file.path.lower().endswith(_ENDINGS)), key=lambda file: file.path)
    if not wanted:
        raise SourceNotFoundError(
            "The source has no .jsonl files",
            "Point the URI at a folder with *.jsonl, *.jsonl.gz or *.jsonl.zst files, or at one file.",
        )
    return tuple(wanted)
