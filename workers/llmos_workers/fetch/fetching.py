"""The fetch step: from a source to a finished folder on the volume.

    lock -> already there? -> list -> select -> room? -> download -> verify -> unpack -> convert -> publish

Every stage keeps its result in a folder of its own below the incoming one, so a run after a crash finds what is done:

    .incoming-X/download/   the archive, where the files travel in one
    .incoming-X/gguf/       the file to convert
    .incoming-X/model/      what will be published
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from llmos_workers.fetch.adapter import select_adapter_files
from llmos_workers.fetch.convert import convert_gguf
from llmos_workers.fetch.download import Downloader, translate_disk_errors
from llmos_workers.fetch.errors import ChecksumMismatchError
from llmos_workers.fetch.gguf_config import build_config
from llmos_workers.fetch.inspection import CONVERTED_BYTES, read_gguf_header
from llmos_workers.fetch.manifest import Manifest, ManifestFile
from llmos_workers.fetch.progress import Progress
from llmos_workers.fetch.redaction import redact
from llmos_workers.fetch.retry import DEFAULT_RETRY, RetryPolicy
from llmos_workers.fetch.safetensors_header import check_local_file
from llmos_workers.fetch.selection import Format, Selection, select_files
from llmos_workers.fetch.sources import Listing, RemoteFile, Source, compute_digest
from llmos_workers.fetch.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FetchRequest:
    """What to fetch and how. `revision` is what inspect resolved; empty means that the source is asked again."""

    uri: str
    revision: str = ""
    wanted_format: Format = "auto"
    trusted_revision: str = ""
    is_adapter: bool = False
    parallel: int = 4
    lock_timeout_s: float = 60.0
    retry: RetryPolicy = DEFAULT_RETRY


def fetch_model(request: FetchRequest, source: Source, volume: Volume, out: TextIO) -> Path:
    """Bring the model onto the volume, or find it there, and return its folder. Progress lines go to `out`.

    Raises:
        FetchError: one of its subclasses; what was fetched so far is kept for the next run.
    """
    with volume.lock(request.lock_timeout_s), translate_disk_errors():
        current = volume.observe_current()
        if current is not None and _is_same(current[1], request):
            log.info("revision %s is already there", request.revision)
            print_complete(current[1], out)
            return current[0]
        listing = request.retry.call(source.observe_listing)
        with_code = bool(request.trusted_revision) and request.trusted_revision == listing.revision
        selection = (
            select_adapter_files(listing.files)
            if request.is_adapter
            else select_files(listing.files, request.wanted_format, with_code=with_code)
        )
        return _Fetch(request, source, volume, listing, selection, out).run()


def _is_same(manifest: Manifest, request: FetchRequest) -> bool:
    """A resolved revision never changes its content, so the source need not be asked."""
    return bool(request.revision) and manifest.revision == request.revision and manifest.source == redact(request.uri)


@dataclass(frozen=True)
class _Fetch:
    request: FetchRequest
    source: Source
    volume: Volume
    listing: Listing
    selection: Selection
    out: TextIO

    def run(self) -> Path:
        digest = compute_digest(self.selection.files)
        if (manifest := self.volume.observe_finished(digest)) is not None:
            log.info("%s is already there", digest)
            folder = self.volume.root / digest.partition(":")[2][:12]
            self.volume.point_to(Path(folder.name))
            print_complete(manifest, self.out)
            return folder
        if self.listing.local_folder is not None and self.selection.format == "safetensors":
            return self._use_in_place(self.listing.local_folder)
        incoming = self.volume.prepare_incoming(digest)
        parameters = self._observe_parameters() if self.selection.format == "gguf" else 0
        self.volume.check_space(incoming, self._compute_peak_bytes(parameters))
        model = incoming / "model"
        self._download(incoming, model if self.selection.format == "safetensors" else incoming / "gguf")
        if self.selection.format == "gguf":
            self._convert(incoming / "gguf", model, parameters)
        manifest = self._build_manifest(digest, model)
        folder = self.volume.publish(model, manifest)
        log.info("%d files are in place, digest %s", len(manifest.files), digest)
        return folder

    def _compute_peak_bytes(self, parameters: int) -> int:
        """Bytes below the incoming folder at the worst moment; `parameters` are those to convert."""
        plain_bytes = 0 if self.listing.local_folder else self.selection.total_bytes
        archive_bytes = self.listing.archive.size_bytes if self.listing.archive else 0
        return plain_bytes + max(archive_bytes, parameters * CONVERTED_BYTES)

    def _observe_parameters(self) -> int:
        """Parameters of a GGUF file; refuses, before the download, what could not be converted after it."""
        header = self.request.retry.call(lambda: read_gguf_header(self.source, self.selection.weights[0]))
        build_config(header)
        return header.parameters

    def _download(self, incoming: Path, target: Path) -> None:
        if self.listing.local_folder is not None:
            return
        progress = Progress(0, self.out)
        downloader = Downloader(self.source, progress, self.request.retry, self.request.parallel)
        download(downloader, self.listing, self.selection.files, incoming / "download", target)

    def _convert(self, fetched: Path, model: Path, parameters: int) -> None:
        gguf = (self.listing.local_folder or fetched) / self.selection.weights[0].path
        if self.listing.local_folder is not None:
            _check_in_place(gguf, self.selection.weights[0])
        convert_gguf(gguf, model, parameters)

    def _use_in_place(self, folder: Path) -> Path:
        """The files lie on a claim that the serving pod mounts at the same place: only a link is needed."""
        progress = Progress(self.selection.total_bytes, self.out)
        for file in self.selection.files:
            _check_in_place(folder / file.path, file)
            progress.add(file.size_bytes)
        progress.finish()
        self.volume.point_to(folder)
        log.info("%d files were verified where they lie", len(self.selection.files))
        return folder

    def _build_manifest(self, digest: str, model: Path) -> Manifest:
        for path in model.rglob("*.safetensors"):
            check_local_file(path)
        return Manifest(
            source=redact(self.request.uri),
            revision=self.listing.revision,
            digest=digest,
            converted_from=self.selection.weights[0].path if self.selection.format == "gguf" else "",
            files=build_entries(model, self.selection.files),
        )


def download(
    downloader: Downloader, listing: Listing, files: tuple[RemoteFile, ...], archive_folder: Path, target: Path
) -> None:
    """Bring listed files into `target`, where they travel in an archive by way of `archive_folder`."""
    if _are_present(files, target):
        return
    archive = listing.archive
    wanted, folder = (files, target) if archive is None else ((archive,), archive_folder)
    downloader.progress.expect(sum(file.size_bytes for file in wanted))
    downloader.fetch_all(wanted, folder)
    downloader.progress.finish()
    if archive is not None:
        _unpack(folder / archive.path, dict(listing.members), files, target)
        shutil.rmtree(folder)


def build_entries(folder: Path, listed: Iterable[RemoteFile]) -> tuple[ManifestFile, ...]:
    """Entries of a manifest for all files of a folder; only what no source gave a sha256 for is read."""
    known = {file.path: file.checksum.partition(":")[2] for file in listed if _has_sha256(file)}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(_build_entry(path, str(path.relative_to(folder)), known) for path in paths)


def _build_entry(path: Path, name: str, known: dict[str, str]) -> ManifestFile:
    return ManifestFile(path=name, size_bytes=path.stat().st_size, sha256=known.get(name) or _hash(path))


def _has_sha256(file: RemoteFile) -> bool:
    return file.checksum.startswith("sha256:")


def _are_present(files: Iterable[RemoteFile], folder: Path) -> bool:
    return all((path := folder / file.path).is_file() and path.stat().st_size == file.size_bytes for file in files)


def _unpack(archive: Path, members: dict[str, str], files: Iterable[RemoteFile], target: Path) -> None:
    """Take the chosen files out of a verified zip; zipfile checks CRCs and never reads more than the declared size."""
    with zipfile.ZipFile(archive) as opened:
        for file in files:
            path = target / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            with opened.open(members[file.path]) as member, part.open("wb") as out:
                shutil.copyfileobj(member, out, 1 << 20)
            part.replace(path)


def _check_in_place(path: Path, file: RemoteFile) -> None:
    if path.suffix == ".safetensors":
        check_local_file(path)
    if _has_sha256(file) and _hash(path) != file.checksum.partition(":")[2]:
        raise ChecksumMismatchError(
            f"{file.path} is not the file that its listing announces", "Copy it to the claim again."
        )


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def print_complete(manifest: Manifest, out: TextIO) -> None:
    """Print the one line of progress of what was there already."""
    total_bytes = sum(file.size_bytes for file in manifest.files)
    progress = Progress(total_bytes, out)
    progress.skip(total_bytes)
    progress.finish()
