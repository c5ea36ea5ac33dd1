"""Writes generated files, or says how they differ from what would be written.

A folder of generated files belongs to its generator: a file that carries the mark and is no longer produced (a kind was
removed) is deleted, or counted as a difference. Files without the mark are never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_files(folder: Path, files: Mapping[str, str], *, mark: str) -> None:
    """Write each file (name to text) and delete marked files that are no longer produced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    for stale in _stale_files(folder, files, mark):
        stale.unlink()


def find_differences(folder: Path, files: Mapping[str, str], *, mark: str) -> list[str]:
    """Return one line for each file that `write_files` would change."""
    differences = [f"{folder / name} is out of date" for name, text in files.items() if _read(folder / name) != text]
    return differences + [f"{stale} is no longer generated" for stale in _stale_files(folder, files, mark)]


def _stale_files(folder: Path, files: Mapping[str, str], mark: str) -> list[Path]:
    present = sorted(folder.glob("*")) if folder.is_dir() else []
    return [path for path in present if path.is_file() and path.name not in files and mark in (_read(path) or "")]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
