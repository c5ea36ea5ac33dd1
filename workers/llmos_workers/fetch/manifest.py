"""manifest.json: what lies in a finished model folder, and how a later run knows that it is complete.

The manifest is written last, into the folder that is then renamed into place. A folder that has one is therefore
complete; whether it still is, is checked by sizes only (reading 100 GB again at every start would defeat the cache).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

MANIFEST_NAME: Final = "manifest.json"
_MAX_MANIFEST_BYTES: Final = 64 << 20


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class ManifestFile(_Entry):
    """One file of the folder."""

    path: Annotated[str, Field(min_length=1, max_length=512)]
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(_Entry):
    """The folder's files and where they came from. `digest` is that of the source's files, before any conversion."""

    format_version: int = 1
    source: Annotated[str, Field(max_length=2048)]
    revision: Annotated[str, Field(max_length=256)]
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    converted_from: str = ""
    files: Annotated[tuple[ManifestFile, ...], Field(max_length=20_000)]

    def write(self, folder: Path) -> Path:
        """Write the manifest into the folder and return its path."""
        path = folder / MANIFEST_NAME
        path.write_text(self.model_dump_json(by_alias=True, indent=1) + "\n")
        return path


def read_manifest(folder: Path) -> Manifest | None:
    """Read a folder's manifest; None where there is none that LLMOS wrote."""
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            return None
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def is_complete(folder: Path, manifest: Manifest) -> bool:
    """Whether every file of the manifest lies there with its size."""
    return all(_size_of(folder / file.path) == file.size_bytes for file in manifest.files)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
